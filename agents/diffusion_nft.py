"""Runs `flexgym.agents.diffusion_nft` as ``python -m agents.diffusion_nft``."""

from flexgym.agents.diffusion_nft import main

if __name__ == "__main__":
    main()
