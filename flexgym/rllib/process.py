"""Set up the process for training with RLlib: start Ray, share threads, silence the notices of libraries."""

from __future__ import annotations

import contextlib
import functools
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psutil  # Ray brings it along
import ray
import torch

from flexgym.core.errors import ConfigError
from flexgym.rllib.address import check_reachable
from flexgym.runs.interrupt import SIGNALS


def start_ray() -> bool:
    """Start Ray on this machine, or connect to the cluster of ``RAY_ADDRESS``, unless that was done already.

    The processes of a Ray that is started here ignore the signals that stop a run, which a terminal or a scheduler
    often sends to all processes: without them an iteration could not be finished and saved.

    Returns:
        True if Ray was started or connected to here.

    Raises:
        ConfigError: there is no Ray at the address, or it asks for another token.
    """
    if ray.is_initialized():
        return False
    check_reachable()
    with _inherited_mask(), _kept_handlers():
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise ConfigError(f"Ray cannot be reached: {str(error).splitlines()[0]}") from error
        except SystemExit as error:  # by a handler that Ray has while it starts
            raise KeyboardInterrupt(signal.SIGTERM) from error
    _quiet_ray()
    return True


@contextlib.contextmanager
def _inherited_mask() -> Iterator[None]:
    """Block the signals that stop a run, for good in the processes that are started inside this context."""
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


@contextlib.contextmanager
def _kept_handlers() -> Iterator[None]:
    """Put handlers of signals back, also where Ray's own, which dumps the stack, lies below those of Python."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _quiet_ray() -> None:
    """Let a run speak for Ray, and Ray's shutdown kill the processes started here, which ignore its request to end."""
    worker = ray._private.worker
    if not isinstance(worker.print_to_stdstream, functools.partial):
        worker.print_to_stdstream = functools.partial(_print_others, worker.print_to_stdstream)
    node = ray._private.worker._global_node
    if node is not None and node.is_head():
        node.kill_all_processes = functools.partial(_kill_all, node, node.kill_all_processes)


def _print_others(show: Callable[..., None], data: Any, ignore_prefix: Any = None) -> None:
    """Show lines of Ray, but not those of the raylet, which reports a lost process in up to 40 lines."""
    if data["pid"] != "raylet":
        show(data, ignore_prefix)


def _kill_all(node: Any, kill: Callable[..., None], **options: Any) -> None:
    """Kill Ray's processes on this machine, the workers below the raylet included."""
    started = [info.process.pid for infos in node.all_processes.values() for info in infos]
    below = [child for pid in started for child in _children(pid)]
    kill(**{**options, "allow_graceful": False})
    for process in below:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


@contextlib.contextmanager
def shared_cores() -> Iterator[None]:
    """Give half of torch's threads to each of the two that compute at once, the policy and the judge.

    With all of them for both, the threads of one wait for cores that are busy with the threads of the other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def quiet_libraries() -> None:
    """Keep notices of libraries from breaking into the progress display; their errors still show."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    for name in ("ray", "ray.rllib"):  # which has a level of its own
        logging.getLogger(name).setLevel(logging.ERROR)
    # The run itself reports a lost process, without tracebacks.
    for name in ("ray.rllib.utils.actor_manager", "ray.train._internal.backend_executor"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
