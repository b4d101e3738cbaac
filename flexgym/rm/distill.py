"""Distill a teacher's reasoning traces: keep the trustworthy ones as rows for supervised fine-tuning."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from flexgym.data import MediaStore, RowWriter, SFTRow, sft_row
from flexgym.judge.backends.base import Decoding, Reply
from flexgym.judge.protocol import JudgeFailure
from flexgym.rm.items import ItemOptions, batches, reason_lines, share_line
from flexgym.rm.replies import Asker, Query, read_trace

DISAGREES = "disagrees"
"""Reason for rejecting a trace whose winner differs from the human label."""


@dataclass
class DistillReport:
    """Counts of pairs and traces in a distillation.

    Attributes:
        asked: number of pairs sent to the teacher, in this run or an earlier one.
        answered: number of pairs with a reply.
        parsed: number of replies that can be parsed and satisfy every rule.
        agreed: number of parsed replies whose winner equals the label's; any winner agrees with a tie.
        kept: number of written rows.
        left_out: number of pairs that were not sent, by reason.
        rejected: number of replies that were not kept, by reason.
    """

    asked: int = 0
    answered: int = 0
    parsed: int = 0
    agreed: int = 0
    kept: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """Return a human-readable summary; all percentages are relative to the pairs sent to the teacher."""
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
    """Send every pair to a teacher and write the trustworthy traces.

    A trace is kept if it can be parsed, the scores of every sub-dimension sum to 10, and its winner equals the label's.

    Args:
        asker: the teacher, with the file that stores its replies.
        items: the pairs.
        out: file of `SFTRow` to write; it appears when it is complete. Embedded media are stored in the folder
            ``media`` next to it.
        decoding: decoding settings; greedy by default.
        overwrite: replace ``out`` if it exists.

    Raises:
        ConfigError: if ``out`` cannot be written.
        DataError: if the pairs cannot be read.
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
    """Return the row of a trace to keep, or None; update the report."""
    report.asked += 1
    report.answered += isinstance(reply, Reply)
    outcome = read_trace(reply, items.question.dialect)
    if isinstance(outcome, JudgeFailure):
        report.rejected[outcome.kind] += 1
        return None
    assert isinstance(reply, Reply), "only a reply can be parsed"
    report.parsed += 1
    if query.pair.winner not in (None, outcome.side):
        report.rejected[DISAGREES] += 1
        return None
    report.agreed += 1
    report.kept += 1
    return sft_row(query.pair, reply.text, items.question)
