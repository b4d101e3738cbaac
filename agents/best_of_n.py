"""Runs `flexgym.agents.best_of_n` as ``python -m agents.best_of_n``."""

from flexgym.agents.launch import launch

if __name__ == "__main__":
    launch("best_of_n")
