"""What a training will need, told before anything is loaded: memory by phase and part, and time."""
