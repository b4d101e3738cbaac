"""Runs `flexgym.agents.drtune` as ``python -m agents.drtune``."""

from flexgym.agents.drtune import main

if __name__ == "__main__":
    main()
