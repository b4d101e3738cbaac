"""Runs `flexgym.agents.sft` as ``python -m agents.sft``."""

from flexgym.agents.sft import main

if __name__ == "__main__":
    main()
