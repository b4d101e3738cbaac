"""The alpha of each category of captions for which a judge's advantages follow the truth best, found on validation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flexgym.algorithm.rollout import sample
from flexgym.core.files import write_atomic
from flexgym.flow.advantage import blended_advantages
from flexgym.generators.loader import load_generator
from flexgym.judge import Tournament, judge_groups
from flexgym.judge.protocol import Judge
from flexgym.shapes.captions import parse_caption
from flexgym.shapes.splits import draw_prompts
from flexgym.shapes.verifier import verify
from flexgym.types import GroupScores, Prompt, SampleGroup

ALPHAS = tuple(round(0.1 * step, 1) for step in range(11))
DEFAULT = 0.7
GROUP = 12


def alpha_rule(judge: Judge, source: Path, *, captions: int, file: Path) -> dict[str, float]:
    """Find the best alpha of each category; a rule that is there is read.

    Args:
        judge: whose verdicts become advantages.
        source: folder of an image pipeline.
        captions: number of captions of validation.
        file: where the rule is kept, with the agreement of every alpha.

    Returns:
        Alpha by category.
    """
    if not file.exists():
        groups = _groups(source, captions)
        tournament = Tournament(schedule="regular(4)", max_failure_share=1.0)
        scores = judge_groups(judge, groups, tournament=tournament)
        agreement = agreement_by_category(groups, scores)
        write_atomic(file, json.dumps({"alpha": best_alphas(agreement), "agreement": agreement}).encode())
    found: dict[str, float] = json.loads(file.read_text())["alpha"]
    return found


def _groups(source: Path, count: int) -> list[SampleGroup]:
    texts = draw_prompts("image", "validation", count, seed=0)
    prompts = [text for text in texts for _ in range(GROUP)]
    seeds = np.random.default_rng(0).integers(2**31, size=len(prompts)).tolist()
    samples = sample(load_generator(source, modality="image"), prompts, seeds=seeds, sampler="rollout")
    grouped = samples.reshape(count, GROUP, *samples.shape[1:])
    return [SampleGroup(Prompt(text), each) for text, each in zip(texts, grouped, strict=True)]


def agreement_by_category(groups: Sequence[SampleGroup], scores: Sequence[GroupScores]) -> dict[str, list[float]]:
    """Return the mean cosine between advantages and truth for each of `ALPHAS`, by category.

    Groups whose samples are all equally good say nothing and are left out.

    Args:
        groups: of samples.
        scores: of a tournament in each.
    """
    found: dict[str, list[list[float]]] = {}
    for group, score in zip(groups, scores, strict=True):
        truth = np.array([verify(group.prompt.text, each).score for each in group.samples])
        if np.ptp(truth) > 0 and score.terms:
            row = [_cosine(_advantages(score, alpha), truth - truth.mean()) for alpha in ALPHAS]
            found.setdefault(parse_caption(group.prompt.text).category, []).append(row)
    return {name: np.mean(rows, axis=0).tolist() for name, rows in found.items()}


def best_alphas(agreement: dict[str, list[float]]) -> dict[str, float]:
    """Return the alpha with the best agreement in each category; of equally good ones, that nearest to the paper's."""
    best = {}
    for name, values in agreement.items():
        top = [alpha for alpha, value in zip(ALPHAS, values, strict=True) if value >= max(values) - 1e-9]
        best[name] = min(top, key=lambda alpha: abs(alpha - DEFAULT))
    return best


def _advantages(score: GroupScores, alpha: float) -> NDArray[np.float32]:
    terms = {name: term[None] for name, term in score.terms.items()}
    return blended_advantages(terms, {"dim": alpha, "overall": 1.0 - alpha})[0]


def _cosine(one: NDArray[np.float32], other: NDArray[np.float64]) -> float:
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length else 0.0
