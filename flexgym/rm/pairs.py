"""Pairs of traces for direct preference optimisation: two tries of the judge at one item, the better one chosen."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from flexgym.core.errors import ConfigError
from flexgym.judge.backends.base import Decoding, Reply
from flexgym.judge.protocol import JudgeFailure
from flexgym.rm.data import DPORow, MediaStore, RowWriter, dpo_row
from flexgym.rm.data.problems import row_error
from flexgym.rm.items import ItemOptions, batches, reason_lines, share_line
from flexgym.rm.replies import Asker, Query, read_trace
from flexgym.rm.trajectory import Contest, TrajectoryJudge

ONE_RIGHT = "one_right"
BOTH_RIGHT = "both_right"
_CASES = (ONE_RIGHT, BOTH_RIGHT, "both_wrong", "no_reply")


@dataclass(frozen=True)
class TraceSampling:
    """How the two traces of an item are sampled.

    Attributes:
        temperature: above 0.
        seeds: two that differ.
        max_tokens: of a trace.

    Raises:
        ConfigError: settings under which both traces would be the same.
    """

    temperature: float = 0.7
    seeds: tuple[int, int] = (0, 1)
    max_tokens: int = 2048

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"temperature: expected more than 0, at which two traces differ, got {self.temperature}")
        if self.seeds[0] == self.seeds[1]:
            raise ConfigError(f"seeds: expected two that differ, got {self.seeds[0]} twice")

    @property
    def decodings(self) -> tuple[Decoding, Decoding]:
        """Of the first and of the second trace."""
        base = Decoding(max_tokens=self.max_tokens, temperature=self.temperature)
        one, other = (dataclasses.replace(base, seed=seed) for seed in self.seeds)
        return one, other


@dataclass
class PairsReport:
    """What became of the items.

    Attributes:
        items: pairs that the judge was asked about twice.
        cases: how many of them by which traces are right: ``one_right``, ``both_right``, ``both_wrong``; ``no_reply``
            where a trace is missing.
        kept: rows written, by rule.
        discarded: items with a right trace that gave no row, by reason.
        left_out: pairs that were not asked about, by reason.
    """

    items: int = 0
    cases: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    discarded: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """For people; every share is of the items."""
        lines = [f"items: {self.items:,}"]
        lines += [share_line(case, self.cases[case], self.items) for case in _CASES]
        lines += [share_line("kept", self.kept.total(), self.items), *reason_lines(self.kept, self.items)]
        if self.discarded:
            lines += [share_line("discarded", self.discarded.total(), self.items)]
            lines += reason_lines(self.discarded, self.items)
        if self.left_out:
            lines += [f"not asked: {self.left_out.total():,} pairs", *reason_lines(self.left_out, 0)]
        return lines


class PairMaker:
    """Makes rows of a judge's traces.

    Args:
        asker: the judge, with the file that keeps its replies.
        trajectory: picks the better of two right traces; None discards such items, as the paper's ablation does.
        sampling: of the traces.

    Attributes:
        report: what became of the items up to now.
    """

    def __init__(
        self, asker: Asker, trajectory: TrajectoryJudge | None, *, sampling: TraceSampling | None = None
    ) -> None:
        self.report = PairsReport()
        self._asker = asker
        self._trajectory = trajectory
        self._decodings = (sampling or TraceSampling()).decodings

    def write(self, items: ItemOptions, out: str | Path, *, overwrite: bool = False) -> PairsReport:
        """Write one row for every item that has a better and a worse trace.

        Args:
            items: labelled pairs; those without a winner are left out whatever the options say, since no trace of them
                is right.
            out: the file of `DPORow` to write; it appears when all of them are there. Embedded media go into a folder
                ``media`` beside it.
            overwrite: replace ``out`` where it is there.

        Raises:
            ConfigError: ``out`` cannot be written, or the trajectory judge cannot judge such items.
            DataError: the pairs cannot be read.
        """
        labelled = dataclasses.replace(items, ties=False)
        with RowWriter(out, overwrite=overwrite) as writer:
            store = MediaStore(writer.path.parent / "media")
            for queries in batches(labelled, self.report.left_out):
                for row in self._rows(queries, labelled):
                    writer.write(row.with_files(store.keep))
        return self.report

    def _rows(self, queries: Sequence[Query], items: ItemOptions) -> Iterator[DPORow]:
        one, other = (self._asker.ask(queries, decoding) for decoding in self._decodings)
        contests = []
        for query, *replies in zip(queries, one, other, strict=True):
            self.report.items += 1
            if not (isinstance(replies[0], Reply) and isinstance(replies[1], Reply)):
                self.report.cases["no_reply"] += 1
                continue
            outcomes = [read_trace(reply, items.question.dialect) for reply in replies]
            contest = Contest(query, (replies[0].text, replies[1].text), (outcomes[0], outcomes[1]))
            right = [not isinstance(it, JudgeFailure) and it.side == query.pair.winner for it in outcomes]
            self.report.cases[("both_wrong", ONE_RIGHT, BOTH_RIGHT)[sum(right)]] += 1
            if sum(right) == 1:
                yield from self._row(contest, right.index(True), items, rule=ONE_RIGHT)
            elif all(right) and self._may_differ(contest):
                contests.append(contest)
        if self._trajectory is None or not contests:
            return
        for contest, better in zip(contests, self._trajectory.better(contests), strict=True):
            if better is None:
                self.report.discarded["undecided"] += 1
            else:
                yield from self._row(contest, better, items, rule=BOTH_RIGHT)

    def _may_differ(self, contest: Contest) -> bool:
        """Whether the trajectory judge is asked about two right traces."""
        if self._trajectory is None:
            self.report.discarded["both_right_left_out"] += 1
            return False
        if contest.replies[0] == contest.replies[1]:
            self.report.discarded["same_trace"] += 1
            return False
        return True

    def _row(self, contest: Contest, better: int, items: ItemOptions, *, rule: str) -> Iterator[DPORow]:
        """The row, unless the worse trace is none that can be trained on, such as one without a word."""
        chosen, rejected = contest.replies[better], contest.replies[1 - better]
        try:
            row = dpo_row(contest.query.pair, chosen, rejected, rule=rule, question=items.question)
        except ValidationError as error:
            self.report.discarded[f"rejected_{row_error(error).kind}"] += 1
            return
        self.report.kept[rule] += 1
        yield row
