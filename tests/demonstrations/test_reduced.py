"""The demonstrations with the fewest cases."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("words", [("signals", "--learners", "0"), ("lost_learners",)], ids=lambda words: words[0])
def test_every_case_is_as_it_must_be(words: tuple[str, ...], tmp_path: Path) -> None:
    name, *options = words
    command = [sys.executable, "-m", f"tests.demonstrations.{name}", str(tmp_path), "--reduced", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
