"""Runs `flexgym.agents.opd` as ``python -m agents.opd``."""

from flexgym.agents.opd import main

if __name__ == "__main__":
    main()
