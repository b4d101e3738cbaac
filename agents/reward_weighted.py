"""Runs `flexgym.agents.reward_weighted` as ``python -m agents.reward_weighted``."""

from flexgym.agents.reward_weighted import main

if __name__ == "__main__":
    main()
