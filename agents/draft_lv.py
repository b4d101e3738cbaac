"""Runs `flexgym.agents.draft_lv` as ``python -m agents.draft_lv``."""

from flexgym.agents.draft_lv import main

if __name__ == "__main__":
    main()
