"""Runs `flexgym.agents.reward_weighted` as ``python -m agents.reward_weighted``."""

from flexgym.agents.launch import launch

if __name__ == "__main__":
    launch("reward_weighted")
