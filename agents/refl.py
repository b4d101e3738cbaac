"""Runs `flexgym.agents.refl` as ``python -m agents.refl``."""

from flexgym.agents.launch import launch

if __name__ == "__main__":
    launch("refl")
