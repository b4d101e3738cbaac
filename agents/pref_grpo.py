"""Runs `flexgym.agents.pref_grpo` as ``python -m agents.pref_grpo``."""

from flexgym.agents.pref_grpo import main

if __name__ == "__main__":
    main()
