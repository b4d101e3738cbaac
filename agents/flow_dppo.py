"""Runs `flexgym.agents.flow_dppo` as ``python -m agents.flow_dppo``."""

from flexgym.agents.launch import launch

if __name__ == "__main__":
    launch("flow_dppo")
