"""The demonstrations with the fewest cases."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["signals", "lost_learners"])
def test_every_case_is_as_it_must_be(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"tests.demonstrations.{name}", str(tmp_path), "--reduced"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
