"""Runs `flexgym.agents.opd` as ``python -m agents.opd``."""

from flexgym.agents.launch import launch

if __name__ == "__main__":
    launch("opd")
