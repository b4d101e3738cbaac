"""An evaluation for people: a table, and what there is to know beside it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from flexgym.rllib.evaluation.evaluate import Recorded
from flexgym.rllib.evaluation.result import RECORD, Evaluation
from flexgym.runs.verification import Verification


def table(evaluation: Evaluation) -> Table:
    """Return the figures before and after training, and their changes."""
    count, compositions = len(evaluation.prompts), evaluation.after.accuracy.compositions
    title = f"{count} {evaluation.split} prompts of {compositions} compositions, iteration {evaluation.iteration}"
    found = Table(title=title, title_justify="left")
    found.add_column("")
    for name in ("before", "after", "gain"):
        found.add_column(name, justify="right")
    found.add_row("accuracy", str(evaluation.before.accuracy), str(evaluation.after.accuracy), str(evaluation.gain))
    for name, *values in _rows(evaluation):
        found.add_row(name, *(f"{value:.3f}" for value in (*values, values[1] - values[0])))
    return found


def _rows(evaluation: Evaluation) -> Iterator[tuple[str, float, float]]:
    """Yield each other figure with its value before and after training."""
    before, after = evaluation.before, evaluation.after
    yield "audit", _audit(before), _audit(after)
    for name, share in after.accuracy.by_category.items():
        yield name, before.accuracy.by_category[name], share
    if before.diversity is not None and after.diversity is not None:
        yield "diversity", before.diversity, after.diversity


def _audit(found: Verification) -> float:
    assert found.audit is not None, "the prompts are captions"
    return found.audit.value


def remarks(recorded: Recorded) -> Iterator[str]:
    """Yield what there is to know beside the table."""
    found, earlier = recorded.evaluation, recorded.earlier
    where = f": {recorded.drawn}" if recorded.drawn else ""
    yield f"Verifier and audit agree on {found.agreement:.1%} of the samples{where}"
    if found.kl is not None:
        yield f"KL to the generator before training: {found.kl:.4g} nats per dimension"
    if earlier and found.split == "test":
        yield (
            f"The run was evaluated on test before ({earlier}x, all in {RECORD}): a figure that decided about settings"
            " is no test figure any more."
        )
