"""Rows in the form that TRL's collators take, with their lengths in tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from flexgym.judge.inputs import Inputs
from flexgym.rm.data import BadRows, DPORow, IndexedRows, ReadOptions, RowError, SFTRow, as_chat, load_pictures

if TYPE_CHECKING:
    from flexgym.rm.config import RewardModelConfig

Example = dict[str, Any]
AnyRow = TypeVar("AnyRow", SFTRow, DPORow)


class TrainingRows:
    """The good rows of some files as TRL's examples, opened when they are asked for.

    Args:
        rows: by number, with lengths in tokens.
        as_example: what TRL calls the parts of a row, all but its pictures.

    Attributes:
        lengths: tokens of each row, pictures included, int64 ``[N]``.
        report: what was found in the files.
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
        """One row, from which TRL sees what kind of data it gets."""
        return self[0]


@dataclass(frozen=True)
class RowForm:
    """How rows of one kind are written, and what TRL makes of them.

    Attributes:
        schema: of the rows.
        as_example: see `TrainingRows`.
    """

    schema: type[SFTRow] | type[DPORow]
    as_example: Callable[[Any], Example]


def open_rows(files: Sequence[str], config: RewardModelConfig, form: RowForm, *, processor: Any) -> TrainingRows:
    """Read files through: check every row and measure it.

    Args:
        files: JSON Lines or Parquet.
        config: says how long a row may be and how many bad rows are borne.
        form: of the rows.
        processor: of the model.

    Raises:
        DataError: a file is missing, too many rows are bad, or none is good.
    """
    measure = partial(checked_tokens, as_example=form.as_example, processor=processor, longest=config.longest_row)
    bad = BadRows(max_share=config.max_bad_share, min_rows=config.batch_size)
    options = ReadOptions(root=config.media_root, bad=bad)
    rows = IndexedRows.open(list(files), form.schema, options=options, measure=measure)
    return TrainingRows(rows, form.as_example)


def sft_example(row: SFTRow) -> Example:
    """Prompt and completion, so that the loss is taken over the reply alone."""
    return {"prompt": as_chat(row.prompt), "completion": as_chat(row.messages[-1:])}


def dpo_example(row: DPORow) -> Example:
    """Prompt and two replies."""
    return {"prompt": as_chat(row.prompt), "chosen": _reply(row.chosen), "rejected": _reply(row.rejected)}


def checked_tokens(row: AnyRow, *, as_example: Callable[[AnyRow], Example], processor: Any, longest: int) -> int:
    """Tokens of a row with its longest reply.

    A row that is too long is refused: cut off, its reply would be trained in part or, silently, not at all.

    Raises:
        RowError: of kind ``too_long``.
    """
    example = as_example(row)
    prompt = example.pop("prompt")
    replies = [_text_tokens(processor, prompt + reply) for reply in example.values()]
    tokens = max(replies) + _picture_tokens(row, processor.image_processor)
    if tokens > longest:
        raise RowError("too_long", f"expected at most {longest} tokens, pictures included, got {tokens}")
    return tokens


def _text_tokens(processor: Any, messages: list[dict[str, Any]]) -> int:
    return len(processor.tokenizer.apply_chat_template(messages, return_dict=False))


def _picture_tokens(row: SFTRow | DPORow, image_processor: Any) -> int:
    """Tokens of all pictures, less the one that each place in the text is already counted for."""
    sizes = [picture.size for picture in load_pictures(row.images)]
    merged = image_processor.merge_size**2
    patches = [image_processor.get_number_of_image_patches(height, width, {}) for width, height in sizes]
    return sum(count // merged - 1 for count in patches)


def _reply(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
