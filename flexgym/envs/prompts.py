"""Sources of prompts: files, sequences and the built-in set."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from flexgym.core.errors import ConfigError, PromptSourceError
from flexgym.core.json_text import parse_json
from flexgym.envs.spaces import MAX_PROMPT_LENGTH
from flexgym.types import FirstFrame, Prompt

_FRAME = "first_frame"

Prompts = str | Path | Sequence[str | Prompt | Mapping[str, Any]] | None
"""None for the built-in prompts, the path of a .txt or .jsonl file, or a sequence."""


class PromptSource(Sequence[Prompt]):
    """Sequence of prompts to draw from.

    Args:
        prompts: at least one text, `Prompt`, or mapping, see `as_prompt`.
        name: name of the prompts in error messages.

    Raises:
        PromptSourceError: there are no prompts, or an entry is empty, too long or of another type.
    """

    def __init__(self, prompts: Iterable[str | Prompt | Mapping[str, Any]], *, name: str = "the prompts") -> None:
        self._prompts = tuple(as_prompt(entry, f"entry {at} of {name}") for at, entry in enumerate(prompts))
        if not self._prompts:
            raise PromptSourceError(f"{name} must contain at least one prompt, got none")

    def __len__(self) -> int:
        return len(self._prompts)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Prompt]: ...
    def __getitem__(self, index: int | slice) -> Prompt | Sequence[Prompt]:
        return self._prompts[index]

    def draw(self, rng: np.random.Generator) -> Prompt:
        """Draw a prompt with uniform probability."""
        return self._prompts[int(rng.integers(len(self._prompts)))]

    def check_first_frames(self, wanted: bool) -> None:
        """Raise an error for prompts that a generator cannot use.

        Args:
            wanted: True for an image-to-video generator.

        Raises:
            ConfigError: a prompt lacks the first frame that the generator needs, or has one that it would ignore.
        """
        for at, prompt in enumerate(self._prompts):
            if (prompt.first_frame is not None) is not wanted:
                what = "a first frame for each prompt" if wanted else "prompts without first frames"
                raise ConfigError(
                    f"this generator needs {what} (the key {_FRAME!r} of a .jsonl file or a mapping, or"
                    f" Prompt(text, first_frame=...)); prompt {at}, {prompt.text[:80]!r}, does not match"
                )


def as_prompt(
    entry: str | Prompt | Mapping[str, Any], where: str = "the prompt", *, folder: Path | None = None
) -> Prompt:
    """Convert an entry to a prompt and check it.

    Args:
        entry: text, `Prompt`, or mapping with the key ``"prompt"`` and, for image-to-video generators,
            ``"first_frame"``: an array or the path of an image, see `FirstFrame`. Other keys become metadata.
        where: location of the entry in error messages.
        folder: folder of the file that the entry was read from; paths of images are relative to it and must not lead
            out of it.

    Raises:
        PromptSourceError: the text is empty, too long or of another type, or the image cannot be used.
    """
    text: Any
    metadata: Mapping[str, Any]
    frame: Any = None
    if isinstance(entry, Prompt):
        text, metadata, frame = entry.text, entry.metadata, entry.first_frame
    elif isinstance(entry, Mapping):
        text, frame = entry.get("prompt"), entry.get(_FRAME)
        metadata = {key: value for key, value in entry.items() if key not in ("prompt", _FRAME)}
    else:
        text, metadata = entry, {}
    if not isinstance(text, str):
        raise PromptSourceError(f"{where} must be a text, or have a text under the key 'prompt'; got {entry!r}")
    if not text.strip():
        raise PromptSourceError(f"{where} is empty; expected a caption")
    if len(text) > MAX_PROMPT_LENGTH:
        raise PromptSourceError(f"{where} has {len(text)} characters, expected at most {MAX_PROMPT_LENGTH}")
    shown = _first_frame(frame, where, folder)
    try:
        return Prompt(text, dict(metadata), shown)
    except PromptSourceError as error:
        raise PromptSourceError(f"{where}: {error}") from None


def _first_frame(source: Any, where: str, folder: Path | None) -> FirstFrame | None:
    if source is None or isinstance(source, FirstFrame):
        return source
    if folder is not None and isinstance(source, str):
        place = Path(os.path.realpath(folder / source))
        if not place.is_relative_to(os.path.realpath(folder)):
            raise PromptSourceError(f"{where}: the first frame {source!r} lies outside of {folder}; move it there")
        source = place
    try:
        return FirstFrame(source)
    except PromptSourceError as error:
        raise PromptSourceError(f"{where}: {error}") from None


def load_prompts(prompts: Prompts, modality: str) -> PromptSource:
    """Load prompts from a file or a sequence.

    Args:
        prompts: None for the built-in prompts of the small world; the path of a ``.txt`` file with one prompt per line,
            or of a ``.jsonl`` file with objects such as ``{"prompt": "a red cube", "category": "colors"}``; or a
            sequence. A ``.jsonl`` file gives first frames by paths relative to its folder:
            ``{"prompt": ..., "first_frame": "a.png"}``.
        modality: ``"image"`` or ``"video"``; selects the built-in prompts.

    Raises:
        PromptSourceError: a file is missing, empty, not UTF-8 or has a bad line (the message has its number), or an
            entry is not a usable text.
    """
    if prompts is None:
        from flexgym.shapes.captions import training_prompts

        return PromptSource(training_prompts(modality), name="the built-in set")
    if isinstance(prompts, PromptSource):
        return prompts
    if isinstance(prompts, str | Path):
        return _read(Path(prompts).expanduser())
    if isinstance(prompts, Sequence):
        return PromptSource(prompts)
    raise PromptSourceError(f"expected a path or a sequence of prompts, got {type(prompts).__name__}")


def _read(path: Path) -> PromptSource:
    readers = {".txt": _text_entries, ".jsonl": _json_entries}
    if not path.is_file():
        raise PromptSourceError(
            f"expected a prompt file, got {str(path)!r}, which does not exist (pass a single prompt as a list)"
        )
    if path.suffix not in readers:
        raise PromptSourceError(f"expected a .txt or .jsonl file, got {str(path)!r}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptSourceError(f"{path} is not UTF-8 (byte {error.start} cannot be read); save it as UTF-8") from error
    if not text.strip():
        raise PromptSourceError(f"{path} is empty; expected at least one prompt")
    return PromptSource(readers[path.suffix](text, path), name=str(path))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    # Not str.splitlines, which also splits at characters that may occur within a JSON string.
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def _text_entries(text: str, path: Path) -> Iterator[Prompt]:
    for number, line in _lines(text):
        yield as_prompt(line, f"line {number} of {path}")


def _json_entries(text: str, path: Path) -> Iterator[Prompt]:
    for number, line in _lines(text):
        where = f"line {number} of {path}"
        try:
            entry = parse_json(line)
        except ValueError as error:
            raise PromptSourceError(f"{where} is not valid JSON: {error}") from error
        if not isinstance(entry, dict):
            raise PromptSourceError(f"{where} must be an object with the key 'prompt', got {line[:80]!r}")
        yield as_prompt(entry, where, folder=path.parent)
