"""Runs `flexgym.agents.diffusion_nft` as ``python -m agents.diffusion_nft``."""

from flexgym.agents.launch import launch

if __name__ == "__main__":
    launch("diffusion_nft")
