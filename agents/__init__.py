"""Launchers of the agents in `flexgym.agents`: ``python -m agents.pref_grpo``."""
