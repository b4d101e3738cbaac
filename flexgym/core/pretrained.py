"""Load models with the libraries that saved them: only safetensors, and only complete checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from flexgym.core.errors import CheckpointError
from flexgym.core.logs import filtered_logs
from flexgym.core.weight_files import check_weight_file, check_weight_files

LOADING_ERRORS = (Exception,)
"""Errors of libraries for files that they cannot load: whatever they stumble over; tokenizers raises the base class."""
ADAPTER_CONFIG, ADAPTER_FILE = "adapter_config.json", "adapter_model.safetensors"
"""Files of an adapter that peft saved."""
_LOGGERS = ("transformers.modeling_utils", "transformers.utils.loading_report", "diffusers.models.modeling_utils")
"""Loggers that warn about what `load_pretrained` rejects."""
_SHOWN = 3


def load_pretrained(kind: Any, source: str | Path, *, what: str | None = None, hint: str = "", **options: Any) -> Any:
    """Load a model, and reject tensors that are missing, unexpected or of another shape.

    The libraries fill missing weights with random numbers and warn; results computed from them look like results.

    Args:
        kind: class of transformers or diffusers, or one derived from it.
        source: a folder or a hub id.
        what: name of the model in messages; by default that of its class.
        hint: sentence at the end of messages.
        options: further arguments of ``from_pretrained``, such as ``dtype`` or ``variant``.

    Returns:
        The model, as ``from_pretrained`` returns it.

    Raises:
        CheckpointError: the checkpoint is missing, truncated, incomplete or of another kind; the message names the
            first tensors at fault.
    """
    what = what or kind.__name__
    folder = Path(source).expanduser()
    if folder.is_dir():
        if (folder / ADAPTER_CONFIG).is_file():
            raise CheckpointError(_only_adapter(source))
        try:
            check_weight_files(folder, options.get("variant"))
        except CheckpointError as error:
            raise CheckpointError(f"{error}. {hint}".rstrip(" .")) from error
    try:
        with filtered_logs(_LOGGERS, _is_error):
            model, found = kind.from_pretrained(
                source, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
    except LOADING_ERRORS as error:
        raise CheckpointError(
            f"{str(source)!r} could not be loaded as a {what} in safetensors format: {error}. {hint}".rstrip()
        ) from error
    if getattr(model, "peft_config", None):
        raise CheckpointError(_only_adapter(source))
    _check_complete(model, found, repr(str(source)), what=what, hint=hint)
    return model


def load_part(kind: Any, source: str | Path, *, what: str | None = None, hint: str = "", **options: Any) -> Any:
    """Load what has no weights: a tokenizer, an image processor or a config.

    Args:
        kind: class of transformers.
        source: a folder or a hub id.
        what: name of the whole in messages; by default that of the class.
        hint: sentence at the end of messages.
        options: further arguments of ``from_pretrained``.

    Raises:
        CheckpointError: the part is missing, damaged or of another kind.
    """
    try:
        return kind.from_pretrained(source, trust_remote_code=False, **options)
    except LOADING_ERRORS as error:
        raise CheckpointError(
            f"{str(source)!r} could not be loaded as a {what or kind.__name__}: {error or type(error).__name__}."
            f" {hint}".rstrip()
        ) from error


def load_adapter(model: Any, folder: Path) -> Any:
    """Load an adapter that peft saved onto a model, and reject tensors that are missing, unexpected or misshapen.

    Args:
        model: model that the adapter belongs to.
        folder: folder with ``adapter_config.json`` and ``adapter_model.safetensors``.

    Returns:
        The model of peft around it.

    Raises:
        CheckpointError: the adapter is missing, truncated, incomplete, or of another model.
    """
    from peft import PeftModel, get_peft_model_state_dict

    saved = check_weight_file(folder / ADAPTER_FILE)
    try:
        adapted = PeftModel.from_pretrained(model, folder, use_safetensors=True)
    except LOADING_ERRORS as error:
        raise CheckpointError(f"the adapter in {folder} does not fit a {type(model).__name__}: {error}") from error
    wanted = get_peft_model_state_dict(adapted).keys()
    if saved.keys() != wanted:
        found = {"missing_keys": wanted - saved.keys(), "unexpected_keys": saved.keys() - wanted, "mismatched_keys": ()}
        _check_complete(adapted, found, f"the adapter in {folder}", what=type(model).__name__, hint="")
    return adapted


def _check_complete(model: nn.Module, found: Mapping[str, Any], source: str, *, what: str, hint: str) -> None:
    """Raise an error for the tensors that a checkpoint and its model do not share."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    wrong = {name: f"{name} {tuple(got)} in place of {tuple(want)}" for name, got, want in found["mismatched_keys"]}
    missing = {*found["missing_keys"], *(name for name, value in tensors if value.is_meta)} - wrong.keys()
    unexpected = [name for name in found["unexpected_keys"] if not _may_be_ignored(name, model)]
    problems = [
        f"{problem.format(len(names))}, such as {', '.join(sorted(names)[:_SHOWN])}"
        for problem, names in (
            (f"lacks {{}} weights of a {what}", missing),
            (f"has {{}} weights of another shape than those of a {what}", wrong.values()),
            (f"has {{}} weights that a {what} has no place for", unexpected),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"{source} {'; it '.join(problems)}. {hint}".rstrip())


def _may_be_ignored(name: str, model: Any) -> bool:
    """Return whether a model does without a tensor of its checkpoint.

    Two kinds may be left out: buffers that the model computes itself, and the head of a language model whose class has
    none, as in the text encoders of pipelines.
    """
    if name in dict(model.named_buffers()):
        return True
    return name == "lm_head.weight" and getattr(model, "get_output_embeddings", lambda: None)() is None


def _only_adapter(source: str | Path) -> str:
    return (
        f"{str(source)!r} holds an adapter ({ADAPTER_CONFIG}), which belongs to another checkpoint: expected complete"
        " weights, such as those that `flexgym.rm export` or peft's merge_and_unload writes"
    )


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
