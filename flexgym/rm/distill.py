"""Distillation: reasoning traces of a teacher, of which those that can be trusted become rows to fine-tune on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from flexgym.judge.backends.base import Decoding, Reply
from flexgym.judge.protocol import JudgeFailure
from flexgym.rm.data import MediaStore, RowWriter, SFTRow, sft_row
from flexgym.rm.items import ItemOptions, batches, reason_lines, share_line
from flexgym.rm.replies import Asker, Query, read_trace

DISAGREES = "disagrees"
"""Why a trace is left out whose winner is not that of the people who were asked."""


@dataclass
class DistillReport:
    """How many traces came of how many pairs.

    Attributes:
        asked: pairs that the teacher was asked about, in this run or before.
        answered: those with a reply.
        parsed: those whose reply can be read and holds every rule.
        agreed: those whose winner is that of the label; a tie has none, and any winner agrees with it.
        kept: rows written.
        left_out: pairs that were not asked about, by reason.
        rejected: replies that were not kept, by reason.
    """

    asked: int = 0
    answered: int = 0
    parsed: int = 0
    agreed: int = 0
    kept: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """For people; every share is of the pairs asked about."""
        whole = self.asked
        steps = [share_line(name, getattr(self, name), whole) for name in ("answered", "parsed", "agreed", "kept")]
        lines = [f"asked: {self.asked:,} pairs", *steps]
        if self.rejected:
            lines += [share_line("rejected", self.rejected.total(), whole), *reason_lines(self.rejected, whole)]
        if self.left_out:
            lines += [f"not asked: {self.left_out.total():,} pairs", *reason_lines(self.left_out, 0)]
        return lines


def distill(
    asker: Asker, items: ItemOptions, out: str | Path, *, decoding: Decoding | None = None, overwrite: bool = False
) -> DistillReport:
    """Ask a teacher about every pair and write the traces that can be trusted.

    A trace is kept where it parses, where no two scores of it break the sum of ten, and where its winner is that of
    the pair's label.

    Args:
        asker: the teacher, with the file that keeps its replies.
        items: the pairs.
        out: the file of `SFTRow` to write; it appears when all of them are there. Embedded media go into a folder
            ``media`` beside it.
        decoding: greedy by default.
        overwrite: replace ``out`` where it is there.

    Raises:
        ConfigError: ``out`` cannot be written.
        DataError: the pairs cannot be read.
    """
    report = DistillReport()
    with RowWriter(out, overwrite=overwrite) as writer:
        store = MediaStore(writer.path.parent / "media")
        for queries in batches(items, report.left_out):
            replies = asker.ask(queries, decoding or Decoding())
            for query, reply in zip(queries, replies, strict=True):
                row = _row(query, reply, items, report=report)
                if row is not None:
                    writer.write(row.with_files(store.keep))
    return report


def _row(query: Query, reply: Reply | JudgeFailure, items: ItemOptions, *, report: DistillReport) -> SFTRow | None:
    """The row of a trace that is kept."""
    report.asked += 1
    report.answered += isinstance(reply, Reply)
    outcome = read_trace(reply, items.question.dialect)
    if isinstance(outcome, JudgeFailure):
        report.rejected[outcome.kind] += 1
        return None
    assert isinstance(reply, Reply), "what could be read was written"
    report.parsed += 1
    if query.pair.winner not in (None, outcome.side):
        report.rejected[DISAGREES] += 1
        return None
    report.agreed += 1
    report.kept += 1
    return sft_row(query.pair, reply.text, items.question)
