"""Settings that cannot have an effect: rejected, or reported where published recipes have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flexgym.algorithm.base import CURRENT, EMA, REFERENCE, Algorithm, Updates, check_needs, weight_copies
from flexgym.algorithm.process import ForwardProcess
from flexgym.algorithm.replay import OLD
from flexgym.core.errors import ConfigError, nearest_name
from flexgym.core.problems import Problem, blamed


def effect_problems(algorithm: Algorithm[Any], updates: Updates, *, distilled: bool) -> Iterator[Problem]:
    """Yield what cannot work between an algorithm, the updates of an iteration and the generator.

    Args:
        algorithm: that trains.
        updates: of an iteration.
        distilled: whether the steps of the generator were distilled.

    Yields:
        Problems with paths from the top of a recipe.
    """
    yield from _copy_problems(algorithm, updates)
    if algorithm.couples and updates.split == "samples":
        yield Problem(
            ("training", "split"),
            f"expected groups with {type(algorithm).__name__}, whose loss compares the samples of a group, got samples",
        )
    source = _drawn(algorithm)
    if distilled and source:
        yield Problem(
            ("algorithm", "levels", "source"),
            "expected grid with a generator whose steps were distilled (generator.distilled), which knows no noise"
            f" levels but those of its sampler, got {source}",
        )


def _copy_problems(algorithm: Algorithm[Any], updates: Updates) -> Iterator[Problem]:
    copies = weight_copies(algorithm, updates)
    known = list(dict.fromkeys([REFERENCE, OLD, *copies]))
    wrong = [name for name in algorithm.settings.penalties if name not in known]
    for name in wrong:
        hint = " It is kept with training.ema_decay above 0." if name == EMA else ""
        message = f"training keeps no weights {name!r}.{hint} {nearest_name(name, known)}"
        yield Problem(("algorithm", "penalties", name), message, unknown=True)
    if wrong:
        return
    try:
        check_needs(algorithm, copies)
    except ConfigError as error:
        yield Problem(("algorithm", *blamed(dict(algorithm.settings), str(error))), str(error))


def effect_notes(algorithm: Algorithm[Any], updates: Updates) -> list[str]:
    """Return a sentence about each kind of setting that has no effect and does no harm.

    Args:
        algorithm: that trains.
        updates: of an iteration.
    """
    notes, settings = [], algorithm.settings
    idle = [*algorithm.off_policy, *([f"penalties.{OLD}"] if OLD in settings.penalties else [])]
    if idle and _on_policy(algorithm, updates):
        notes.append(
            f"without effect: {_named(idle)}. An iteration has one optimizer step (training.num_updates,"
            " training.passes), in which the weights are still those that sampled."
        )
    if (source := _drawn(algorithm)) and settings.window != type(settings).model_fields["window"].default:
        notes.append(f"without effect: {_named(['window'])}. The noise levels are drawn (levels.source: {source}).")
    return notes


def _named(settings: list[str]) -> str:
    return ", ".join(f"algorithm.{name}" for name in settings)


def _on_policy(algorithm: Algorithm[Any], updates: Updates) -> bool:
    """Return whether every likelihood ratio is 1: the weights and the guidance are those that sampled."""
    guidance = algorithm.settings.guidance
    alike = guidance.training == guidance.rollout or not algorithm.process.keeps_old
    return updates.num_updates * updates.passes == 1 and algorithm.acts == CURRENT and alike


def _drawn(algorithm: Algorithm[Any]) -> str:
    """Return where noise levels that are drawn come from; empty where the steps of the window are trained."""
    process = algorithm.process
    source = process.draw.source if isinstance(process, ForwardProcess) else "grid"
    return "" if source == "grid" else source
