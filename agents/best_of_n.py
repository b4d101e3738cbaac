"""Runs `flexgym.agents.best_of_n` as ``python -m agents.best_of_n``."""

from flexgym.agents.best_of_n import main

if __name__ == "__main__":
    main()
