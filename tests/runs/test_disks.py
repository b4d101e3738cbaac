"""Full, read-only and vanished disks, links and leftovers in a run folder: one sentence, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from flexgym.config import RunSettings
from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.core.terminal import teaching_errors
from flexgym.generators.saving import write_folder
from flexgym.runs.export import export_generator
from flexgym.runs.folder import RunFolder
from flexgym.runs.loop import TrainingRun
from flexgym.runs.metrics import read_metrics
from tests.runs.damage import write_run
from tests.runs.test_loop import Counter, run


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that takes no larger file: what a full one does, without the rights to mount one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, previous)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


class Heavy(Counter):
    """A trainer with a checkpoint of 200 kB."""

    def save(self, folder: Path):
        super().save(folder)
        (folder / "weights").write_bytes(os.urandom(200_000))


def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(small_disk: Path):
    with pytest.raises(CheckpointError, match=r"iteration_000002 cannot be written .*: the disk is full$"):
        run(small_disk, Heavy(), checkpoint_interval=1)
    folder = small_disk / "run"
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["iteration_000001", "latest"]
    with RunFolder.resume(folder) as opened:
        assert opened.start_iteration == 1


def test_a_file_that_may_not_grow_is_one_sentence_too(tmp_path: Path):
    heavy = Heavy(before_step=lambda counter: None)
    with largest_file(100_000), pytest.raises(CheckpointError, match="cannot be written.*larger than the limit"):
        run(tmp_path, heavy, checkpoint_interval=1)
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["iteration"] == 1


def test_a_disk_that_cannot_be_written_to_is_named_before_training(small_disk: Path):
    folder = run(small_disk, Counter(), iterations=1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    counter = Counter()
    with pytest.raises(ConfigError, match=r"run.root: .*the disk is read-only"):
        run(small_disk / "new", counter)
    with pytest.raises(ConfigError, match=r"run cannot be opened for writing.*the disk is read-only"):
        run(small_disk, counter, resume=folder)
    with pytest.raises(CheckpointError, match="cannot be written: .*read-only"):
        export_generator(write_run(small_disk.parent / "other", (1,)), small_disk / "out")
    assert not counter.calls


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_run_folder_that_vanishes_is_noticed_with_the_next_row(how, tmp_path: Path):
    def vanish(counter: Counter) -> None:
        if counter.iteration == 1:
            if how == "deleted":
                shutil.rmtree(tmp_path / "run")
            else:
                (tmp_path / "run").rename(tmp_path / "elsewhere")
            if how == "replaced":
                shutil.copytree(tmp_path / "elsewhere", tmp_path / "run")

    counter = Counter(before_step=vanish)
    with pytest.raises(CheckpointError, match="run: the run folder was deleted, moved or replaced while"):
        run(tmp_path, counter, iterations=90)
    assert counter.iteration == 2


def test_a_command_prints_one_line_for_errors_of_a_disk(tmp_path: Path, capsys):
    for error in (PermissionError(13, "Permission denied", "/x"), OSError(28, "No space left on device")):
        with pytest.raises(typer.Exit) as ended, teaching_errors():
            raise error
        assert ended.value.exit_code == 2
    assert capsys.readouterr().err == "error: /x: no permission\nerror: the disk is full\n"
    with pytest.raises(ConnectionRefusedError), teaching_errors():
        raise ConnectionRefusedError(111, "nobody is there")


def contents(path: Path) -> dict[Path, bytes]:
    return {each: each.read_bytes() for each in [path, *path.rglob("*")] if each.is_file()}


@pytest.mark.parametrize(
    "name",
    ["lock", "metrics.jsonl", "metrics_schema.json", "config.yaml", "samples", "failed_samples", "tensorboard"]
    + ["samples/iteration_000003.png", "checkpoints"],
)
def test_a_run_folder_with_a_link_is_rejected_by_name(name, tmp_path: Path):
    folder = run(tmp_path, Counter())
    victim = tmp_path / "victim"
    path = folder / name
    if path.is_dir() or "." not in name and name != "lock":
        if path.exists():
            path.rename(victim)
        else:
            victim.mkdir()
    else:
        victim.write_text('{"iteration": 0}\n')
        path.unlink(missing_ok=True)
    path.symlink_to(victim)
    before = contents(victim)
    with pytest.raises(CheckpointError, match=f"{name} is a link"):
        run(tmp_path, Counter(), resume=folder)
    assert contents(victim) == before


def test_export_copies_nothing_through_a_link_and_nothing_that_is_not_listed(tmp_path: Path):
    folder = write_run(tmp_path / "run")
    generator = folder / "checkpoints" / "iteration_000002" / "generator"
    (generator / "passwd").symlink_to("/etc/passwd")  # not in the manifest
    (generator / "pipeline.py").write_text("raise SystemExit")
    exported = export_generator(folder, tmp_path / "out")
    assert exported.iteration == 2
    assert not (exported.folder / "passwd").is_symlink()
    assert not (exported.folder / "pipeline.py").exists()
    index = generator / "model_index.json"
    (tmp_path / "same.json").write_bytes(index.read_bytes())
    index.unlink()
    index.symlink_to(tmp_path / "same.json")  # the same content
    assert export_generator(folder, tmp_path / "again").iteration == 1


def test_export_refuses_files_that_could_run_code(tmp_path: Path):
    from flexgym.runs.checkpoints import CheckpointStore
    from tests.runs.damage import write_checkpoint

    def planted(folder: Path) -> None:
        write_checkpoint(folder)
        (folder / "generator" / "transformer" / "model.bin").write_bytes(pickle.dumps(print))

    CheckpointStore(tmp_path / "run" / "checkpoints").publish(1, planted)
    with pytest.raises(CheckpointError, match=r"transformer/model\.bin: expected only .*nothing is exported"):
        export_generator(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_next_start_removes_what_a_killed_one_left(tmp_path: Path):
    folder = run(tmp_path, Counter(), iterations=1)
    for place in (folder, folder / "samples", folder / "checkpoints"):
        name = "iteration_000009" if place.name == "checkpoints" else "x"
        (place / f".tmp-{name}-0123456789ab").write_text("half")
    run(tmp_path, Counter(), resume=folder)
    assert not list(folder.rglob(".tmp-*"))
    (tmp_path / ".tmp-saved-0123456789ab").mkdir()
    write_folder(tmp_path / "saved", lambda partial: (partial / "x").write_text("x") and None)
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_run_is_built_by_nothing_that_its_folder_names_as_pickled(tmp_path: Path):
    """What FlexGym writes in a run folder never begins as a pickle does."""
    folder = run(tmp_path, Counter())
    TrainingRun(Counter(), RunSettings(), resume=folder).folder.close()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".pth", ".bin", ".npy", ".zip")]
    assert not [path for path in files if path.read_bytes()[:1] == b"\x80"]
