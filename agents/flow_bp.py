"""Runs `flexgym.agents.flow_bp` as ``python -m agents.flow_bp``."""

from flexgym.agents.launch import launch

if __name__ == "__main__":
    launch("flow_bp")
