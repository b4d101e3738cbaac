from __future__ import annotations

import json

import pytest
import ray
from typer.testing import CliRunner

from flexgym.cli import app
from flexgym.doctor.examination import Wishes
from flexgym.rllib.cluster_doctor import compare_versions, examine_cluster


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

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        found = examine_cluster(Wishes(root=tmp_path, shared=(tmp_path / "none",)))
    finally:
        ray.shutdown()
        cluster.shutdown()
    missing = [each for each in found if each.check == "shared"]
    assert [each.level for each in missing] == ["problem", "problem"]
    assert all("none does not exist on this machine" in each.what for each in missing)
    passed = [each.what for each in found if "checks passed" in each.what]
    assert (len(passed), sum("(head)" in each for each in passed)) == (2, 1)
    assert found[-1].what == "the versions on 2 machines agree"
    assert json.dumps([vars(each) for each in found])
