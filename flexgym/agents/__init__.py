"""Runnable algorithms: ``flexgym train pref_grpo``, or ``python -m agents.pref_grpo``."""
