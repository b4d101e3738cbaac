"""Search training samples for held-out compositions: ``python -m research.leaks --count 100000``.

Half of the samples are images and half videos, drawn as pretraining and fine-tuning draw them. What each shows is
named twice, by the meaning that it was drawn for and by the audit from its pixels. Chunks that are finished are left
alone, so the same command continues after a stop, and a larger ``--count`` adds samples. The exit status is 1 after a
leak.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from flexgym.audit import shown
from flexgym.core.files import write_atomic
from flexgym.core.intervals import wilson
from flexgym.core.json_text import read_json_file
from flexgym.core.options import check_count
from flexgym.core.terminal import say, teaching_errors
from flexgym.shapes.captions import Spec
from flexgym.shapes.sampling import draw_clip, draw_scene, draw_spec, with_colors
from flexgym.shapes.scenes import render, render_video
from flexgym.shapes.splits import compositions, split_of_composition
from flexgym.types import MODALITIES

CHUNK = 500
"""Samples of a chunk, which is kept once it is finished."""
_KEPT = 20
"""Leaks of a chunk that are kept word for word; more are counted."""
_FOUND = ("spec", "audit", "agrees")
_COLUMNS = ("modality", "category", "samples", "leaks by spec", "leaks by audit", "audit names all as drawn")


@dataclass(frozen=True)
class Sight:
    """Held-out compositions that a sample shows, found in two ways.

    Attributes:
        by_spec: held-out compositions of the meaning that it was drawn for, those of its caption included.
        by_audit: held-out compositions that the audit sees.
        agrees: whether the audit names exactly the compositions of the scene.
    """

    by_spec: tuple[str, ...]
    by_audit: tuple[str, ...]
    agrees: bool


@dataclass(frozen=True)
class Chunk:
    """Neighboring samples of one modality.

    Attributes:
        modality: ``"image"`` or ``"video"``.
        seed: seed of all samples.
        first: number of the first sample.
        count: number of samples.
    """

    modality: str
    seed: int
    first: int
    count: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.modality}_seed{self.seed}_{self.first:07d}.json"


def chunks(count: int, *, seed: int) -> list[Chunk]:
    """Divide samples into chunks.

    Args:
        count: number of samples, half of them videos.
        seed: seed of all samples.
    """
    totals = {"image": count - count // 2, "video": count // 2}
    return [
        Chunk(modality, seed, first, min(CHUNK, totals[modality] - first))
        for modality in MODALITIES
        for first in range(0, totals[modality], CHUNK)
    ]


def look(rng: np.random.Generator, spec: Spec) -> Sight:
    """Draw a sample of a meaning and name the held-out compositions that it shows.

    Args:
        rng: generator of the draw.
        spec: the meaning.
    """
    colored = with_colors(rng, spec)
    image = spec.modality == "image"
    names = shown(render(draw_scene(rng, colored)) if image else render_video(draw_clip(rng, colored)))
    asked = compositions(spec) | compositions(colored)
    # A thing that must not be there has a composition in the caption, and none in the sample.
    agrees = names == compositions(replace(colored, absent=None))
    return Sight(_held_out(asked, spec.modality), _held_out(names, spec.modality), agrees)


def _held_out(names: Iterable[str], modality: str) -> tuple[str, ...]:
    return tuple(sorted(name for name in names if split_of_composition(name, modality) != "training"))


def search(chunk: Chunk, folder: Path) -> dict[str, Any]:
    """Search the samples of a chunk, or read what an earlier search of it has found.

    Args:
        chunk: the samples.
        folder: where the result is kept.

    Returns:
        The chunk, numbers of samples and findings by category, and the leaks in words.
    """
    file = folder / chunk.name
    if file.exists() and (kept := read_json_file(file))["chunk"] == asdict(chunk):
        return dict(kept)
    counts = {name: Counter[str]() for name in ("samples", *_FOUND)}
    leaks: list[dict[str, Any]] = []
    for number in range(chunk.first, chunk.first + chunk.count):
        rng = np.random.default_rng([chunk.seed, MODALITIES.index(chunk.modality), number])
        spec = draw_spec(rng, chunk.modality, "training")
        sight = look(rng, spec)
        found = {"samples": 1, "spec": bool(sight.by_spec), "audit": bool(sight.by_audit), "agrees": sight.agrees}
        for name, value in found.items():
            counts[name][spec.category] += int(value)
        if (sight.by_spec or sight.by_audit) and len(leaks) < _KEPT:
            leaks.append({"number": number, "category": spec.category, **asdict(sight)})
    result = {"chunk": asdict(chunk), **counts, "leaks": leaks}
    write_atomic(file, json.dumps(result).encode())
    return result


def table(results: Sequence[dict[str, Any]]) -> str:
    """Write the results of chunks as Markdown, with a line for each category and one for all samples.

    Args:
        results: see `search`.
    """
    totals: dict[tuple[str, str], Counter[str]] = {}
    for result in results:
        for category, samples in result["samples"].items():
            total = totals.setdefault((result["chunk"]["modality"], category), Counter())
            total.update({"samples": samples, **{name: result[name].get(category, 0) for name in _FOUND}})
    whole: Counter[str] = sum(totals.values(), Counter())
    lines = [f"| {' | '.join(_COLUMNS)} |", f"|---|---|{'---:|' * (len(_COLUMNS) - 2)}"]
    lines += [_line(*place, total) for place, total in sorted(totals.items())]
    lines.append(_line("all", "", whole))
    return "\n".join([*lines, "", _verdict(whole), *_in_words(results)]) + "\n"


def _line(modality: str, category: str, total: Counter[str]) -> str:
    numbers = [f"{total[name]:,}" for name in ("samples", "spec", "audit")]
    agreement = f"{total['agrees'] / total['samples']:.4f}"
    return f"| {' | '.join([modality, category, *numbers, agreement])} |"


def _verdict(whole: Counter[str]) -> str:
    """Say how many samples leak, and what share of them could at most."""
    worst = max(whole["spec"], whole["audit"])
    _, most = wilson(worst / whole["samples"], whole["samples"])
    return (
        f"{whole['spec']:,} of {whole['samples']:,} samples show a held-out composition by their spec,"
        f" {whole['audit']:,} by the audit: at most {most:.5%} of all training samples (95% interval)."
    )


def _in_words(results: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"- {result['chunk']['modality']} {leak['number']}, {leak['category']}: by spec {leak['by_spec']}, by audit"
        f" {leak['by_audit']}"
        for result in results
        for leak in result["leaks"]
    ]


def search_all(wanted: Sequence[Chunk], folder: Path, *, parallel: int) -> list[dict[str, Any]]:
    """Search chunks in processes of their own; those that are finished are read.

    Args:
        wanted: the chunks.
        folder: where results are kept.
        parallel: processes at a time.

    Returns:
        The result of each chunk, in order.
    """
    with ProcessPoolExecutor(parallel, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(search, chunk, folder) for chunk in wanted]
        for number, done in enumerate(as_completed(futures), start=1):
            done.result()
            if number % 20 == 0:
                say(f"{number} of {len(wanted)} chunks")
        return [future.result() for future in futures]


def main(
    *,
    count: Annotated[int, typer.Option(help="samples, half of them videos")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="seed of the draw")] = 0,
    out: Annotated[Path, typer.Option(help="folder of the chunks and the table")] = Path("runs/leaks"),
    parallel: Annotated[int, typer.Option(help="processes, one core each")] = 1,
) -> None:
    """Search training samples for compositions of validation and test, and write leaks.md."""
    with teaching_errors():
        check_count("--count", count)
        check_count("--parallel", parallel)
        (out / "chunks").mkdir(parents=True, exist_ok=True)
        results = search_all(chunks(count, seed=seed), out / "chunks", parallel=parallel)
        write_atomic(out / "leaks.md", table(results).encode())
        say(table(results), f"also in {out / 'leaks.md'}")
    raise typer.Exit(int(any(result["leaks"] for result in results)))


if __name__ == "__main__":
    typer.run(main)
