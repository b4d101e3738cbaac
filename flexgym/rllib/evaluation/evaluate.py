"""Evaluate a run on a split of the small world."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flexgym.core.errors import ConfigError
from flexgym.core.urls import url_of
from flexgym.rllib.evaluation.policy import RunPolicy
from flexgym.rllib.evaluation.result import Evaluation, append_row, draw_disagreements
from flexgym.runs.checkpoints import run_of
from flexgym.runs.held_out import held_out_diversity, held_out_samples
from flexgym.runs.verification import Verification, audited
from flexgym.shapes.splits import draw_prompts
from flexgym.shapes.verifier import shares_met
from flexgym.types import Prompt

_PATHS = 128
"""Prompts on whose sampling paths the KL to the base is measured."""


@dataclass(frozen=True)
class Question:
    """Prompts of an evaluation.

    Attributes:
        split: ``"training"``, ``"validation"`` or ``"test"``.
        num_prompts: number of prompts; None takes that of the run's own verification.
        seed: of prompts and first latents; None takes that of the run's own verification.
    """

    split: str = "validation"
    num_prompts: int | None = None
    seed: int | None = None


def evaluate(run: str | Path, question: Question) -> Evaluation:
    """Sample before and after training from the same latents, and verify with both verifiers.

    With the split, number and seed of the run's own verification, the figures are those of its rows to the bit.

    Args:
        run: a run folder, whose newest complete checkpoint is taken, or one checkpoint in it.
        question: the prompts.

    Raises:
        CheckpointError: there is no complete checkpoint, or it is not that of an agent that trains a generator.
        ConfigError: the run is at a URL, or the split has fewer captions.
        UnknownNameError: there is no such split.
    """
    if url_of(run):
        raise ConfigError(f"{run}: expected a run folder on this machine, got a URL: copy the run here first")
    policy = RunPolicy.open(run)
    own = policy.settings.verification
    seed = own.seed if question.seed is None else question.seed
    count = own.num_prompts if question.num_prompts is None else question.num_prompts
    captions = draw_prompts(policy.modality, question.split, count, seed=seed)
    before = _verified(policy, captions, seed=seed)
    policy.take_trained()
    after = _verified(policy, captions, seed=seed)
    paths = [Prompt(text) for text in captions[:_PATHS]]
    kl = policy.kl(paths, seeds=range(seed, seed + len(paths)))
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return Evaluation(question.split, seed, policy.iteration, date=date, before=before, after=after, kl=kl)


@dataclass(frozen=True, eq=False)
class Recorded:
    """An evaluation that is recorded in its run folder.

    Attributes:
        evaluation: the figures.
        earlier: number of earlier evaluations of the run on the same split.
        drawn: where the disagreements of the verifiers were drawn; None if there are none.
    """

    evaluation: Evaluation
    earlier: int
    drawn: Path | None


def evaluate_and_record(run: str | Path, question: Question) -> Recorded:
    """Evaluate a run, add the row to its ``evaluations.jsonl``, and draw the disagreements of the verifiers.

    Args:
        run: see `evaluate`.
        question: the prompts.

    Raises:
        CheckpointError: see `evaluate`.
        ConfigError: see `evaluate`.
    """
    found, folder = evaluate(run, question), run_of(run)
    return Recorded(found, len(append_row(folder, found)), draw_disagreements(folder, found))


def _verified(policy: RunPolicy, captions: list[str], *, seed: int) -> Verification:
    prompts, chosen = (
        [Prompt(text) for text in captions],
        policy.settings.verification.model_copy(update={"seed": seed}),
    )
    samples = held_out_samples(prompts, seed, policy.samples)
    return Verification(
        captions,
        samples,
        scores=shares_met(captions, samples),
        diversity=held_out_diversity(prompts, samples, chosen, make=policy.samples),
        audited=audited(captions, samples),
    )
