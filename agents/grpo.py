"""Runs `flexgym.agents.grpo` as ``python -m agents.grpo``."""

from flexgym.agents.launch import launch

if __name__ == "__main__":
    launch("grpo")
