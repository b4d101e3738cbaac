"""Runs `flexgym.agents.matching` as ``python -m agents.matching``."""

from flexgym.agents.matching import main

if __name__ == "__main__":
    main()
