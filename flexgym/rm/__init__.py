"""Training the judge: distil assessments, fine-tune on them, align by DPO.

Only this package and `flexgym.rllib` need Ray, and `flexgym.rm.data` does without.
"""
