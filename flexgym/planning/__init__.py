"""Plan the memory and time of a training before anything is loaded."""
