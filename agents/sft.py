"""Runs `flexgym.agents.sft` as ``python -m agents.sft``."""

from flexgym.agents.launch import launch

if __name__ == "__main__":
    launch("sft")
