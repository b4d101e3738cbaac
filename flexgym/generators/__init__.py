"""Diffusers flow-matching pipelines as policies: condition, velocity, decode."""

from __future__ import annotations

from flexgym.generators.base import FlowGenerator
from flexgym.generators.conditioning import Conditioning
from flexgym.generators.loader import load_generator, wrap_pipeline
from flexgym.generators.sampling import Sampling

__all__ = ["Conditioning", "FlowGenerator", "Sampling", "load_generator", "wrap_pipeline"]
