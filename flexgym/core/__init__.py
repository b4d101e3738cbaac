"""Foundations below everything else: errors, files, YAML, locks, images, metrics, precision, sharding."""
