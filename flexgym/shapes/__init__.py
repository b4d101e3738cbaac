"""A small world of colored shapes: captions, scenes, a verifier and the embedded checkpoints."""
