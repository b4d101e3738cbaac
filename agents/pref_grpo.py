"""Runs `flexgym.agents.pref_grpo` as ``python -m agents.pref_grpo``."""

from flexgym.agents.launch import launch

if __name__ == "__main__":
    launch("pref_grpo")
