"""Set up the process for training with RLlib: start Ray, share threads, silence the notices of libraries."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import ray
import torch


def start_ray() -> None:
    """Start Ray on this machine, unless it runs already."""
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


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
    logging.getLogger("ray").setLevel(logging.ERROR)
