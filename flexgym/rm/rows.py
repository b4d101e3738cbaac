"""Training rows in the form that TRL's collators take, with their lengths in tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from flexgym.judge.inputs import Inputs
from flexgym.rm.data import DPORow, IndexedRows, ReadOptions, RowError, SFTRow, as_chat, load_pictures

Example = dict[str, Any]
AnyRow = TypeVar("AnyRow", SFTRow, DPORow)


class TrainingRows:
    """The good rows of some files as TRL's examples; images are read when a row is accessed.

    Args:
        rows: rows by number, with lengths in tokens.
        as_example: converts a row to TRL's keys, all but ``images``.

    Attributes:
        lengths: tokens of each row, images included, int64 ``[N]``.
        report: counts of good and bad rows in the files.
    """

    def __init__(self, rows: IndexedRows[Any], as_example: Callable[[Any], Example]) -> None:
        self._rows, self._as_example = rows, as_example
        self.lengths: NDArray[np.int64] = rows.lengths
        self.report = rows.report

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Example:
        row = self._rows[number]
        return {"images": load_pictures(row.images, Inputs()), **self._as_example(row)}

    @property
    def example(self) -> Example:
        """Return the first row, from which TRL infers the kind of data."""
        return self[0]


@dataclass(frozen=True)
class RowForm:
    """Schema of the rows of a stage, and their conversion to TRL's examples.

    Attributes:
        schema: class of the rows.
        as_example: converts a row to TRL's keys, all but ``images``.
    """

    schema: type[SFTRow] | type[DPORow]
    as_example: Callable[[Any], Example]


def open_rows(
    files: Sequence[str], form: RowForm, *, processor: Any, longest: int, options: ReadOptions
) -> TrainingRows:
    """Read files once to check and measure every row.

    Args:
        files: JSON Lines or Parquet files.
        form: schema and conversion of the rows.
        processor: processor of the model.
        longest: tokens of the longest row that counts as good, images included.
        options: where images are, and how many bad rows are accepted.

    Raises:
        DataError: a file is missing, too many rows are bad, or no row is good.
    """
    measure = partial(checked_tokens, as_example=form.as_example, processor=processor, longest=longest)
    rows = IndexedRows.open(list(files), form.schema, options=options, measure=measure)
    return TrainingRows(rows, form.as_example)


def sft_example(row: SFTRow) -> Example:
    """Return prompt and completion, so that TRL computes the loss over the reply alone."""
    return {"prompt": as_chat(row.prompt), "completion": as_chat(row.messages[-1:])}


def dpo_example(row: DPORow) -> Example:
    """Return prompt, chosen and rejected reply."""
    return {"prompt": as_chat(row.prompt), "chosen": _reply(row.chosen), "rejected": _reply(row.rejected)}


def checked_tokens(row: AnyRow, *, as_example: Callable[[AnyRow], Example], processor: Any, longest: int) -> int:
    """Return the tokens of a row with its longest reply, images included.

    A row that is too long is bad rather than truncated: its reply would be trained in part, or silently not at all.

    Raises:
        RowError: the row is longer than ``longest``; of kind ``too_long``.
    """
    example = as_example(row)
    prompt = example.pop("prompt")
    replies = [_text_tokens(processor, prompt + reply) for reply in example.values()]
    tokens = max(replies) + _image_tokens(row, processor.image_processor)
    if tokens > longest:
        raise RowError("too_long", f"expected at most {longest} tokens, images included, got {tokens}")
    return tokens


def _text_tokens(processor: Any, messages: list[dict[str, Any]]) -> int:
    return len(processor.tokenizer.apply_chat_template(messages, return_dict=False))


def _image_tokens(row: SFTRow | DPORow, image_processor: Any) -> int:
    """Return the tokens of all images, less the placeholder of each that the text already counts."""
    sizes = [image.size for image in load_pictures(row.images)]
    merged = image_processor.merge_size**2
    patches = [image_processor.get_number_of_image_patches(height, width, {}) for width, height in sizes]
    return sum(count // merged - 1 for count in patches)


def _reply(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
