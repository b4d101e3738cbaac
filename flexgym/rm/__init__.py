"""Judge training: distill assessments, fine-tune on them, and align with DPO.

Only this package and `flexgym.rllib` need Ray; `flexgym.rm.data` does not.
"""
