"""Files that are complete or absent, that leave nothing behind, and that no link leads to."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.core.files import (
    copy_inside,
    copy_loaded,
    held_file,
    held_folder,
    open_inside,
    open_own,
    open_writing,
    regular_files,
    teaching_disk_errors,
    write_atomic,
)
from flexgym.core.lock import FolderLock


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that only links lead to."""
    path = tmp_path / "outside" / "victim"
    path.parent.mkdir()
    path.write_text("precious")
    return path


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("write", ["lock", "append", "anew", "atomic"])
def test_nothing_is_written_through_a_link(link, write, victim: Path, tmp_path: Path):
    folder = tmp_path / "run"
    folder.mkdir()
    name = "lock" if write == "lock" else "file"
    link(victim, folder / name)
    if write == "atomic":
        write_atomic(folder / name, b"new")
        assert (folder / name).read_bytes() == b"new"
        assert not (folder / name).is_symlink()
    else:
        with pytest.raises(CheckpointError, match="link"):
            {
                "lock": lambda: FolderLock(folder),
                "append": lambda: open_own(folder / name, os.O_WRONLY | os.O_APPEND),
                "anew": lambda: open_writing(folder / name),
            }[write]()
    assert victim.read_text() == "precious"


def test_files_are_opened_and_copied_by_name_without_links(victim: Path, tmp_path: Path):
    folder = tmp_path / "source"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "good").write_text("good")
    (folder / "link").symlink_to(victim)
    (folder / "away").symlink_to(victim.parent)
    os.mkfifo(folder / "pipe")
    with open_inside(folder, "inner/good") as file:
        assert file.read() == b"good"
    for name in ("link", "away/victim", "pipe", "../outside/victim", str(victim), "", "inner"):
        with pytest.raises(CheckpointError):
            open_inside(folder, name)
    with pytest.raises(FileNotFoundError):
        open_inside(folder, "inner/lost")
    copy_inside(folder, tmp_path / "copy", ["inner/good"])
    assert regular_files(tmp_path / "copy") == {"inner/good": 4}
    with pytest.raises(CheckpointError, match="link"):
        copy_inside(folder, tmp_path / "copy", ["link"])
    with pytest.raises(CheckpointError, match="(link|pipe|away) is"):
        regular_files(folder)


def test_a_model_of_the_hub_cache_is_copied_through_its_own_links_only(victim: Path, tmp_path: Path):
    model = tmp_path / "models--a--b"
    snapshot = model / "snapshots" / "1234"
    snapshot.mkdir(parents=True)
    (model / "blobs").mkdir()
    (model / "blobs" / "abcd").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/abcd")
    copy_loaded(snapshot, tmp_path / "copy", patterns=("*.json",))
    assert not (tmp_path / "copy" / "config.json").is_symlink()
    assert (tmp_path / "copy" / "config.json").read_text() == "{}"
    (snapshot / "other.json").symlink_to(victim)
    with pytest.raises(CheckpointError, match="other.json is a link out of its folder"):
        copy_loaded(snapshot, tmp_path / "copy", patterns=("*.json",))


LEAVE = """
import os, sys
from pathlib import Path
from flexgym.core.files import held_file, held_folder
target = Path(sys.argv[1])
with held_folder(target) as folder, held_file(target) as file:
    (folder / "part").write_text("x")
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_goes_and_what_a_running_one_holds_stays(tmp_path: Path):
    target = tmp_path / "out"
    subprocess.run([sys.executable, "-c", LEAVE, str(target)], check=False, timeout=60)
    assert len(list(tmp_path.glob(".tmp-out-*"))) == 2
    (tmp_path / ".tmp-other-0123456789ab").write_text("of another target")
    with held_folder(target) as folder:
        assert [path.name for path in tmp_path.glob(".tmp-out-*")] == [folder.name]
        with held_file(target):
            assert folder.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == [".tmp-other-0123456789ab"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "cannot be saved: /x/y: the disk is full"),
        (OSError(errno.EROFS, "?"), "cannot be saved: the disk is read-only"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "cannot be saved: the disk is full"),
        (ConnectionError("lost"), "cannot be saved: lost"),
    ],
)
def test_errors_of_a_disk_are_one_sentence(error, words):
    with pytest.raises(ConfigError) as found, teaching_disk_errors("it cannot be saved", ConfigError):
        raise error
    assert str(found.value) == f"it {words}"
