"""Plan the memory (by phase and part) and the time of a training run before anything is loaded."""
