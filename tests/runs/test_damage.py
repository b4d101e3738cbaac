"""A damaged checkpoint is never used: every file, missing, empty, truncated, or with one bit flipped."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest

from flexgym.core.errors import CheckpointError
from flexgym.runs.checkpoints import latest_checkpoint, resolve_checkpoint, verify_checkpoint
from flexgym.runs.export import export_generator
from flexgym.runs.folder import RunFolder
from flexgym.runs.manifest import MANIFEST, read_manifest
from tests.runs.damage import DAMAGES, REQUIRED, flip, write_run

FILES = 31
NEWEST, OLDER = "iteration_000002", "iteration_000001"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder whose tests put back what they damage."""
    return write_run(tmp_path_factory.mktemp("damage") / "run")


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_each_file_counts(run: Path, damage: str, caplog: pytest.LogCaptureFixture):
    newest = run / "checkpoints" / NEWEST
    files = [path for path in sorted(newest.rglob("*")) if path.is_file()]
    assert len(files) == FILES
    for file in files:
        before = file.read_bytes()
        DAMAGES[damage](file)
        caplog.clear()
        if damage != "flipped":
            assert latest_checkpoint(run) == run / "checkpoints" / OLDER, "sizes alone show it"
        assert resolve_checkpoint(run) == run / "checkpoints" / OLDER, file
        name = file.relative_to(newest).as_posix()
        assert f"{NEWEST}: " in caplog.text
        assert name in caplog.text
        assert "the next older checkpoint is used" in caplog.text
        with pytest.raises(CheckpointError, match=f"{name}.*Resume from the run's folder"):
            verify_checkpoint(newest)
        file.write_bytes(before)
    assert resolve_checkpoint(run) == newest


def test_any_bit_of_the_manifest_counts(run: Path):
    file = run / "checkpoints" / NEWEST / MANIFEST
    before = file.read_bytes()
    for bit in range(0, 8 * len(before), 29):
        data = bytearray(before)
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        with pytest.raises(CheckpointError):
            read_manifest(file.parent)
    file.write_bytes(before)
    read_manifest(file.parent)


def test_a_damaged_checkpoint_is_set_aside_when_the_run_is_resumed(own_run: Path, caplog: pytest.LogCaptureFixture):
    flip(own_run / "checkpoints" / NEWEST / "algorithm/learner/tensors.safetensors")
    with RunFolder.resume(own_run, required=REQUIRED) as opened:
        assert opened.start_iteration == 1
        assert opened.resumed_from == own_run / "checkpoints" / OLDER
    assert "algorithm/learner/tensors.safetensors has changed" in caplog.text
    assert f"moved to {own_run}/checkpoints/damaged/{NEWEST}" in caplog.text
    assert (own_run / "checkpoints/damaged" / NEWEST / MANIFEST).is_file()
    assert (own_run / "checkpoints/latest").read_text() == f"{OLDER}\n"
    RunFolder.resume(own_run).close()


def test_without_any_whole_checkpoint_there_is_one_sentence(own_run: Path):
    for name in (NEWEST, OLDER):
        flip(own_run / "checkpoints" / name / "algorithm/state.json")
    with pytest.raises(CheckpointError, match="holds no complete checkpoint, so there is nothing to resume"):
        RunFolder.resume(own_run)


def test_export_passes_over_damaged_checkpoints_and_changes_nothing(own_run: Path, tmp_path: Path, caplog):
    flip(own_run / "checkpoints" / NEWEST / "generator/vae/config.json")
    assert export_generator(own_run, tmp_path / "out").iteration == 1
    assert "generator/vae/config.json has changed" in caplog.text
    assert (own_run / "checkpoints" / NEWEST).is_dir()


def test_what_must_be_there_is_written_down(tmp_path: Path):
    from flexgym.runs.checkpoints import CheckpointStore

    store = CheckpointStore(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match="learner/state.json, generator was not written"):
        store.publish(1, lambda path: (path / "other").write_text("x"), required=("learner/state.json", "generator"))
    assert store.latest() is None


def test_a_run_of_another_trainer_is_refused_and_stays(own_run: Path):
    with pytest.raises(CheckpointError, match=r"this trainer needs other, and the checkpoint has .*, generator"):
        RunFolder.resume(own_run, required=("algorithm/state.json", "other"))
    RunFolder.resume(own_run, required=REQUIRED).close()


class Payload:
    def __reduce__(self):
        return os.mkdir, ("/tmp/flexgym-was-here",)


def test_a_checkpoint_of_an_earlier_version_is_refused_unopened(own_run: Path):
    for name in (NEWEST, OLDER):
        folder = own_run / "checkpoints" / name
        shutil.rmtree(folder)
        (folder / "algorithm").mkdir(parents=True)
        (folder / "algorithm" / "algorithm_state.pkl").write_bytes(data := pickle.dumps(Payload()))
        (folder / MANIFEST).write_text(json.dumps({"iteration": 1, "files": {"algorithm_state.pkl": len(data)}}))
    with pytest.raises(CheckpointError, match="earlier version of FlexGym, with pickled state.*it is not opened"):
        RunFolder.resume(own_run)
    assert (own_run / "checkpoints" / NEWEST).is_dir(), "it is old, not damaged"
    assert not Path("/tmp/flexgym-was-here").exists()
