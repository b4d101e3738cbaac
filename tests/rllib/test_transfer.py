"""Files between the driver and its learners, whether these see its folders or not.

`tests.demonstrations.two_machines` shows the same with two raylets that share no folder.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray

from flexgym.core.errors import CheckpointError
from flexgym.core.files import regular_files
from flexgym.rllib import transfer
from flexgym.rllib.transfer import collect, deliver

CONTENT = {"a": b"x" * 25, "inner/b": b"", "inner/deep/c": b"y" * 10, "d": b"z"}


@dataclass
class Learner:
    rank: int


def on_learners(call):
    return [call(Learner(rank)) for rank in range(2)]


def write(learner: Learner, folder: Path) -> None:
    if learner.rank:
        return
    for name, data in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in regular_files(folder)}


@pytest.fixture(params=[True, False], ids=["seen", "away"])
def seen(request, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bool:
    """Whether the learners see the folder of the driver; chunks are small."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(transfer, "CHUNK", 10)
    if not request.param:
        monkeypatch.setattr(transfer.Probe, "seen", lambda probe: False)
    return request.param


def test_what_the_first_learner_writes_arrives(seen: bool, tmp_path: Path):
    target = tmp_path / "target"
    places = []
    collect(on_learners, lambda learner, place: (places.append(place), write(learner, place)), target)
    assert content(target) == CONTENT
    assert (places[0] == target) == seen
    assert not list((tmp_path / "temporary").iterdir())


def test_every_learner_gets_the_files(seen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(ray, "get", lambda value: value)
    source = tmp_path / "source"
    source.mkdir()
    write(Learner(0), source)
    with deliver(on_learners, source) as places:
        assert len(set(places)) == (1 if seen else 2)
        assert all(content(Path(place)) == CONTENT for place in places)
    assert content(source) == CONTENT
    assert not list((tmp_path / "temporary").iterdir())


def test_an_error_of_a_learner_leaves_nothing(seen: bool, tmp_path: Path):
    def fail(learner: Learner, place: Path) -> None:
        write(learner, place)
        raise CheckpointError("no room")

    with pytest.raises(CheckpointError, match="no room"):
        collect(on_learners, fail, tmp_path / "target")
    assert not list((tmp_path / "temporary").iterdir())


def test_a_folder_of_the_same_name_is_not_taken_for_the_same_folder(tmp_path: Path):
    with transfer._probe(tmp_path) as probe:
        assert probe.seen()
        assert not transfer.Probe(probe.path, "another token", probe.inode).seen()
        assert not transfer.Probe(probe.path, probe.token, (0, 0)).seen()
    assert not probe.seen()
