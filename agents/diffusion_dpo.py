"""Runs `flexgym.agents.diffusion_dpo` as ``python -m agents.diffusion_dpo``."""

from flexgym.agents.diffusion_dpo import main

if __name__ == "__main__":
    main()
