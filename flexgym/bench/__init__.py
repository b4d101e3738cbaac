"""Throughput and memory of a training on this machine, by the code that trains: ``flexgym bench``."""
