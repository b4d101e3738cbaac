"""Settings that cannot have an effect: rejected, or reported where published recipes have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flexgym.algorithm.base import ANCHOR, CURRENT, EMA, REFERENCE, Algorithm, Updates, check_needs, weight_copies
from flexgym.algorithm.process import ForwardProcess, VisitedSteps
from flexgym.algorithm.replay import OLD, REWARD_GRADIENT, mean_under
from flexgym.core.errors import ConfigError, nearest_name
from flexgym.core.problems import Problem, blamed
from flexgym.flow import ODE, Solver

_KEPT_WITH = {EMA: " It is kept with training.ema_decay above 0.", ANCHOR: " It is kept with training.anchor."}


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
    yield from _gate_problems(algorithm, updates)
    yield from _density_problems(algorithm)
    if algorithm.couples and updates.split == "samples":
        yield Problem(
            ("training", "split"),
            f"expected groups with {type(algorithm).__name__}, whose loss compares the samples of a group, got samples",
        )
    if REWARD_GRADIENT in algorithm.needs:
        yield from _gradient_problems(algorithm, updates)
    source = _drawn(algorithm)
    if distilled and source:
        yield Problem(
            ("algorithm", "levels", "source"),
            "expected grid with a generator whose steps were distilled (generator.distilled), which knows no noise"
            f" levels but those of its sampler, got {source}",
        )


def _gradient_problems(algorithm: Algorithm[Any], updates: Updates) -> Iterator[Problem]:
    for name in ("num_updates", "passes"):
        if (count := getattr(updates, name)) > 1:
            yield Problem(
                ("training", name),
                f"expected 1 with {type(algorithm).__name__}, whose gradients of the reward hold for the weights that"
                f" sampled, got {count}; for more optimizer steps lower rollout.prompts_per_iteration",
            )


def solver_misfit(algorithm: Algorithm[Any], solver: Solver, num_steps: int | None) -> str | None:
    """Return why a solver of the steps that are not trained cannot have an effect; None where it can.

    Args:
        algorithm: that trains.
        solver: of these steps.
        num_steps: denoising steps T; None where only the generator knows them.
    """
    if solver == "euler":
        return None
    if REWARD_GRADIENT in algorithm.needs:
        name = type(algorithm).__name__
        return f"expected euler with {name}, whose gradients are those of samples made by Euler steps, got {solver}"
    if num_steps is None:
        return None
    free, middle = algorithm.process.is_free, range(1, num_steps - 1)
    windows = algorithm.windows(num_steps).windows
    if any(free(step - 1, window) and free(step, window) for window in windows for step in middle):
        return None
    return (
        f"expected euler, got {solver}, which has no effect: no two neighboring steps before the last of {num_steps}"
        " lie outside the trained window; make algorithm.window smaller, or take more denoising steps"
    )


def precision_misfit(algorithm: Algorithm[Any], num_steps: int) -> str | None:
    """Return why steps that are not trained cannot have a precision of their own; None where they can.

    Args:
        algorithm: that trains.
        num_steps: denoising steps T.
    """
    free, windows = algorithm.process.is_free, algorithm.windows(num_steps).windows
    if any(free(step, window) for window in windows for step in range(num_steps)):
        return None
    return f"expected null with {type(algorithm).__name__}, which trains or follows every step of its rollouts"


def data_misfit(algorithm: Algorithm[Any], *, is_given: bool) -> str | None:
    """Return why an algorithm cannot train on a data set, or not without one; None where it can.

    Args:
        algorithm: that trains.
        is_given: whether a recipe has a data set.
    """
    name = type(algorithm).__name__
    if is_given and not isinstance(algorithm.process, ForwardProcess):
        return f"expected none with {name}, which trains steps of its own sampling; sft trains on a data set"
    if algorithm.data_only and not is_given:
        return f"expected a data set with {name}, which makes no samples of its own, got none"
    return None


def _gate_problems(algorithm: Algorithm[Any], updates: Updates) -> Iterator[Problem]:
    penalties = {name: each for name, each in algorithm.settings.penalties.items() if each.coeff}
    gated = [name for name, each in penalties.items() if each.gated]
    if updates.gate and not gated:
        message = "has no effect without a penalty that it gates: set gated: true for one of algorithm.penalties"
        yield Problem(("training", "gate"), message)
    if gated and not updates.gate:
        message = "has no effect without a gate: set training.gate with the monitors that it compares with"
        yield Problem(("algorithm", "penalties", gated[0], "gated"), message)
    if updates.anchor and ANCHOR not in penalties:
        message = f"has no effect without a penalty toward it: set algorithm.penalties.{ANCHOR}.coeff above 0"
        yield Problem(("training", "anchor"), message)


def _density_problems(algorithm: Algorithm[Any]) -> Iterator[Problem]:
    """Yield penalties by densities where the trained steps have no noise, so that there are none."""
    process = algorithm.process
    if not isinstance(process, VisitedSteps) or not isinstance(process.noise, ODE):
        return
    for name, each in algorithm.settings.penalties.items():
        if each.coeff and each.form == "gaussian":
            message = "expected mean, velocity or clean for steps without noise, which have no density, got gaussian"
            yield Problem(("algorithm", "penalties", name, "form"), message)


def _copy_problems(algorithm: Algorithm[Any], updates: Updates) -> Iterator[Problem]:
    copies = weight_copies(algorithm, updates)
    known = list(dict.fromkeys([REFERENCE, OLD, *copies]))
    wrong = [name for name in algorithm.settings.penalties if name not in known]
    for name in wrong:
        hint = _KEPT_WITH.get(name, "")
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
    free = [f"penalties.{name}" for name, each in settings.penalties.items() if not each.coeff]
    if free:
        notes.append(f"without effect: {_named(free)}. Set coeff above 0 for a penalty.")
    if settings.guidance.reference is not None and mean_under(REFERENCE) not in algorithm.requires:
        notes.append(
            f"without effect: {_named(['guidance.reference'])}. Neither the loss nor a penalty compares with the"
            " reference policy."
        )
    if settings.window != type(settings).model_fields["window"].default:
        if source := _drawn(algorithm):
            notes.append(f"without effect: {_named(['window'])}. The noise levels are drawn (levels.source: {source}).")
        elif REWARD_GRADIENT in algorithm.needs:
            notes.append(f"without effect: {_named(['window'])}. {type(algorithm).__name__} chooses its own steps.")
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
