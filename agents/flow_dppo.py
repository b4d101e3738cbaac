"""Runs `flexgym.agents.flow_dppo` as ``python -m agents.flow_dppo``."""

from flexgym.agents.flow_dppo import main

if __name__ == "__main__":
    main()
