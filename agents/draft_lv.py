"""Runs `flexgym.agents.draft_lv` as ``python -m agents.draft_lv``."""

from flexgym.agents.launch import launch

if __name__ == "__main__":
    launch("draft_lv")
