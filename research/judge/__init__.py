"""Training of the embedded judge, a Qwen3-VL of 1.7 million parameters, from nothing to its figures."""
