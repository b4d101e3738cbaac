"""The first stage of the small judge, in which it learns to see (``python -m research.judge.pretrain``).

The result is a model that describes what two candidates show and which demands of the caption each misses. It knows
neither the form of an assessment nor how to decide. Fine-tuning (`flexgym.rm train sft`) teaches both, as it does a
published base model.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from flexgym.judge.inputs import Inputs, encode_sample
from flexgym.shapes.brief import seen
from research.judge.candidates import SOURCES, Candidates, draw_candidates, stills
from research.judge.checkpoint import DESCRIBE, NUM_FRAMES, build_image_processor, build_judge, save_judge
from research.muon import muon_and_adamw

logger = logging.getLogger(__name__)

SPLITS = ("training",)
_KINDS = ("image", "video")
_SORTED_TOGETHER = 8


@dataclass(frozen=True)
class Recipe:
    """Size of the first stage.

    Attributes:
        groups: captions with candidates, by kind; of each source as many.
        steps: optimizer steps; every other one trains on videos.
        batch_size: pairs of a step, by kind.
        learning_rate: of Muon; AdamW takes half.
        bfloat16: arithmetic of the forward, which processors with AVX512-BF16 do in half the time.
    """

    groups: dict[str, int]
    steps: int
    batch_size: dict[str, int]
    learning_rate: float
    bfloat16: bool = True

    def shorter(self, speed: float) -> Recipe:
        """Return a recipe that is shorter by the factor ``speed``."""
        groups = {kind: max(16, int(count / speed)) for kind, count in self.groups.items()}
        return replace(self, groups=groups, steps=max(2, int(self.steps / speed)))


RECIPE = Recipe({"image": 5000, "video": 3000}, 4200, {"image": 64, "video": 32}, 2e-3)


class PicturePool:
    """Groups of candidates with the patches of their images, as the judge gets them.

    Args:
        groups: of one kind.
    """

    def __init__(self, groups: Sequence[Candidates]) -> None:
        self.groups = groups
        processor, inputs = build_image_processor(), Inputs(num_frames=NUM_FRAMES)
        self._patches = [_patches(processor, inputs, group.samples) for group in groups]

    def stream(self, rng: np.random.Generator, count: int) -> Iterator[tuple[list[tuple[str, str]], Tensor]]:
        """Yield batches of pairs without end; texts of a batch have similar length, so that little of it is padding.

        Args:
            rng: draws them.
            count: B, pairs of a batch.

        Yields:
            Captions and descriptions of both candidates, and patches ``[B * images * patches, D]``.
        """
        while True:
            drawn = [self._pair(rng) for _ in range(_SORTED_TOGETHER * count)]
            drawn.sort(key=lambda pair: len(pair[0][0]) + len(pair[0][1]))
            for start in rng.permutation(_SORTED_TOGETHER) * count:
                texts, patches = zip(*drawn[start : start + count], strict=True)
                yield list(texts), torch.cat(patches).float()

    def _pair(self, rng: np.random.Generator) -> tuple[tuple[str, str], Tensor]:
        number = int(rng.integers(len(self.groups)))
        group = self.groups[number]
        places = rng.permutation(len(group.views))[:2]
        return (group.caption, _description(group, places)), self._patches[number][places].flatten(0, -2)


def _patches(processor: Any, inputs: Inputs, samples: NDArray[np.uint8]) -> Tensor:
    """Return patches ``[G, images, patches, D]`` in half precision, to save memory."""
    encoded = [encode_sample(sample, inputs) for sample in samples]
    images = [Image.open(io.BytesIO(picture.data)).convert("RGB") for pictures in encoded for picture in pictures]
    values = processor(images=images, return_tensors="pt")["pixel_values"]
    return values.half().unflatten(0, (len(samples), len(encoded[0]), -1))


def _description(group: Candidates, places: NDArray[np.intp]) -> str:
    media = group.views[0].spec.modality.capitalize()
    return "\n".join(f"{media} {n}: {seen(group.views[place])}" for n, place in enumerate(places, start=1))


class Batches:
    """Training batches of the first stage.

    Args:
        tokenizer: of the judge.
        config: of the judge, which holds the numbers of its special tokens.
    """

    def __init__(self, tokenizer: Any, config: Any) -> None:
        self._tokenizer = tokenizer
        self._image = config.image_token_id
        processor = build_image_processor()
        self._merged = processor.get_number_of_image_patches(32, 32, {}) // processor.merge_size**2
        self._grid = [1, *[int((self._merged * processor.merge_size**2) ** 0.5)] * 2]

    def collate(self, texts: Sequence[tuple[str, str]], patches: Tensor, images: int) -> dict[str, Tensor]:
        """Make the inputs of the model, with labels for the descriptions alone.

        Args:
            texts: captions and descriptions, B of them.
            patches: ``[B * images * patches, D]``.
            images: number of images of each row.
        """
        rows = [self._row(caption, description, images) for caption, description in texts]
        longest = max(len(prompt) + len(reply) for prompt, reply in rows)
        ids = torch.full((len(rows), longest), self._tokenizer.pad_token_id)
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for number, (prompt, reply) in enumerate(rows):
            end = len(prompt) + len(reply)
            ids[number, :end], mask[number, :end] = torch.tensor(prompt + reply), 1
            labels[number, len(prompt) : end] = torch.tensor(reply)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": labels,
            "mm_token_type_ids": (ids == self._image).int(),
            "pixel_values": patches,
            "image_grid_thw": torch.tensor([self._grid] * (len(rows) * images)),
        }

    def _row(self, caption: str, description: str, images: int) -> tuple[list[int], list[int]]:
        content = [*[{"type": "image"}] * images, {"type": "text", "text": DESCRIBE + json.dumps(caption)}]
        tokens = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, return_dict=False
        )
        repeats = ([token] * (self._merged if token == self._image else 1) for token in tokens)
        reply = self._tokenizer(description)["input_ids"] + [self._tokenizer.eos_token_id]
        return list(itertools.chain.from_iterable(repeats)), reply


def train(model: Any, batches: Batches, pools: dict[str, PicturePool], *, recipe: Recipe, seed: int) -> None:
    """Teach a model to describe.

    Args:
        model: trained in place.
        batches: make batches of pairs.
        pools: what pairs are drawn from, by kind.
        recipe: length and step size; the learning rate warms up, then falls linearly.
        seed: of the pairs.
    """
    rng = np.random.default_rng(seed)
    optimizers = muon_and_adamw(model, recipe.learning_rate, inside=("layers", "blocks"))
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    streams = {kind: pools[kind].stream(rng, recipe.batch_size[kind]) for kind in _KINDS}
    started, smooth = time.monotonic(), dict.fromkeys(_KINDS, 0.0)
    for step in range(recipe.steps):
        share = min(1.0, (step + 1) / 200, 1.05 * (recipe.steps - step) / recipe.steps)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * share
        kind = _KINDS[step % 2]
        texts, patches = next(streams[kind])
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            loss = model(**batches.collate(texts, patches, images=2 * (NUM_FRAMES if kind == "video" else 1))).loss
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        smooth[kind] += (loss.item() - smooth[kind]) * (0.05 if smooth[kind] else 1.0)
        if step % 50 == 49:
            losses = "  ".join(f"{kind} {value:.4f}" for kind, value in smooth.items())
            logger.info("step %d  loss of %s  %.0f s", step + 1, losses, time.monotonic() - started)


def draw_pools(recipe: Recipe, seed: int) -> dict[str, PicturePool]:
    """Draw candidates of both kinds, half of them rendered, and frames of the generated videos as images."""
    groups: dict[str, list[Candidates]] = {kind: [] for kind in _KINDS}
    for kind, source in itertools.product(_KINDS, SOURCES):
        drawn = draw_candidates(kind, source, splits=SPLITS, seed=seed)
        groups[kind] += itertools.islice(drawn, recipe.groups[kind])
    groups["image"] += stills(groups["video"][recipe.groups["video"] :], seed=seed)
    for kind, each in groups.items():
        logger.info("%d groups of %s candidates", len(each), kind)
    return {kind: PicturePool(each) for kind, each in groups.items()}


def main(
    *,
    out: Annotated[Path, typer.Option(help="the folder to write")] = Path("runs/judge/base"),
    seed: int = 0,
    start: Annotated[Path | None, typer.Option(help="a folder to start from")] = None,
    threads: int = 1,
    speed: Annotated[float, typer.Option(help="divide all lengths by this, to try the script out")] = 1.0,
) -> None:
    """Make the base of the small judge from nothing."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    recipe = RECIPE.shorter(speed)
    model, tokenizer = build_judge()
    if start:
        model.load_state_dict(type(model).from_pretrained(start).state_dict())
    pools = draw_pools(recipe, seed)
    train(model, Batches(tokenizer, model.config), pools, recipe=recipe, seed=seed)
    save_judge(model, tokenizer, out)
    logger.info("saved to %s", out)


if __name__ == "__main__":
    typer.run(main)
