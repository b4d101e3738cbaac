"""Runs `flexgym.agents.diffusion_dpo` as ``python -m agents.diffusion_dpo``."""

from flexgym.agents.launch import launch

if __name__ == "__main__":
    launch("diffusion_dpo")
