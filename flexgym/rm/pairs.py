"""Create pairs for direct preference optimization (DPO): sample two traces per item and choose the better one."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from flexgym.core.errors import ConfigError
from flexgym.data import DPORow, MediaStore, RowWriter, dpo_row
from flexgym.data.problems import row_error
from flexgym.judge.backends.base import Decoding, Reply
from flexgym.judge.protocol import JudgeFailure
from flexgym.rm.items import ItemOptions, batches, reason_lines, share_line
from flexgym.rm.replies import Asker, Query, read_trace
from flexgym.rm.trajectory import Contest, TrajectoryJudge

ONE_RIGHT = "one_right"
BOTH_RIGHT = "both_right"
_CASES = (ONE_RIGHT, BOTH_RIGHT, "both_wrong", "no_reply")


@dataclass(frozen=True)
class TraceSampling:
    """Sampling settings of the two traces of an item.

    Attributes:
        temperature: sampling temperature, above 0.
        seeds: two different seeds.
        max_tokens: maximum length of a trace, in tokens.

    Raises:
        ConfigError: if both traces would be identical.
    """

    temperature: float = 0.7
    seeds: tuple[int, int] = (0, 1)
    max_tokens: int = 2048

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"temperature: expected a value above 0, so that traces differ, got {self.temperature}")
        if self.seeds[0] == self.seeds[1]:
            raise ConfigError(f"seeds: expected two different seeds, got {self.seeds[0]} twice")

    @property
    def decodings(self) -> tuple[Decoding, Decoding]:
        """Return the decoding settings of the first and of the second trace."""
        base = Decoding(max_tokens=self.max_tokens, temperature=self.temperature)
        one, other = (dataclasses.replace(base, seed=seed) for seed in self.seeds)
        return one, other


@dataclass
class PairsReport:
    """Counts of items by outcome.

    Attributes:
        items: number of pairs for which two traces were requested.
        cases: number of items by which traces are right: ``one_right``, ``both_right``, ``both_wrong``, or ``no_reply``
            if a trace is missing.
        kept: number of written rows, by rule.
        discarded: number of items with a right trace that did not give a row, by reason.
        left_out: number of pairs that were not sent, by reason.
    """

    items: int = 0
    cases: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    discarded: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """Return a human-readable summary; all percentages are relative to the items."""
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
    """Creates DPO rows from a judge's traces.

    Args:
        asker: the judge, with the file that stores its replies.
        trajectory: selects the better of two right traces; None discards such items, as in the paper's ablation.
        sampling: sampling settings of the traces.

    Attributes:
        report: counts so far.
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
            items: labeled pairs. Ties are always skipped, since no trace of them is right.
            out: file of `DPORow` to write; it appears when it is complete. Embedded media are stored in the folder
                ``media`` next to it.
            overwrite: replace ``out`` if it exists.

        Raises:
            ConfigError: if ``out`` cannot be written, or the trajectory judge does not support the items.
            DataError: if the pairs cannot be read.
        """
        labeled = dataclasses.replace(items, ties=False)
        with RowWriter(out, overwrite=overwrite) as writer:
            store = MediaStore(writer.path.parent / "media")
            for queries in batches(labeled, self.report.left_out):
                for row in self._rows(queries, labeled):
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
            elif all(right) and self._needs_decision(contest):
                contests.append(contest)
        if self._trajectory is None or not contests:
            return
        for contest, better in zip(contests, self._trajectory.better(contests), strict=True):
            if better is None:
                self.report.discarded["undecided"] += 1
            else:
                yield from self._row(contest, better, items, rule=BOTH_RIGHT)

    def _needs_decision(self, contest: Contest) -> bool:
        """Return True if the trajectory judge should decide between two right traces; otherwise count why not."""
        if self._trajectory is None:
            self.report.discarded["both_right_left_out"] += 1
            return False
        if contest.replies[0] == contest.replies[1]:
            self.report.discarded["same_trace"] += 1
            return False
        return True

    def _row(self, contest: Contest, better: int, items: ItemOptions, *, rule: str) -> Iterator[DPORow]:
        """Yield the row, unless the worse trace cannot be trained on, such as an empty one."""
        chosen, rejected = contest.replies[better], contest.replies[1 - better]
        try:
            row = dpo_row(contest.query.pair, chosen, rejected, rule=rule, question=items.question)
        except ValidationError as error:
            self.report.discarded[f"rejected_{row_error(error).kind}"] += 1
            return
        self.report.kept[rule] += 1
        yield row
