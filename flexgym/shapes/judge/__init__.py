"""Small judge of the embedded world, a Qwen3-VL of a few million parameters, and the scripts that create it."""
