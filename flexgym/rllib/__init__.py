"""Training with RLlib: the algorithm, its configuration and its learner. Needs Ray."""
