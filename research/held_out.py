"""Accuracy of an image generator on captions of a split, by the verifier and by the audit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from flexgym.algorithm.rollout import sample
from flexgym.audit import audit
from flexgym.core.files import write_atomic
from flexgym.generators.loader import load_generator
from flexgym.shapes.splits import draw_prompts
from flexgym.shapes.verifier import verify

Result = dict[str, Any]
_SEED = 7


def held_out(source: Path, split: str, *, count: int, file: Path) -> Result:
    """Draw captions, generate one sample of each, and check them; a result that is there is read.

    Args:
        source: folder of a pipeline.
        split: of the captions.
        count: of the captions, which are the same for every generator.
        file: where the result is kept: captions, and for each whether its sample is right, by both.
    """
    if not file.exists():
        captions = draw_prompts("image", split, count, seed=_SEED)
        seeds = np.random.default_rng(_SEED).integers(2**31, size=count).tolist()
        samples = sample(load_generator(source, modality="image"), captions, seeds=seeds, sampler="rollout")
        both = list(zip(captions, samples, strict=True))
        result = {
            "captions": captions,
            "verifier": [verify(caption, each).satisfied for caption, each in both],
            "audit": [audit(caption, each).satisfied for caption, each in both],
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(result).encode())
    found: Result = json.loads(file.read_text())
    return found
