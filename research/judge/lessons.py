"""Lessons of the small judge: requests with the replies that it should give, as tensors.

A lesson of one step follows from the seed and the number of the step alone. Its rows share samples: three samples of
one caption make three pairs, in each of which another one is first, so the model sees every sample once and judges it
twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from flexgym.judge.dialect import FLEX
from flexgym.shapes.brief import View, brief_assessment, seen, view
from flexgym.shapes.sampling import draw_spec
from flexgym.shapes.scenes import FRAMES, SIZE
from flexgym.types import MODALITIES, Modality
from research.judge.candidates import Candidates, draw_rendered
from research.judge.checkpoint import DESCRIBE, PATCH, build_tokenizer
from research.judge.pools import Pool
from research.judge.wear import as_seen, ruined, worn

MERGE = 2
"""Patches along each side of a token of the language model."""
SIDE = SIZE // PATCH // MERGE
"""Tokens along each side of an image."""
LENGTHS = {"image": 1, "video": FRAMES}
"""Images of a sample."""
GROUPS = {"image": 8, "video": 3}
"""Captions of one step, each with three samples."""
_PAIRS = ((0, 1), (1, 2), (2, 0))
_RUINED = (0.87, 0.08, 0.04, 0.01)
"""Shares of the groups in which none, one, two and all of the samples are unreadable."""
_RENDERED, _STILLS = "rendered", "stills"


@dataclass(frozen=True)
class Phase:
    """A part of the training.

    Attributes:
        name: of the phase.
        steps: how many.
        described: share of the steps in which single samples are described; in all others pairs are judged.
        sources: share of the groups from each source of images or videos: ``"rendered"`` scenes, ``"stills"`` of the
            generated videos, or the name of a pool. A source that a kind does not have leaves its share to the others.
        trains_sight: train the vision tower as well.
    """

    name: str
    steps: int
    described: float
    sources: Mapping[str, float] = field(default_factory=lambda: {_RENDERED: 1.0})
    trains_sight: bool = True


class Batch(NamedTuple):
    """Tensors of one step: S samples of F images, and B rows of at most T tokens, of which L are to be learned.

    Attributes:
        frames: uint8 ``[S, F, 32, 32, 3]``.
        shown: index of the images of all rows, one row after the other, int64 ``[B * images]``.
        tokens: ``[B, T]``.
        positions: of the tokens in time, height and width, ``[3, B, T]``.
        places: indices of the tokens after which one is to be learned, in the flattened ``tokens``, ``[L]``.
        targets: the tokens to be learned, ``[L]``.
    """

    frames: Tensor
    shown: Tensor
    tokens: Tensor
    positions: Tensor
    places: Tensor
    targets: Tensor


class Row(NamedTuple):
    """A request and its reply: the places of the samples, and the tokens of both texts, without the images."""

    samples: tuple[int, ...]
    request: list[int]
    reply: list[int]


class Writer:
    """Tokens of requests and replies.

    Args:
        tokenizer: of the judge.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._image = tokenizer.convert_tokens_to_ids("<|image_pad|>")

    def pair(self, caption: str, kind: Modality, views: tuple[View, View], *, samples: tuple[int, int]) -> Row:
        """Write the request to compare two samples, and the short assessment."""
        counts = (LENGTHS[kind], LENGTHS[kind])
        text = FLEX.template(kind).fill(caption, kind, counts)
        return self._row(samples, text, brief_assessment(*views))

    def description(self, caption: str, one: View, *, sample: int) -> Row:
        """Write the request to describe a sample, and the description."""
        return self._row((sample,), DESCRIBE + json.dumps(caption), seen(one))

    def _row(self, samples: tuple[int, ...], text: str, reply: str) -> Row:
        tokens = self._tokenizer(text)["input_ids"]
        return Row(samples, tokens, [*self._tokenizer(reply)["input_ids"], self._tokenizer.eos_token_id])

    def frame(self, images: int) -> tuple[list[int], list[int]]:
        """Return the tokens before and after the text of a request, with those of its images."""
        content = [*[{"type": "image"}] * images, {"type": "text", "text": "~"}]
        around = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, return_dict=False
        )
        (mark,) = self._tokenizer("~")["input_ids"]
        end = len(around) - 1 - around[::-1].index(mark)
        before = [token for each in around[:end] for token in [each] * (SIDE**2 if each == self._image else 1)]
        return before, around[end + 1 :]

    def batch(self, rows: Sequence[Row], frames: NDArray[np.uint8]) -> Batch:
        """Collect rows about the same number of samples, padded at the end.

        Args:
            rows: B of them.
            frames: uint8 ``[S, F, 32, 32, 3]``.
        """
        length = frames.shape[1]
        before, after = self.frame(length * len(rows[0].samples))
        texts = [before + row.request + after + row.reply for row in rows]
        longest = max(map(len, texts))
        tokens = torch.full((len(rows), longest), self._tokenizer.pad_token_id)
        places: list[int] = []
        targets: list[int] = []
        for number, (row, text) in enumerate(zip(rows, texts, strict=True)):
            tokens[number, : len(text)] = torch.tensor(text)
            places += range(number * longest + len(text) - len(row.reply) - 1, number * longest + len(text) - 1)
            targets += row.reply
        shown = [sample * length + frame for row in rows for sample in row.samples for frame in range(length)]
        return Batch(
            torch.from_numpy(frames),
            torch.tensor(shown),
            tokens,
            self._positions(before, longest)[:, None].expand(-1, len(rows), -1),
            torch.tensor(places),
            torch.tensor(targets),
        )

    def _positions(self, before: Sequence[int], length: int) -> Tensor:
        """Return where tokens are in time, height and width, ``[3, T]``."""
        rows, column, place = [], np.arange(SIDE**2), 0
        index = 0
        while index < len(before):
            if before[index] == self._image:
                rows.append(place + np.stack([0 * column, column // SIDE, column % SIDE]))
                index, place = index + SIDE**2, place + SIDE
            else:
                rows.append(np.full((3, 1), place))
                index, place = index + 1, place + 1
        rows.append(np.broadcast_to(place + np.arange(length - len(before)), (3, length - len(before))))
        return torch.from_numpy(np.concatenate(rows, axis=1))


class Lessons(Dataset[Batch]):
    """The lessons of one phase by the number of the step.

    Args:
        phase: what is taught.
        pools: folders of the pools by kind and name.
        seed: of all draws.
    """

    def __init__(self, phase: Phase, pools: Mapping[Modality, Mapping[str, Path]], *, seed: int) -> None:
        self._phase, self._folders, self._seed = phase, pools, seed

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self._seed, step])
        kind: Modality = MODALITIES[step % len(MODALITIES)]
        describes = rng.random() < self._phase.described
        groups = [self._group(rng, kind) for _ in range(GROUPS[kind])]
        frames: list[NDArray[np.uint8]] = []
        rows: list[Row] = []
        for group in groups:
            start = len(frames)
            pictures, views = shown_worn(rng, group)
            frames += pictures
            if describes:
                rows += [
                    self._writer.description(group.caption, one, sample=start + place)
                    for place, one in enumerate(views)
                ]
                continue
            for first, second in _PAIRS:
                both = (views[first], views[second])
                rows.append(self._writer.pair(group.caption, kind, both, samples=(start + first, start + second)))
        return self._writer.batch(rows, np.stack(frames))

    @cached_property
    def _writer(self) -> Writer:
        return Writer(build_tokenizer())

    @cached_property
    def _pools(self) -> dict[Modality, dict[str, Pool]]:
        return {kind: {name: Pool(folder) for name, folder in named.items()} for kind, named in self._folders.items()}

    def _group(self, rng: np.random.Generator, kind: Modality) -> Candidates:
        known = {_RENDERED, *self._folders.get(kind, ()), *([_STILLS] if kind == "image" else [])}
        shares = {name: share for name, share in self._phase.sources.items() if name in known}
        names = list(shares)
        name = names[rng.choice(len(names), p=np.array([*shares.values()]) / sum(shares.values()))]
        if name == _RENDERED:
            return draw_rendered(rng, draw_spec(rng, kind, "training"), splits=("training",))
        if name == _STILLS:
            return next(iter(self._pools["video"].values())).draw_stills(rng)
        return self._pools[kind][name].draw(rng)


def shown_worn(rng: np.random.Generator, group: Candidates) -> tuple[list[NDArray[np.uint8]], list[View]]:
    """Return the worn pixels of candidates as the judge sees them, and what it should see.

    Some samples become unreadable; all others are described as they were before the wear.
    """
    order = rng.permutation(len(group.views))
    spoiled = set(order[: rng.choice(len(_RUINED), p=_RUINED)].tolist())
    pictures, views = [], []
    for place, (pixels, one) in enumerate(zip(group.samples, group.views, strict=True)):
        frames = pixels if pixels.ndim == 4 else pixels[None]
        if place in spoiled:
            frames = ruined(rng, frames)
            one = unread(group.caption, pixels)
        pictures.append(as_seen(worn(rng, frames)))
        views.append(one)
    return pictures, views


def unread(caption: str, like: NDArray[np.uint8]) -> View:
    """Return the view of a sample that shows nothing.

    Args:
        caption: of the small world.
        like: a sample of the same form.
    """
    return view(caption, np.full_like(like, 255))


def patches(frames: Tensor) -> Tensor:
    """Split images into patches as the judge's image processor does, in its order.

    Args:
        frames: uint8 ``[N, 32, 32, 3]``.

    Returns:
        float32 ``[N * patches, D]``.
    """
    side = SIZE // PATCH // MERGE
    values = frames.float().div(127.5).sub(1.0)
    blocks = values.view(-1, side, MERGE, PATCH, side, MERGE, PATCH, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    # An image is repeated to two frames, which the model takes together.
    return blocks[:, :, :, :, :, :, None].expand(-1, -1, -1, -1, -1, -1, 2, -1, -1).reshape(-1, 2 * 3 * PATCH**2)
