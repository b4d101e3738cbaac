"""Algorithms without Ray: the contract (`base`), sampling (`policy`, `rollout`) and replay (`replay`).

`process` defines what is sampled and replayed, `advantages` turns scores into advantages, and `settings` holds the
settings that all algorithms share. A training loop in one file is `examples/grpo.py`.
"""
