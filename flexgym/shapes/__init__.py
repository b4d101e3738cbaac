"""A small world of colored shapes: scenes, captions, splits, and what verifies and judges them."""
