"""Runs `flexgym.agents.matching` as ``python -m agents.matching``."""

from flexgym.agents.launch import launch

if __name__ == "__main__":
    launch("matching")
