"""Training rows in the form that TRL's collators take, with their lengths in tokens."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from flexgym.config.judge import DataSettings
from flexgym.core.options import built_settings
from flexgym.data import DPORow, IndexedRows, ReadOptions, RowError, SFTRow, as_chat, load_pictures
from flexgym.data.media import AS_STORED, picture_sizes
from flexgym.judge.inputs import Inputs
from flexgym.judge.sources import read_judge_config
from flexgym.judge.special_tokens import SpecialTokens

Example = dict[str, Any]
AnyRow = TypeVar("AnyRow", SFTRow, DPORow)


class TrainingRows:
    """The good rows of some files as TRL's examples; images are read when a row is accessed.

    Args:
        rows: rows by number, with lengths in tokens.
        as_example: converts a row to TRL's keys, all but ``images``.
        inputs: how images are resized and encoded before they are trained on.

    Attributes:
        inputs: how images are resized and encoded before they are trained on.
        lengths: tokens of each row, images included, int64 ``[N]``.
        report: counts of good and bad rows in the files.
    """

    def __init__(self, rows: IndexedRows[Any], as_example: Callable[[Any], Example], inputs: Inputs) -> None:
        self._rows, self._as_example, self.inputs = rows, as_example, inputs
        self.lengths: NDArray[np.int64] = rows.lengths
        self.report = rows.report

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Example:
        row = self._rows[number]
        return {"images": load_pictures(row.images, self.inputs), **self._as_example(row)}

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


@dataclass(frozen=True)
class RowMeter:
    """Checks and measures rows as they are trained on.

    Args:
        processor: processor of the model.
        longest: tokens of the longest row that counts as good, images included.
        inputs: how images are resized and encoded before they are trained on.
    """

    processor: Any
    longest: int
    inputs: Inputs

    @cached_property
    def _special(self) -> SpecialTokens:
        return SpecialTokens(self.processor.tokenizer)

    def tokens(self, row: AnyRow, as_example: Callable[[AnyRow], Example]) -> int:
        """Return the tokens of a row with its longest reply, images included.

        A row that is too long is bad rather than truncated: its reply would be trained in part, or silently not at all.

        Raises:
            RowError: the row is longer than ``longest``, of kind ``too_long``; a text has a special token of the
                tokenizer, of kind ``special_token``; or the images are too large, or not for this model.
        """
        example = as_example(row)
        self._check_texts(example)
        prompt = example.pop("prompt")
        replies = [self._text_tokens(prompt + reply) for reply in example.values()]
        tokens = max(replies) + self._image_tokens(row)
        if tokens > self.longest:
            raise RowError("too_long", f"expected at most {self.longest} tokens, images included, got {tokens}")
        return tokens

    def _check_texts(self, example: Example) -> None:
        """Check that no text has a special token, which would not be read as text."""
        for key, messages in example.items():
            for message in messages:
                if token := self._special.found_in(_joined_texts(message)):
                    raise RowError(
                        "special_token",
                        f"{key}: expected texts without special tokens of the judge's tokenizer, got {token} in a"
                        f" message of the {message['role']}: remove it, or write it in other words",
                    )

    def _text_tokens(self, messages: list[dict[str, Any]]) -> int:
        return len(self.processor.tokenizer.apply_chat_template(messages, return_dict=False))

    def _image_tokens(self, row: SFTRow | DPORow) -> int:
        """Return the tokens of all images, less the placeholder of each that the text already counts."""
        images = self.processor.image_processor
        try:
            patches = [
                images.get_number_of_image_patches(height, width, {})
                for width, height in picture_sizes(row.images, self.inputs)
            ]
        except RowError:
            raise
        except ValueError as error:
            raise RowError("too_large", f"the judge's image processor rejects an image: {error}") from None
        return sum(count // images.merge_size**2 - 1 for count in patches)


def open_rows(files: Sequence[str], form: RowForm, *, meter: RowMeter, options: ReadOptions) -> TrainingRows:
    """Read files once to check and measure every row.

    Args:
        files: JSON Lines or Parquet files.
        form: schema and conversion of the rows.
        meter: checks and measures rows.
        options: where images are, and how many bad rows are accepted.

    Raises:
        DataError: a file is missing, too many rows are bad, or no row is good.
    """
    measure = partial(meter.tokens, as_example=form.as_example)
    rows = IndexedRows.open(list(files), form.schema, options=options, measure=measure)
    return TrainingRows(rows, form.as_example, meter.inputs)


def trained_inputs(data: DataSettings, source: str) -> Inputs:
    """Return how images are resized and encoded before a judge trains on them.

    Args:
        data: settings, which take precedence.
        source: the judge, whose ``judge_config.json`` is followed elsewhere; what it does not say leaves images as
            they are in their files.

    Raises:
        CheckpointError, ConfigError: ``judge_config.json`` is not valid.
    """
    given = {"format": data.image_format, "quality": data.image_quality, "max_side": data.max_side}
    stated = {name: value for name, value in given.items() if value is not None}
    plain = {"format": AS_STORED.format, "max_side": AS_STORED.max_side}
    return built_settings("inputs", Inputs, stated, defaults={**plain, **read_judge_config(source).inputs})


def sft_example(row: SFTRow) -> Example:
    """Return prompt and completion, so that TRL computes the loss over the reply alone."""
    return {"prompt": as_chat(row.prompt), "completion": as_chat(row.messages[-1:])}


def dpo_example(row: DPORow) -> Example:
    """Return prompt, chosen and rejected reply."""
    return {"prompt": as_chat(row.prompt), "chosen": _reply(row.chosen), "rejected": _reply(row.rejected)}


def _joined_texts(message: dict[str, Any]) -> list[str]:
    """Return the texts of a message, of which the chat template joins those without an image in between."""
    groups = itertools.groupby(message["content"], key=lambda part: part["type"])
    return ["".join(part["text"] for part in parts) for kind, parts in groups if kind == "text"]


def _reply(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]
