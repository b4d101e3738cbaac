"""Units in which memory and disks are measured."""

GIB = 2**30
"""Bytes of a GiB."""
