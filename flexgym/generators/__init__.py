"""Diffusers flow-matching pipelines as policies: condition, velocity, decode."""

from __future__ import annotations

from flexgym.generators.base import FlowGenerator
from flexgym.generators.conditioning import Conditioning
from flexgym.generators.family import Family
from flexgym.generators.loader import load_generator, wrap_pipeline
from flexgym.generators.sampling import Sampling
from flexgym.generators.weights import Weights

__all__ = ["Conditioning", "Family", "FlowGenerator", "Sampling", "Weights", "load_generator", "wrap_pipeline"]
