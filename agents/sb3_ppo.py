"""Runs `flexgym.agents.sb3_ppo` as ``python -m agents.sb3_ppo``."""

from flexgym.agents.launch import launch

if __name__ == "__main__":
    launch("sb3_ppo")
