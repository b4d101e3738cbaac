"""Runs `flexgym.agents.v_grpo` as ``python -m agents.v_grpo``."""

from flexgym.agents.launch import launch

if __name__ == "__main__":
    launch("v_grpo")
