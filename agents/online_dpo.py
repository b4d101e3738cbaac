"""Runs `flexgym.agents.online_dpo` as ``python -m agents.online_dpo``."""

from flexgym.agents.online_dpo import main

if __name__ == "__main__":
    main()
