"""Runs at a URL: a folder by its URL, and an S3 server of its own where s3fs and moto are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexgym.core.errors import CheckpointError
from flexgym.core.urls import url_of
from flexgym.runs import storage
from flexgym.runs.export import export_generator
from flexgym.runs.folder import RunFolder
from flexgym.runs.metrics import read_metrics
from flexgym.runs.recipe import saved_recipe
from flexgym.runs.storage import RemoteRun
from tests.runs.damage import DAMAGES, REQUIRED, write_checkpoint
from tests.runs.test_loop import Counter, run


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "flexgym" / "runs"


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """The URL of a bucket of an S3 server that lasts as long as this file."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        import s3fs

        s3fs.S3FileSystem(endpoint_url=f"http://{host}:{port}").mkdir("bucket")
        yield "s3://bucket/runs"
    server.stop()


@pytest.fixture(params=["file", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/store/runs"
    return f"{request.getfixturevalue('s3')}/{tmp_path.name}"


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("s3://bucket/a/", "s3://bucket/a"),
        (Path("s3://bucket/a"), "s3://bucket/a"),
        (Path("file:///tmp/a"), "file:///tmp/a"),
        ("gs://b/checkpoints/iteration_000001", "gs://b/checkpoints/iteration_000001"),
        ("runs/a", None),
        (Path("/tmp/a:b"), None),
        ("C:/runs", None),
    ],
)
def test_what_a_url_is(path, url):
    assert url_of(path) == url


def there(url: str, folder: str = "") -> list[str]:
    return sorted(RemoteRun(url).names(folder))


def test_a_run_at_a_url_trains_resumes_and_leaves_nothing_here(root: str, cache: Path, capsys):
    work = run(root, Counter(), iterations=2, checkpoint_interval=1)
    url = f"{root}/run"
    assert not work.exists()
    assert not list(cache.iterdir())
    out = capsys.readouterr().out
    assert f"checkpoints: {url}" in out
    names = there(url)
    assert {"config.yaml", "config_newest", "metrics.jsonl", "metrics_schema.json", "owner"} <= set(names)
    assert "samples/iteration_000002.png" in names
    assert any(name.startswith("tensorboard/events") for name in names)
    assert not [name for name in names if "lock" in name or ".tmp" in name]
    counter = Counter()
    run(root, counter, resume=Path(url), iterations=4, checkpoint_interval=1)
    assert counter.calls == ["build", "restore", "final", "close"]
    assert saved_recipe(url)["run"]["iterations"] == 4
    checkpoints = {name.split("/")[0] for name in there(url, "checkpoints") if name.startswith("iteration")}
    assert checkpoints == {"iteration_000002", "iteration_000003", "iteration_000004"}
    with storage.local_run(url) as copy:
        assert [row["iteration"] for row in read_metrics(copy / "metrics.jsonl")] == [0, 1, 2, 3, 4]
    run(root, Counter(), resume=Path(f"{url}/checkpoints/iteration_000003"), iterations=3)
    assert "superseded/iteration_000004/manifest.json" in there(url, "checkpoints")
    with storage.local_run(url) as copy:
        assert [row["iteration"] for row in read_metrics(copy / "metrics.jsonl")] == [0, 1, 2, 3]


def test_a_taken_name_gets_a_number_at_a_url_too(root: str):
    for expected in ("run", "run-2"):
        with RunFolder.create(root, "run") as opened:
            assert opened.shown == f"{root}/{expected}"


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """The folder behind a URL, with checkpoints of a pipeline."""
    folder = tmp_path / "store" / "run"
    with RunFolder.create(f"file://{tmp_path}/store", "run") as opened:
        opened.write_config({"run": {"name": "run"}})
        for iteration in (1, 2):
            opened.metrics.append({"iteration": iteration})
            opened.checkpoints.publish(iteration, write_checkpoint, required=REQUIRED)
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name", ["manifest.json", pytest.param("algorithm/learner/tensors.safetensors", marks=pytest.mark.slow)]
)
def test_a_damaged_checkpoint_at_a_url_is_set_aside(stored: Path, damage: str, name: str, tmp_path: Path, caplog):
    DAMAGES[damage](stored / "checkpoints" / "iteration_000002" / name)
    assert export_generator(f"file://{stored}", tmp_path / "out").iteration == 1
    assert name in caplog.text
    with RunFolder.resume(f"file://{stored}") as opened:
        assert opened.start_iteration == 1
    assert (stored / "checkpoints" / "damaged" / "iteration_000002").is_dir()
    assert not [path for path in (stored / "checkpoints" / "iteration_000002").rglob("*") if path.is_file()]
    assert f"moved to file://{stored}/checkpoints/damaged/iteration_000002" in caplog.text
    with pytest.raises(CheckpointError, match="holds no iteration_000002; there are iteration_000001"):
        RunFolder.resume(f"file://{stored}/checkpoints/iteration_000002")


def test_who_opens_a_run_second_takes_it_over(stored: Path):
    url = f"file://{stored}"
    first = RunFolder.resume(url)
    with RunFolder.resume(url) as second:
        second.metrics.append({"iteration": 3})
        first.metrics.append({"iteration": 3})
        with pytest.raises(CheckpointError, match="another process has opened this run in the meantime"):
            first.checkpoints.publish(3, write_checkpoint)
        with pytest.raises(CheckpointError, match="What was not uploaded is in .*unsaved-run-"):
            first.close()
        second.checkpoints.publish(3, write_checkpoint)
    assert (stored / "checkpoints" / "iteration_000003" / "manifest.json").is_file()


def test_what_is_wrong_with_a_url_is_said_in_one_sentence(tmp_path: Path):
    for url, message in (
        ("nosuch://a/b", "cannot be opened: .*nosuch"),
        (f"file://{tmp_path}/empty", "there is no run"),
    ):
        with pytest.raises(CheckpointError, match=message):
            RunFolder.resume(url)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot be"):
        RunFolder.create(f"file://{tmp_path}/file/runs", "a")
