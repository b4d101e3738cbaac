from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.runs.checkpoints import CheckpointStore, latest_checkpoint, resolve_checkpoint, verify_checkpoint

ROOT = Path(__file__).resolve().parents[2]

# Publishes 5, then starts 10 and stops in the middle (before, or after all files but before the rename), for the parent
# to kill it there.
CHILD = """
import sys, time
from pathlib import Path
from flexgym.runs import checkpoints
folder, stage = Path(sys.argv[1]), sys.argv[2]

def whole(path):
    (path / "learner").mkdir()
    (path / "learner" / "state.pkl").write_bytes(b"five" * 1000)

def wait(*ignored):
    print("ready", flush=True)
    time.sleep(60)

def half(path):
    whole(path)
    if stage == "files":
        wait()

store = checkpoints.CheckpointStore(folder)
store.publish(5, whole)
if stage == "rename":
    store._swap_in = wait
if stage == "pointer":
    store._point_to = wait
store.publish(10, half)
"""


def writing(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        (path / "inner").mkdir()
        (path / "inner" / "state.bin").write_bytes(content)

    return write


def content(path: Path) -> bytes:
    return (path / "inner" / "state.bin").read_bytes()


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("stage", "latest"), [("files", 5), ("rename", 5), ("pointer", 10)])
def test_kill_in_the_middle_leaves_a_whole_checkpoint(tmp_path: Path, stage: str, latest: int) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path), stage]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGKILL)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert verify_checkpoint(found) == latest
    assert (found / "learner" / "state.pkl").read_bytes() == b"five" * 1000
    store = CheckpointStore(tmp_path)  # the next start clears away what was left
    assert not [name for name in visible(tmp_path) if name.startswith(".")]
    published = store.publish(15, writing(b"after"))
    assert latest_checkpoint(tmp_path) == published
    assert (tmp_path / "latest").read_text() == "iteration_000015\n"


def test_publish_points_and_prunes(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for iteration in (0, 5, 10, 15):
        path = store.publish(iteration, writing(b"%d" % iteration))
        assert path == tmp_path / f"iteration_{iteration:06d}"
        assert store.latest() == path
    assert visible(tmp_path) == ["iteration_000010", "iteration_000015", "latest"]
    assert content(tmp_path / "iteration_000010") == b"10"


def test_keep_none_keeps_all_and_keep_zero_is_refused(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=None)
    for iteration in range(5):
        store.publish(iteration, writing(b"x"))
    assert len(visible(tmp_path)) == 6
    with pytest.raises(ConfigError, match="keep: expected at least 1"):
        CheckpointStore(tmp_path, keep=0)


def test_the_same_iteration_is_replaced(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.publish(3, writing(b"old"))
    assert content(store.publish(3, writing(b"new"))) == b"new"
    assert visible(tmp_path) == ["iteration_000003", "latest"]


def test_a_replacement_cut_off_between_its_renames_is_undone(tmp_path: Path) -> None:
    CheckpointStore(tmp_path).publish(3, writing(b"old"))
    (tmp_path / "iteration_000003").rename(tmp_path / ".old-iteration_000003")
    assert latest_checkpoint(tmp_path) is None
    store = CheckpointStore(tmp_path)
    assert store.latest() == tmp_path / "iteration_000003"


def test_a_writer_that_fails_leaves_no_trace(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    before = store.publish(1, writing(b"one"))

    def fail(path: Path) -> None:
        (path / "part").write_bytes(b"x")
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        store.publish(2, fail)
    with pytest.raises(CheckpointError, match="nothing was written"):
        store.publish(2, lambda path: None)
    assert visible(tmp_path) == ["iteration_000001", "latest"]
    assert store.latest() == before


@pytest.mark.parametrize("damage", ["missing", "short", "manifest", "broken manifest"])
def test_half_written_folders_are_passed_over_and_explained(tmp_path: Path, damage: str) -> None:
    store = CheckpointStore(tmp_path)
    good = store.publish(1, writing(b"one"))
    bad = store.publish(2, writing(b"two"))
    fault = {
        "missing": "inner/state.bin is missing",
        "short": "inner/state.bin has 1 bytes, expected 3",
        "manifest": "manifest.json is missing",
        "broken manifest": "manifest.json cannot be read",
    }[damage]
    if damage == "missing":
        (bad / "inner" / "state.bin").unlink()
    elif damage == "short":
        (bad / "inner" / "state.bin").write_bytes(b"t")
    elif damage == "manifest":
        (bad / "manifest.json").unlink()
    else:
        (bad / "manifest.json").write_text('{"files"')
    assert latest_checkpoint(tmp_path) == good
    assert resolve_checkpoint(tmp_path) == good
    with pytest.raises(CheckpointError, match=fault):
        resolve_checkpoint(bad)


def test_rewind_sets_later_checkpoints_aside(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for iteration in (1, 2, 3):
        store.publish(iteration, writing(b"first"))
    store.rewind(1)
    assert visible(tmp_path) == ["iteration_000001", "latest", "superseded"]
    assert (tmp_path / "latest").read_text() == "iteration_000001\n"
    store.publish(2, writing(b"second"))
    store.rewind(1)
    assert visible(tmp_path / "superseded") == ["iteration_000002", "iteration_000002-2", "iteration_000003"]
    assert content(tmp_path / "superseded" / "iteration_000002-2") == b"second"


def test_errors_say_what_there_is_instead(tmp_path: Path) -> None:
    (tmp_path / "other-run").mkdir()
    with pytest.raises(CheckpointError, match=r"no such run folder. In .*: other-run"):
        resolve_checkpoint(tmp_path / "othr-run")
    with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
        resolve_checkpoint(tmp_path / "other-run")
    with pytest.raises(CheckpointError, match="expected a folder named like 'iteration_000010'"):
        verify_checkpoint(tmp_path)
    assert latest_checkpoint(tmp_path / "nowhere") is None
