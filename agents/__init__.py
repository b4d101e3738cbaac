"""Runnable algorithms: ``python -m agents.pref_grpo``."""
