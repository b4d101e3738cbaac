"""Preference pairs of the small world as files (``python -m research.judge.preferences pairs.jsonl``).

The label is the verifier's: the candidate that meets more of its caption wins, and of two that meet the same share the
better formed one. Pairs that tie in both are left out.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from flexgym.core.errors import check_names
from flexgym.core.terminal import teaching_errors
from flexgym.data import MediaFile, MediaStore, PreferencePair, write_rows
from flexgym.shapes.sampling import draw_caption, draw_spec
from flexgym.shapes.splits import SPLITS
from flexgym.types import MODALITIES, Modality
from research.judge.candidates import Candidates, draw_rendered
from research.judge.pools import generated_groups

ONE_WHOLE = "one_whole"
"""Pairs of which exactly one meets the whole caption."""
RULES = ("any", ONE_WHOLE)


def preference_pairs(groups: Iterator[Candidates], *, rule: str, seed: int, name: str) -> Iterator[PreferencePair]:
    """Yield pairs of candidates, each candidate in at most one, in which either side is as likely to win.

    Args:
        groups: of candidates.
        rule: which pairs are taken, one of `RULES`.
        seed: of the choice, and of the sides.
        name: of where they come from.
    """
    rng = np.random.default_rng(seed)
    for number, group in enumerate(groups):
        views, left = group.views, set(range(len(group.views)))
        for first, second in rng.permutation(list(itertools.permutations(left, 2))).tolist():
            one_whole = (views[first].share == 1.0) != (views[second].share == 1.0)
            differ = views[first].worth != views[second].worth and (one_whole or rule != ONE_WHOLE)
            if differ and {first, second} <= left:
                left -= {first, second}
                yield _pair(group, first, second, source=f"{name}/{number}-{first}-{second}")


def _pair(group: Candidates, first: int, second: int, *, source: str) -> PreferencePair:
    return PreferencePair(
        id=source,
        source=source.split("/")[0],
        category=group.spec.category,
        prompt=group.caption,
        kind="video" if group.samples.ndim == 5 else "image",
        first=_files(group.samples[first]),
        second=_files(group.samples[second]),
        winner=0 if group.views[first].worth > group.views[second].worth else 1,
    )


def _files(sample: NDArray[np.uint8]) -> tuple[MediaFile, ...]:
    return tuple(MediaFile(data=_png(frame)) for frame in (sample[None] if sample.ndim == 3 else sample))


def _png(frame: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG", compress_level=1)
    return file.getvalue()


@dataclass(frozen=True)
class PairSet:
    """Which pairs are wanted.

    Attributes:
        source: folder of a pipeline of the small world; None for rendered candidates.
        kind: ``"image"`` or ``"video"``.
        count: how many.
        split: of the captions.
        rule: see `preference_pairs`.
        seed: of everything that is drawn.
    """

    source: Path | None
    kind: Modality
    count: int
    split: str
    rule: str
    seed: int


def write_pairs(out: Path, pairs: PairSet) -> Path:
    """Write pairs to a file, and their images into a folder ``media`` beside it.

    Args:
        out: a file that is not there yet, ending in ``.jsonl``.
        pairs: which.

    Raises:
        ConfigError: the file is there, or of another kind.
        UnknownNameError: no such kind or split.
    """
    store = MediaStore(out.parent / "media")
    name = f"shapes-{pairs.kind}-{pairs.source.name if pairs.source else 'rendered'}"
    found = preference_pairs(_groups(pairs), rule=pairs.rule, seed=pairs.seed, name=name)
    return write_rows(out, (pair.with_files(store.keep) for pair in itertools.islice(found, pairs.count)))


def _groups(pairs: PairSet) -> Iterator[Candidates]:
    rng = np.random.default_rng(pairs.seed)
    specs = (draw_spec(rng, pairs.kind, pairs.split) for _ in itertools.count())
    if pairs.source is None:
        splits = tuple(dict.fromkeys((pairs.split, "training")))
        return (draw_rendered(rng, spec, splits=splits) for spec in specs)
    captions = (draw_caption(rng, spec) for spec in specs)
    return generated_groups(pairs.source, pairs.kind, captions, seed=pairs.seed)


def main(
    out: Annotated[Path, typer.Argument(help="the .jsonl file to write")],
    *,
    kind: Annotated[str, typer.Option(help="image or video")] = "image",
    source: Annotated[Path | None, typer.Option(help="folder of a pipeline; rendered candidates by default")] = None,
    count: int = 1000,
    split: Annotated[str, typer.Option(help="of the captions: training, validation or test")] = "training",
    rule: Annotated[str, typer.Option(help="any, or one_whole: exactly one meets the whole caption")] = "any",
    seed: int = 0,
) -> None:
    """Write preference pairs of the small world, labeled by its verifier."""
    with teaching_errors():
        check_names("rule", [rule], RULES)
        check_names("kind", [kind], MODALITIES)
        check_names("split", [split], SPLITS)
        write_pairs(out, PairSet(source, cast(Modality, kind), count, split, rule, seed))


if __name__ == "__main__":
    typer.run(main)
