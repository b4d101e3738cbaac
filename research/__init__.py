"""Scripts that made the shipped checkpoints; part of the source tree, not of the installed package."""
