"""Starting vLLM as a judge server: its command line, a health check, and an end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from flexgym.core.errors import ConfigError, FlexGymError
from flexgym.judge.backends.local import check_source
from flexgym.judge.sources import locate_judge, picture_limit

_POLL_SECONDS = 0.5
_STOP_SECONDS = 30.0
_LOG_LINES = 30


class ServerStartError(FlexGymError, RuntimeError):
    """The judge server died or did not get ready in time; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class ServeOptions:
    """How a judge is served.

    Attributes:
        source: a checkpoint folder, a hub id, or the name of the embedded judge.
        name: what requests call the model; the last part of ``source`` by default.
        host: the address to listen on. Anyone who reaches it may use the judge, so by default this machine alone.
        port: to listen on.
        max_model_len: longest prompt and reply together, in tokens; the checkpoint's own by default. Lower needs less
            memory.
        max_pictures: most pictures in one request: 2 for images, twice the frames for videos; by default as many as the
            checkpoint's `JudgeConfig` asks for.
        data_parallel_size: copies of the model, one GPU each; better for a judge of 8B than splitting it.
        gpu_memory_utilization: share of each GPU that vLLM takes.
        picture_cache_gb: memory for preprocessed pictures, for each copy.
        dtype: of the weights; ``"auto"`` is what the checkpoint was saved in.
        enforce_eager: start sooner and run slower.
        extra: further words for ``vllm serve``.
        executable: the ``vllm`` command; the one beside this Python or on the path by default.
    """

    source: str
    name: str | None = None
    host: str = "127.0.0.1"
    port: int = 8080
    max_model_len: int | None = None
    max_pictures: int | None = None
    data_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    picture_cache_gb: float = 4.0
    dtype: str = "auto"
    enforce_eager: bool = False
    extra: tuple[str, ...] = ()
    executable: str = "vllm"

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ConfigError(f"port must lie between 1 and 65535, got {self.port}")
        if not 0.0 < self.gpu_memory_utilization <= 1.0:
            raise ConfigError(f"gpu_memory_utilization must lie above 0 and up to 1, got {self.gpu_memory_utilization}")
        for name in ("max_pictures", "data_parallel_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")

    @property
    def url(self) -> str:
        """Base address of the server's OpenAI-compatible interface."""
        return f"http://{self.host}:{self.port}/v1"


def serve_command(options: ServeOptions) -> list[str]:
    """The command line of ``vllm serve`` for a judge.

    The checkpoint's sampling defaults are switched off, since a judge must repeat itself, and so is the long thinking
    of Qwen3.5 kinds. Prefixes and pictures that pairs share are cached, and replies tell how much of a prompt was.

    Args:
        options: how to serve.

    Raises:
        ConfigError: there is no ``vllm`` command.
        CheckpointError: there is no such checkpoint.
    """
    source = str(locate_judge(options.source))
    check_source(source)
    words = [
        _executable(options.executable),
        "serve",
        source,
        f"--served-model-name={options.name or Path(options.source).name}",
        f"--host={options.host}",
        f"--port={options.port}",
        f"--dtype={options.dtype}",
        "--generation-config=vllm",
        "--enable-prefix-caching",
        "--enable-prompt-tokens-details",
        f"--limit-mm-per-prompt={json.dumps(picture_limit(source, options.max_pictures))}",
        f"--mm-processor-cache-gb={options.picture_cache_gb:g}",
        f"--data-parallel-size={options.data_parallel_size}",
        f"--gpu-memory-utilization={options.gpu_memory_utilization:g}",
        f"--default-chat-template-kwargs={json.dumps({'enable_thinking': False})}",
    ]
    if options.max_model_len is not None:
        words.append(f"--max-model-len={options.max_model_len}")
    if options.enforce_eager:
        words.append("--enforce-eager")
    return [*words, *options.extra]


@contextmanager
def running_server(options: ServeOptions, *, log: Path, limit: float = 900.0) -> Iterator[subprocess.Popen[bytes]]:
    """A judge server, ready when the block begins and gone when it ends.

    Args:
        options: how to serve.
        log: where its output goes.
        limit: seconds it may take to get ready; loading and compiling an 8B model takes minutes.

    Yields:
        The process.

    Raises:
        ConfigError: there is no ``vllm`` command, or the port is taken.
        ServerStartError: it died or was not ready in time.
    """
    command = serve_command(options)
    _check_port(options)
    log.parent.mkdir(parents=True, exist_ok=True)
    # vLLM reports its use to its makers unless it is asked not to.
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as output:
        # A session of its own, so that the engine processes end with the server.
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        _wait_until_healthy(process, options, log=log, limit=limit)
        yield process
    finally:
        _stop(process)


def serve(options: ServeOptions, *, log: Path, limit: float = 900.0) -> int:
    """Serve a judge until the server ends or the caller interrupts.

    Args:
        options: how to serve.
        log: where the server's output goes.
        limit: seconds it may take to get ready.

    Returns:
        The server's exit status.

    Raises:
        ConfigError: there is no ``vllm`` command, or the port is taken.
        ServerStartError: it died or was not ready in time.
    """
    with running_server(options, log=log, limit=limit) as process:
        return process.wait()


def _executable(name: str) -> str:
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = shutil.which(name, path=beside)
    if found is None:
        raise ConfigError(
            f"there is no {name!r} command beside {sys.executable} or on the path: pip install 'flexgym[vllm]', or give"
            " the command of another environment, such as /envs/vllm/bin/vllm"
        )
    return found


def _check_port(options: ServeOptions) -> None:
    """Refuse a port on which something answers already: its health would be taken for the new server's."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex((options.host, options.port)) == 0:
            raise ConfigError(f"something listens on {options.host}:{options.port} already: choose another port")


def _wait_until_healthy(process: subprocess.Popen[bytes], options: ServeOptions, *, log: Path, limit: float) -> None:
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerStartError(
                f"the judge server ended with status {process.returncode} before it was ready; {_last_lines(log)}"
            )
        if _is_healthy(options):
            return
        time.sleep(_POLL_SECONDS)
    raise ServerStartError(f"the judge server was not ready after {limit:g} s; {_last_lines(log)}")


def _is_healthy(options: ServeOptions) -> bool:
    try:
        return httpx.get(f"http://{options.host}:{options.port}/health", timeout=5.0, trust_env=False).is_success
    except httpx.TransportError:
        return False


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
    return "\n".join([f"the end of {log}:", *lines])


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and its engines, first politely."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(_STOP_SECONDS)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
