"""Runs `flexgym.agents.grpo` as ``python -m agents.grpo``."""

from flexgym.agents.grpo import main

if __name__ == "__main__":
    main()
