"""Runs `flexgym.agents.refl` as ``python -m agents.refl``."""

from flexgym.agents.refl import main

if __name__ == "__main__":
    main()
