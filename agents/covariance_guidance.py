"""Runs `flexgym.agents.covariance_guidance` as ``python -m agents.covariance_guidance``."""

from flexgym.agents.covariance_guidance import main

if __name__ == "__main__":
    main()
