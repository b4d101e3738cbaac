"""Runs `flexgym.agents.dgpo` as ``python -m agents.dgpo``."""

from flexgym.agents.dgpo import main

if __name__ == "__main__":
    main()
