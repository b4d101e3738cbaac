"""Foundations that everything else builds on: errors, files, YAML, locks, image reading, precision, sharding."""
