"""Choose and open the backend for a judge given by URL, folder or hub id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flexgym.core.arguments import fitted_arguments, setting_parameters
from flexgym.core.errors import ConfigError, unknown_name
from flexgym.core.secrets import check_variable
from flexgym.judge.backends.addresses import base_url
from flexgym.judge.backends.base import Backend
from flexgym.judge.sources import EMBEDDED_JUDGE, locate_judge

BACKENDS = ("server", "transformers", "vllm")
"""Names of the backends."""


def open_backend(
    judge: str | Path | Sequence[str] | Backend,
    backend: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Backend:
    """Open the backend of a judge.

    Args:
        judge: one or more URLs of OpenAI-compatible servers (``"http://..."``), a checkpoint folder, a hub id, the name
            of the embedded judge, or a backend, which is returned unchanged.
        backend: one of `BACKENDS`; None chooses ``"server"`` for URLs and ``"transformers"`` for everything else.
        settings: keyword arguments of the backend's class.

    Raises:
        ConfigError: if the judge is missing, or a URL is given where a checkpoint is expected or vice versa.
        UnknownNameError: if there is no such backend.
    """
    if not isinstance(judge, str | Path | Sequence):
        return judge
    located = locate_judge(judge)
    return _class(_backend_name(located, backend))(located, **check_backend(judge, backend, settings))


def check_backend(
    judge: str | Path | Sequence[str] | Backend,
    backend: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Validate how a judge is reached, without opening anything.

    Args:
        judge: as for `open_backend`.
        backend: as for `open_backend`.
        settings: as for `open_backend`.

    Returns:
        The settings.

    Raises:
        ConfigError: for a missing judge, an address where a checkpoint is needed or the other way round, or a setting
            that cannot work.
        UnknownNameError: for an unknown backend or setting; the message names the nearest one.
    """
    if not isinstance(judge, str | Path | Sequence):
        return {}
    name = _backend_name(locate_judge(judge), backend)
    if name == "server":
        for address in [judge] if isinstance(judge, str | Path) else judge:
            base_url(str(address))
    if not settings:
        return {}
    check_variable(settings.get("api_key_env"))
    first, *others = setting_parameters(_class(name))  # the first is the judge itself
    return fitted_arguments(f"judge backend {name!r}", others, settings)


def _backend_name(judge: str | Path | Sequence[str], backend: str | None) -> str:
    if not judge:
        raise ConfigError(
            "expected a judge: the address of a server such as 'http://localhost:8080/v1' (`flexgym judge serve`"
            f" starts one), a checkpoint folder, a hub id, or {EMBEDDED_JUDGE!r}; got none"
        )
    name = backend or ("server" if _is_address(judge) else "transformers")
    if name not in BACKENDS:
        raise unknown_name("judge backend", name, BACKENDS)
    if _is_address(judge) != (name == "server"):
        expected = (
            "addresses such as 'http://localhost:8080/v1'" if name == "server" else "a checkpoint folder or hub id"
        )
        raise ConfigError(f"judge backend {name!r} expects {expected}, got {judge!r}")
    return name


def _is_address(judge: str | Path | Sequence[str]) -> bool:
    addresses = [judge] if isinstance(judge, str | Path) else judge
    return all(str(address).startswith(("http://", "https://")) for address in addresses)


def _class(name: str) -> Any:
    # Imported late, since each backend needs a library that the others do not.
    if name == "server":
        from flexgym.judge.backends.server import ServerBackend

        return ServerBackend
    if name == "vllm":
        from flexgym.judge.backends.vllm_engine import VLLMBackend

        return VLLMBackend
    from flexgym.judge.backends.transformers_model import TransformersBackend

    return TransformersBackend
