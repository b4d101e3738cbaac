"""Runs `flexgym.agents.sb3_ppo` as ``python -m agents.sb3_ppo``."""

from flexgym.agents.sb3_ppo import main

if __name__ == "__main__":
    main()
