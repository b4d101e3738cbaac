"""Runs `flexgym.agents.compare` as ``python -m agents.compare``."""

from flexgym.agents.launch import launch

if __name__ == "__main__":
    launch("compare")
