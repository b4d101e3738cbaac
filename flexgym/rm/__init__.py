"""Judge training: distill assessments, fine-tune on them, and align with DPO.

Training needs Ray: the modules `algorithm`, `build`, `config`, `learner`, `module` and `trainable` import it. Data, dry
runs and evaluation do not.
"""
