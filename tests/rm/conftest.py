from __future__ import annotations

import pytest

from tests.judge.backends.tiny_qwen_vl import save_tiny_qwen_vl
from tests.rm.small import write_rows


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A Qwen3-VL folder with random weights."""
    return save_tiny_qwen_vl(tmp_path_factory.mktemp("judge") / "tiny")


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Rows by kind, twelve of each."""
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="session")
def unseen(tmp_path_factory):
    """Seven rows by kind, which no number of learners or micro-batches here divides."""
    return write_rows(tmp_path_factory.mktemp("unseen"), count=7)
