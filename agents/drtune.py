"""Runs `flexgym.agents.drtune` as ``python -m agents.drtune``."""

from flexgym.agents.launch import launch

if __name__ == "__main__":
    launch("drtune")
