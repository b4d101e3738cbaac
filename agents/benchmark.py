"""Runs `flexgym.agents.benchmark` as ``python -m agents.benchmark``."""

from flexgym.agents.launch import launch

if __name__ == "__main__":
    launch("benchmark")
