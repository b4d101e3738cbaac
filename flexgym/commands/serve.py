"""Run vLLM as a judge server: build its command line, wait until it is healthy, and stop it."""

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

from flexgym.core.errors import ConfigError, FlexGymError
from flexgym.core.files import open_writing
from flexgym.core.secrets import check_variable, secret_from_environment
from flexgym.judge.backends.connection import ExchangeError, fetch
from flexgym.judge.backends.local import check_source
from flexgym.judge.sources import locate_judge, picture_limit

_POLL_SECONDS = 0.5
_HEALTH_SECONDS = 5.0
_STOP_SECONDS = 30.0
_LOG_LINES = 30
_NO_DOMAIN = "none.invalid"  # a judge is sent its images, and fetches nothing for those who ask it


class ServerStartError(FlexGymError, RuntimeError):
    """Raised if the judge server dies or does not become ready in time; the message ends with the tail of its log."""


@dataclass(frozen=True)
class ServeOptions:
    """Options of a vLLM judge server.

    Attributes:
        source: a checkpoint folder, a hub id, or the name of the embedded judge.
        name: model name to use in requests; the last part of ``source`` by default.
        host: address to listen on. Anyone who can reach it can use the judge, so the default is this machine only.
        port: port to listen on.
        max_model_len: maximum length of prompt and reply together, in tokens; the checkpoint's limit by default. A
            lower value needs less memory.
        max_pictures: maximum number of images per request: 2 for image pairs, twice the number of frames for videos;
            by default the value given by the checkpoint's `JudgeConfig`.
        data_parallel_size: number of model replicas, one GPU each; faster than sharding for a judge of 8B parameters.
        gpu_memory_utilization: fraction of each GPU's memory that vLLM allocates.
        picture_cache_gb: memory for preprocessed images per replica, in GB.
        dtype: data type of the weights; ``"auto"`` uses the checkpoint's.
        enforce_eager: disable compilation and CUDA graphs, which starts faster but runs slower.
        api_key_env: name of the environment variable with the API key that clients must send. vLLM gets the key in its
            environment, since other users of the machine see its command line.
        extra: additional arguments of ``vllm serve``.
        executable: the ``vllm`` command; by default the one next to this Python or on the PATH.
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
    api_key_env: str | None = None
    extra: tuple[str, ...] = ()
    executable: str = "vllm"

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ConfigError(f"port must be between 1 and 65535, got {self.port}")
        if not 0.0 < self.gpu_memory_utilization <= 1.0:
            raise ConfigError(
                f"gpu_memory_utilization must be above 0 and at most 1, got {self.gpu_memory_utilization}"
            )
        check_variable(self.api_key_env)
        if any(word.partition("=")[0] == "--api-key" for word in self.extra):
            raise ConfigError("--api-key shows the key to everyone on the machine: use api_key_env instead")
        for name in ("max_pictures", "data_parallel_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")

    @property
    def url(self) -> str:
        """Return the base URL of the server's OpenAI-compatible API."""
        return f"http://{self.host}:{self.port}/v1"


def serve_command(options: ServeOptions) -> list[str]:
    """Build the ``vllm serve`` command line for a judge.

    The checkpoint's sampling defaults are disabled, since a judge must be reproducible, and so is the thinking mode of
    Qwen3.5 models. Prefixes and images shared by several pairs are cached, and replies report how many prompt tokens
    came from the cache.

    Args:
        options: server options.

    Raises:
        ConfigError: if the ``vllm`` command is not found.
        CheckpointError: if the checkpoint does not exist.
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
        f"--allowed-media-domains={_NO_DOMAIN}",
        f"--default-chat-template-kwargs={json.dumps({'enable_thinking': False})}",
    ]
    if options.max_model_len is not None:
        words.append(f"--max-model-len={options.max_model_len}")
    if options.enforce_eager:
        words.append("--enforce-eager")
    return [*words, *options.extra]


@contextmanager
def running_server(options: ServeOptions, *, log: Path, limit: float = 900.0) -> Iterator[subprocess.Popen[bytes]]:
    """Run a judge server that is ready when the block begins and stopped when it ends.

    Args:
        options: server options.
        log: file for the server's output.
        limit: maximum time until the server is ready, in seconds; loading and compiling an 8B model takes minutes.

    Yields:
        The server process.

    Raises:
        ConfigError: if the ``vllm`` command is not found, or the port is in use.
        ServerStartError: if the server dies or is not ready in time.
    """
    command = serve_command(options)
    _check_port(options)
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = _environment(options)
    with open_writing(log) as output:
        # Start a new session, so the engine processes end together with the server.
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        _wait_until_healthy(process, options, log=log, limit=limit)
        yield process
    finally:
        _stop(process)


def serve(options: ServeOptions, *, log: Path, limit: float = 900.0) -> int:
    """Serve a judge until the server exits or the caller interrupts.

    Args:
        options: server options.
        log: file for the server's output.
        limit: maximum time until the server is ready, in seconds.

    Returns:
        The server's exit status.

    Raises:
        ConfigError: if the ``vllm`` command is not found, or the port is in use.
        ServerStartError: if the server dies or is not ready in time.
    """
    with running_server(options, log=log, limit=limit) as process:
        return process.wait()


def _environment(options: ServeOptions) -> dict[str, str]:
    """Return the environment of the server: no usage statistics, no redirects, and the key that clients must send."""
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0"}
    key = secret_from_environment(options.api_key_env)
    return environment | ({"VLLM_API_KEY": key.reveal()} if key else {})


def _executable(name: str) -> str:
    search_path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = shutil.which(name, path=search_path)
    if found is None:
        raise ConfigError(
            f"command {name!r} not found next to {sys.executable} or on the PATH: pip install 'flexgym[vllm]', or give"
            " the command of another environment, such as /envs/vllm/bin/vllm"
        )
    return found


def _check_port(options: ServeOptions) -> None:
    """Raise ConfigError if the port is in use, since its health check would be taken for the new server's."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex((options.host, options.port)) == 0:
            raise ConfigError(f"{options.host}:{options.port} already has a server: choose another port")


def _wait_until_healthy(process: subprocess.Popen[bytes], options: ServeOptions, *, log: Path, limit: float) -> None:
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerStartError(
                f"the judge server exited with status {process.returncode} before it was ready; {_last_lines(log)}"
            )
        if _is_healthy(options):
            return
        time.sleep(_POLL_SECONDS)
    raise ServerStartError(f"the judge server was not ready after {limit:g} s; {_last_lines(log)}")


def _is_healthy(options: ServeOptions) -> bool:
    try:
        return fetch(f"http://{options.host}:{options.port}/health", seconds=_HEALTH_SECONDS).status == 200
    except (TimeoutError, ExchangeError):
        return False


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
    return "\n".join([f"last lines of {log}:", *lines])


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the server and its engines, first with SIGTERM and then with SIGKILL."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(_STOP_SECONDS)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
