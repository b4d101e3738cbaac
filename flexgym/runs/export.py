"""Taking the trained generator out of a run, as a folder that stock diffusers loads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flexgym.core.errors import CheckpointError
from flexgym.core.files import copy_inside, fsync_tree, held_folder, teaching_disk_errors
from flexgym.core.json_text import read_json_file
from flexgym.runs.checkpoints import iteration_of, resolve_checkpoint
from flexgym.runs.manifest import read_manifest
from flexgym.runs.storage import local_run

GENERATOR = "generator"
"""The folder within a checkpoint that holds what trained, as `FlowGenerator.save` wrote it."""
ADAPTER = "pytorch_lora_weights.safetensors"
"""The file of an adapter, in diffusers' own name for it."""
_PIPELINE = "model_index.json"
_DATA = frozenset((".json", ".jsonl", ".safetensors", ".txt", ".model", ".jinja", ".md", ".merges"))
"""Endings of the files that trained weights consist of; none of them can run code when it is loaded."""
_GRID = "grid.json"
"""Noise levels beside a scheduler's config, as `flexgym.generators.schedulers` writes them."""


@dataclass(frozen=True)
class Exported:
    """A generator outside of its run.

    Attributes:
        folder: where it was written.
        iteration: finished iterations of the checkpoint that it comes from.
        adapters: the folders that hold one adapter each, that of the first transformer first; none when the folder is a
            complete pipeline.
    """

    folder: Path
    iteration: int
    adapters: Sequence[Path]

    @property
    def loading(self) -> list[str]:
        """The lines of Python that load it with diffusers alone; ``pipe`` is the pipeline that was trained.

        They are there to be copied, so no name from a checkpoint becomes anything but a string or a keyword.
        """
        if not self.adapters:
            # diffusers needs each component that a pipeline was saved without named again
            absent = "".join(f", {name}=None" for name in self._absent())
            return [f"pipe = DiffusionPipeline.from_pretrained({_quoted(self.folder)}{absent})", *self._grid_lines()]
        first, *others = self.adapters
        return [
            f"pipe.load_lora_weights({_quoted(first)})",
            *(
                f"pipe.load_lora_weights({_quoted(path)}, load_into_{path.name}=True)"
                for path in others
                if path.name.isidentifier()
            ),
            *self._scheduler_lines(),
        ]

    def _scheduler_lines(self) -> list[str]:
        """Return the lines that give a pipeline the scheduler of the export; none for exports without one."""
        path = self.folder / "scheduler" / "scheduler_config.json"
        if not path.is_file():
            return []
        config = read_json_file(path, nan=True)
        kind = config.get("_class_name") if isinstance(config, dict) else None
        if not (isinstance(kind, str) and kind.isidentifier()):  # it becomes part of a line of code
            raise CheckpointError(f"expected the name of a scheduler class as _class_name in {path}, got {kind!r}")
        return [
            f"from diffusers import {kind}",
            f"pipe.scheduler = {kind}.from_pretrained({_quoted(path.parent)})",
            *self._grid_lines(),
        ]

    def _grid_lines(self) -> list[str]:
        """Return the lines that give a scheduler the noise levels of the export, where it cannot compute them."""
        path = self.folder / "scheduler" / _GRID
        if not path.is_file():
            return []
        return [
            "import json",
            f'grid = json.load(open({_quoted(path)}))["sigmas"]',
            "pipe.scheduler.set_timesteps = lambda *args, device=None, sigmas=None, **kwargs:"
            " type(pipe.scheduler).set_timesteps(pipe.scheduler, sigmas=grid, device=device)",
        ]

    def _absent(self) -> list[str]:
        index = read_json_file(self.folder / _PIPELINE)
        listed = index.items() if isinstance(index, dict) else ()
        return [name for name, value in listed if value == [None, None] and name.isidentifier()]


def export_generator(run: str | Path, out: str | Path) -> Exported:
    """Copy the trained generator of a run: an adapter, or the complete pipeline.

    Where the run keeps an EMA of the weights, its checkpoints hold the EMA. Neither diffusers nor torch is needed, and
    training may continue meanwhile.

    Args:
        run: a run folder, whose newest complete checkpoint is taken, or one checkpoint; a path or a URL.
        out: a folder that does not exist yet; it appears once it is complete.

    Raises:
        CheckpointError: no complete checkpoint, one without a generator, or ``out`` exists.
    """
    target = Path(out).expanduser()
    with local_run(run) as folder:
        return _export(resolve_checkpoint(folder), target)


def _export(checkpoint: Path, target: Path) -> Exported:
    files = files_of(checkpoint, GENERATOR)
    if ADAPTER not in files and _PIPELINE not in files:
        raise CheckpointError(
            f"expected {ADAPTER} or {_PIPELINE} in {checkpoint / GENERATOR}, found neither: is it the run of a judge"
            " (flexgym.rm export)?"
        )
    if target.exists() or target.is_symlink():
        raise CheckpointError(f"{target} exists already, and nothing is overwritten: name another folder")
    with teaching_disk_errors(f"{target} cannot be written"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with held_folder(target) as partial:
            copy_inside(checkpoint / GENERATOR, partial, files)
            fsync_tree(partial)
            partial.rename(target)
    adapters = sorted((path.parent for path in target.rglob(ADAPTER)), key=lambda path: len(path.parts))
    return Exported(target, iteration_of(checkpoint), adapters)


def files_of(checkpoint: Path, part: str) -> list[str]:
    """Return the names of the files in a folder of a verified checkpoint, as its manifest lists them.

    Args:
        checkpoint: result of `flexgym.runs.checkpoints.resolve_checkpoint`.
        part: the folder, such as `GENERATOR`.

    Raises:
        CheckpointError: a file that could run code when the folder is loaded, such as a pickle; nothing here writes
            one.
    """
    names = [name.removeprefix(f"{part}/") for name in read_manifest(checkpoint).files if name.startswith(f"{part}/")]
    for name in names:
        if Path(name).suffix.lower() not in _DATA:
            raise CheckpointError(
                f"{checkpoint / part / name}: expected only {', '.join(sorted(_DATA))} in trained weights; other files"
                " may run code when they are loaded, so nothing is exported"
            )
    return names


def _quoted(path: Path) -> str:
    return json.dumps(str(path))
