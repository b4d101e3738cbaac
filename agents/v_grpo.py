"""Runs `flexgym.agents.v_grpo` as ``python -m agents.v_grpo``."""

from flexgym.agents.v_grpo import main

if __name__ == "__main__":
    main()
