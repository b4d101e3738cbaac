"""An independent verifier."""
