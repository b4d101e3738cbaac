"""Runs `flexgym.agents.dgpo` as ``python -m agents.dgpo``."""

from flexgym.agents.launch import launch

if __name__ == "__main__":
    launch("dgpo")
