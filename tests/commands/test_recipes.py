from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from flexgym.cli import app
from flexgym.config.recipe import shipped_recipes


@pytest.mark.parametrize("columns", ["80", "60"])
def test_no_name_is_cut(columns):
    shown = CliRunner().invoke(app, ["recipes"], env={"COLUMNS": columns}).stdout
    assert "…" not in shown
    assert all(name in shown for name in shipped_recipes())


@pytest.mark.slow
def test_making_an_environment_prints_nothing():
    words = "import gymnasium, flexgym; gymnasium.make('FlexT2I-v0')"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout + done.stderr == ""
