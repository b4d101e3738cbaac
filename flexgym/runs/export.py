"""Taking the trained generator out of a run, as a folder that stock diffusers loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flexgym.core.errors import CheckpointError
from flexgym.core.files import fsync_tree, temporary_sibling
from flexgym.core.json_text import read_json_file
from flexgym.runs.checkpoints import resolve_checkpoint, verify_checkpoint

GENERATOR = "generator"
"""The folder within a checkpoint that holds what trained, as `FlowGenerator.save` wrote it."""
ADAPTER = "pytorch_lora_weights.safetensors"
"""The file of an adapter, in diffusers' own name for it."""
_PIPELINE = "model_index.json"
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
        kind = read_json_file(path, nan=True).get("_class_name")
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
        run: a run folder, whose newest complete checkpoint is taken, or one checkpoint.
        out: a folder that does not exist yet; it appears once it is complete.

    Raises:
        CheckpointError: no complete checkpoint, one without a generator, or ``out`` exists.
    """
    checkpoint, target = resolve_checkpoint(run), Path(out).expanduser()
    source = checkpoint / GENERATOR
    if not (source / ADAPTER).is_file() and not (source / _PIPELINE).is_file():
        raise CheckpointError(
            f"expected {ADAPTER} or {_PIPELINE} in {source}, found neither: is it the run of a judge"
            " (flexgym.rm export)?"
        )
    if target.exists():
        raise CheckpointError(f"{target} exists already, and nothing is overwritten: name another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary_sibling(target)
    try:
        shutil.copytree(source, partial)
        fsync_tree(partial)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    adapters = sorted((path.parent for path in target.rglob(ADAPTER)), key=lambda path: len(path.parts))
    return Exported(target, verify_checkpoint(checkpoint), adapters)


def _quoted(path: Path) -> str:
    return json.dumps(str(path))
