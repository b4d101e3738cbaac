"""The services themselves, offline or on this machine: one run with all that are installed, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexgym.judge import Verdict
from flexgym.runs.loop import Measured
from flexgym.runs.metrics import read_metrics
from flexgym.runs.trackers import registry
from flexgym.runs.trackers.registry import is_installed
from flexgym.runs.verification import Verification
from tests.runs.test_loop import Counter, run
from tests.runs.test_trackers import group

ROOT = Path(__file__).parents[2]
SERVICES = ("wandb", "mlflow", "swanlab", "trackio")
INSTALLED = [name for name in SERVICES if is_installed(name)]
CAPTION = "a <script>alert(1)</script> \x1b[31mred circle"

pytestmark = pytest.mark.slow


class Filmed(Counter):
    """Verifies images before training and videos after it, and has a judge."""

    def measure(self, *, final: bool) -> Measured | None:
        shape = (1, 3, 16, 16, 3) if final else (1, 16, 16, 3)
        verified = Verification(["a"], np.full(shape, 90, np.uint8), np.float32([1.0]))
        return Measured({}, verified)

    def step(self) -> Measured:
        measured = super().step()
        return Measured(measured.metrics, judged=[group(CAPTION, [Verdict("Image 2")])])


def variables(folder: Path) -> dict[str, str]:
    """Where every service keeps its files, without any server."""
    return {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder),
        "WANDB_SILENT": "true",
        "SWANLAB_MODE": "offline",
        "SWANLAB_LOG_DIR": str(folder / "swanlog"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "TRACKIO_DIR": str(folder / "trackio"),
    }


def wait_written(folder: Path) -> None:
    """Wait until SwanLab, which writes now and then, has written rows; the others write at once."""
    deadline = time.monotonic() + ("swanlab" in INSTALLED) * 60.0
    time.sleep(1.5)
    while time.monotonic() < deadline:
        if any(b"nft/worst" in path.read_bytes() for path in folder.rglob("*.swanlab")):
            return
        time.sleep(0.5)


def begin(folder: Path) -> None:
    """Train until the process is killed in the third iteration; called in a process of its own."""

    def kill(counter: Counter) -> None:
        if counter.iteration == 3:
            wait_written(folder)
            os.kill(os.getpid(), signal.SIGKILL)

    registry._CONNECTING_S = 90.0  # MLflow makes a database, which is worth nothing half made
    run(folder, Filmed(before_step=kill), iterations=5, checkpoint_interval=2, trackers=INSTALLED)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """Return the folder of everything, and what the resumed part said."""
    folder = tmp_path_factory.mktemp("services")
    code = f"from pathlib import Path; from tests.runs.test_tracker_services import begin; begin(Path({str(folder)!r}))"
    environment = {**os.environ, **variables(folder), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, check=False, timeout=400)
    assert ended.returncode == -signal.SIGKILL
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in variables(folder).items():
            patch.setenv(name, value)
        run(folder, Filmed(), iterations=5, checkpoint_interval=2, trackers=INSTALLED, resume=folder / "run")
        yield folder, (folder / "run" / "run_id").read_text().strip()


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(name not in INSTALLED, reason=f"needs the extra flexgym[{name}]")


@pytest.mark.skipif(not INSTALLED, reason="needs one of the extras of trackers")
def test_the_rows_are_those_of_an_undisturbed_run(killed, tmp_path: Path):
    undisturbed = run(tmp_path, Filmed(), iterations=5, trackers=())
    assert read_metrics(killed[0] / "run" / "metrics.jsonl") == read_metrics(undisturbed / "metrics.jsonl")


def wandb_records(path: Path) -> Iterator[bytes]:
    """Read the records of a file that Weights & Biases writes offline: blocks of 32 kB, as LevelDB has them."""
    data, position, record = path.read_bytes(), 7, b""
    while position < len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def nested(items) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for item in items:
        *outer, last = item.nested_key or [item.key]
        (row.setdefault(outer[0], {}) if outer else row)[last] = json.loads(item.value_json)
    return row


@needs("wandb")
def test_wandb(killed):
    from wandb.proto import wandb_internal_pb2

    folder, run_id = killed
    parts = sorted((folder / "wandb").glob(f"offline-run-*-{run_id}"))
    assert len(parts) == 2
    rows: list[dict[str, Any]] = []
    for record in wandb_records(parts[1] / f"run-{run_id}.wandb"):
        parsed = wandb_internal_pb2.Record()
        parsed.ParseFromString(record)
        if parsed.WhichOneof("record_type") == "run":
            assert (parsed.run.run_id, parsed.run.display_name, parsed.run.project) == (run_id, "run", "flexgym")
        rows.append(nested(parsed.history.item))
    assert [row["iteration"] for row in rows if "nft/worst" in row] == [3, 4, 5]
    (film,) = [row["held_out"] for row in rows if "held_out" in row]
    assert film["_type"] == "video-file"
    tables = [row["judge"] for row in rows if "judge" in row]
    content = json.loads((parts[1] / "files" / tables[-1]["path"]).read_text())
    assert content["data"][0][:4] == [CAPTION.replace("\x1b", r"\x1b"), "sample 0", "sample 1", "sample 1"]
    assert list((parts[0] / "files" / "media" / "images").iterdir())


@needs("mlflow")
def test_mlflow(killed):
    import mlflow

    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("flexgym").experiment_id])
    assert (found.data.tags["flexgym.run"], found.info.run_name, found.info.status) == (killed[1], "run", "FINISHED")
    history = client.get_metric_history(found.info.run_id, "nft/worst")
    assert sorted({(each.step, each.value) for each in history}) == [(step, 2.5) for step in (1, 2, 3, 4, 5)]
    artifacts = {each.path for each in client.list_artifacts(found.info.run_id)}
    assert {"config.yaml", "config_from_000002.yaml", "images", "videos", "tables"} <= artifacts
    table = client.load_table(found.info.experiment_id, "tables/judge_000005.json", [found.info.run_id])
    assert table["caption"].tolist() == [CAPTION.replace("\x1b", r"\x1b")]


@needs("swanlab")
def test_swanlab(killed):
    folder, run_id = killed
    first, second = sorted((folder / "swanlog").glob(f"run-*-{run_id}"))
    assert b"nft/worst" in (first / f"run-{run_id}.swanlab").read_bytes()
    assert b"nft/worst" in (second / f"run-{run_id}.swanlab").read_bytes()
    assert list(first.rglob("*.png"))
    assert list(second.rglob("*.gif"))
    tables = [path.read_text() for path in second.rglob("*.json") if "rowData" in path.read_text()]
    assert any("sample 1" in table and "\x1b" not in table for table in tables)


@needs("trackio")
def test_trackio(killed):
    folder, run_id = killed
    with sqlite3.connect(folder / "trackio" / "flexgym.db") as database:
        rows = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
    assert {name for name, _, _ in rows} == {f"run-{run_id}"}
    logged = [(step, json.loads(metrics)) for _, step, metrics in rows]
    assert {step: row["nft/worst"] for step, row in logged if "nft/worst" in row} == dict.fromkeys(range(1, 6), 2.5)
    media = [row["held_out"] for _, row in logged if "held_out" in row]
    assert [each["_type"] for each in media] == ["trackio.image", "trackio.video"]
    tables = [row["judge"]["_value"] for _, row in logged if "judge" in row]
    assert tables[-1][0]["winner"] == "sample 1"
