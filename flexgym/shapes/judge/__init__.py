"""The small judge of the embedded world: a Qwen3-VL of a few million parameters, and how it is made."""
