"""Runs `flexgym.agents.covariance_guidance` as ``python -m agents.covariance_guidance``."""

from flexgym.agents.launch import launch

if __name__ == "__main__":
    launch("covariance_guidance")
