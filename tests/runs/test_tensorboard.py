from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.text import text_plugin

from flexgym.core.metrics import Histogram, Max, Mean
from flexgym.runs.trackers import Table, TrackedRun
from flexgym.runs.trackers.tensorboard import TensorBoard


@contextlib.contextmanager
def opened(folder: Path, last: int | None = None) -> Iterator[TensorBoard]:
    tracker = TensorBoard(TrackedRun("0" * 16, "run", folder, {}, last))
    yield tracker
    tracker.close()


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "scalars": 0}).Reload()


def test_curves_grids_and_videos_read_back(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    frames = np.stack([np.full((6, 8, 3), level, np.uint8) for level in (0, 90, 250)])
    with opened(tmp_path) as log:
        log.metrics({"iteration": 3, "reward/mean": np.float32(0.5), "bad": float("nan"), "text": "x", "none": None}, 3)
        log.image("samples/grid", image, 3)
        log.video("samples/video", frames, 3, fps=4)
    events = read(tmp_path)
    assert events.Tags()["scalars"] == ["reward/mean"]
    assert [(event.step, event.value) for event in events.Scalars("reward/mean")] == [(3, 0.5)]
    stored = events.Images("samples/grid")[0]
    assert (stored.step, stored.height, stored.width) == (3, 6, 8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(stored.encoded_image_string))), image)
    film = Image.open(io.BytesIO(events.Images("samples/video")[0].encoded_image_string))
    assert (film.format, film.n_frames) == ("GIF", 3)


def test_a_resumed_run_hides_the_curve_that_it_replaces(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        for iteration in range(5):
            log.metrics({"reward/mean": 1.0}, iteration)
    with opened(tmp_path, last=2) as log:
        log.metrics({"reward/mean": 2.0}, 3)
    values = [(event.step, event.value) for event in read(tmp_path).Scalars("reward/mean")]
    assert values == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0)]


def test_metrics_become_described_curves_and_distributions(tmp_path: Path) -> None:
    row = {
        "nft/loss": Mean(0.5, label="loss"),
        "nft/wait_s": Max(2.0, unit="s", panel="hidden"),
        "nft/nothing": Mean(float("nan")),
        "nft/norms": Histogram(np.array([1.0, 2.0, 6.0], dtype=np.float32)),
    }
    with opened(tmp_path) as log:
        log.metrics(row, 1)
        log.metrics({"nft/loss": Mean(0.25, label="loss")}, 2)
    events = read(tmp_path)
    assert sorted(events.Tags()["scalars"]) == ["nft/loss", "nft/norms", "nft/wait_s"]
    assert [(event.step, event.value) for event in events.Scalars("nft/loss")] == [(1, 0.5), (2, 0.25)]
    assert events.Scalars("nft/norms")[0].value == 3.0
    assert events.SummaryMetadata("nft/loss").summary_description == "loss, mean"
    assert events.SummaryMetadata("nft/wait_s").summary_description == "max in s"
    (distribution,) = events.Histograms("nft/norms/distribution")
    assert (distribution.histogram_value.num, distribution.histogram_value.max) == (3.0, 6.0)


def test_a_run_that_goes_back_hides_the_curve_in_the_same_file(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        for iteration in range(5):
            log.metrics({"reward/mean": 1.0}, iteration)
        log.rewind(2)
        log.metrics({"reward/mean": 2.0}, 3)
    values = [(event.step, event.value) for event in read(tmp_path).Scalars("reward/mean")]
    assert values == [(0, 1.0), (1, 1.0), (2, 1.0), (3, 2.0)]


def test_text_in_tables_is_shown_as_text(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script> [x](javascript:y) **b** a|b"
    with opened(tmp_path) as log:
        log.table("judge", Table(("caption", "points"), ((hostile, 7.5), ("a", None))), 3)
    (event,) = read(tmp_path).Tensors("judge")
    assert (event.step, [dim.size for dim in event.tensor_proto.tensor_shape.dim]) == (3, [3, 2])
    cells = np.array([cell.decode() for cell in event.tensor_proto.string_val]).reshape(3, 2)
    shown = text_plugin.text_array_to_html(cells, enable_markdown=True)
    assert "<script" not in shown
    assert "<a" not in shown
    assert "<strong>" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt; [x](javascript:y) **b** a|b" in shown
    assert "7.5" in shown
