from __future__ import annotations

from pathlib import Path

import pytest

from flexgym.core import lock as module
from flexgym.core.errors import CheckpointError
from flexgym.core.lock import FolderLock


def test_a_taken_lock_names_its_holder_and_stays_taken(tmp_path: Path) -> None:
    with FolderLock(tmp_path):
        for _ in range(2):
            with pytest.raises(CheckpointError, match=f"{tmp_path}: the run is open in this process"):
                FolderLock(tmp_path)
    with FolderLock(tmp_path):
        pass


def test_the_note_of_an_earlier_holder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("99999999 on another-host, with a long note that must not remain")
    with FolderLock(tmp_path):
        assert (tmp_path / "lock").read_text() == module._note()


def test_a_file_system_without_locks_locks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_locks(descriptor: int, *, blocking: bool = True) -> bool:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(module, "lock_descriptor", without_locks)
    with FolderLock(tmp_path), FolderLock(tmp_path):
        pass


def test_releasing_twice_does_nothing(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.release()
    lock.release()
