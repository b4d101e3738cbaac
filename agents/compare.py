"""Runs `flexgym.agents.compare` as ``python -m agents.compare``."""

from flexgym.agents.compare import main

if __name__ == "__main__":
    main()
