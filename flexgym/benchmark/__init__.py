"""Algorithms side by side: a plan of runs, their results, statistics with intervals, and a page."""
