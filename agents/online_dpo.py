"""Runs `flexgym.agents.online_dpo` as ``python -m agents.online_dpo``."""

from flexgym.agents.launch import launch

if __name__ == "__main__":
    launch("online_dpo")
