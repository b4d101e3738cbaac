from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import ray
from typer.testing import CliRunner

from flexgym.cli import app
from flexgym.rllib.cluster_doctor import compare_versions


def test_versions_that_differ_are_listed_by_machine():
    (finding,) = compare_versions({"a": {"torch": "2.13.0", "ray": "2.60"}, "b": {"torch": "2.12.0", "ray": "2.60"}})
    assert (finding.level, finding.what) == ("problem", "torch differs: 2.13.0 on a, 2.12.0 on b")
    (finding,) = compare_versions({"a": {"torch": "2.13.0"}, "b": {"torch": "2.13.0"}})
    assert (finding.level, finding.what) == ("ok", "the versions on 2 machines agree")


def test_without_a_cluster_the_command_says_how_to_start_one(monkeypatch):
    if ray.is_initialized():
        pytest.skip("Ray runs in this process")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    ended = CliRunner().invoke(app, ["doctor", "--cluster"])
    assert (ended.exit_code, ":9 (RAY_ADDRESS): start one there with" in ended.stderr) == (2, True)


@pytest.mark.slow
def test_every_machine_of_a_cluster_is_examined(tmp_path):
    """Two nodes of Ray on this machine, which look at the same disk and miss the same folder."""
    from ray.cluster_utils import Cluster

    program = "from flexgym.cli import main; main()"  # in a process of its own, since this one may have another Ray
    command = [sys.executable, "-c", program, "doctor", "--cluster", "--json", f"--root={tmp_path}"]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        ended = subprocess.run(
            [*command, f"--shared={tmp_path / 'none'}"],
            env={**os.environ, "RAY_ADDRESS": cluster.address},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        cluster.shutdown()
    assert ended.returncode == 1, ended.stderr
    found = json.loads(ended.stdout)
    missing = [each for each in found if each["check"] == "shared"]
    assert [each["level"] for each in missing] == ["problem", "problem"]
    assert all("none does not exist on this machine" in each["what"] for each in missing)
    passed = [each["what"] for each in found if "checks passed" in each["what"]]
    assert (len(passed), sum("(head)" in each for each in passed)) == (2, 1)
    assert found[-1]["what"] == "the versions on 2 machines agree"
