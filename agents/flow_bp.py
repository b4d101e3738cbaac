"""Runs `flexgym.agents.flow_bp` as ``python -m agents.flow_bp``."""

from flexgym.agents.flow_bp import main

if __name__ == "__main__":
    main()
