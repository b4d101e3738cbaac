"""Processes that are forked while PyTorch's threads are alive."""

from __future__ import annotations

import os
from functools import cache

import torch


@cache
def survive_forks() -> None:
    """Let PyTorch compute with one thread in every process that is forked from now on, once for this process.

    The threads of a parent do not exist in its forked children, but OpenMP waits for them at the first computation that
    it would share among threads: the child would hang forever. `torch.utils.data.DataLoader` sets its workers to one
    thread for the same reason. Processes that are spawned keep all their threads.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_compute_with_one_thread)


def _compute_with_one_thread() -> None:
    torch.set_num_threads(1)
