from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from flexgym.core.errors import ConfigError
from flexgym.core.metrics import Histogram, Max, Mean, Share
from flexgym.runs.metrics import SCHEMA, MetricsLog, read_metrics, read_schema


def test_one_object_per_line_and_nan_is_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.append({"iteration": 0, "reward/mean": float("nan"), "eval/accuracy": np.float32(0.5)})
        log.append({"iteration": np.int64(1), "reward/mean": torch.tensor(0.25), "per_prompt": np.array([1.0, np.inf])})
        # on the disk while the log is still open
        assert path.read_text().splitlines()[0] == '{"iteration": 0, "reward/mean": null, "eval/accuracy": 0.5}'
    assert read_metrics(path)[1] == {"iteration": 1, "reward/mean": 0.25, "per_prompt": [1.0, None]}


@pytest.mark.parametrize("iteration", [3, 2, None, 4.0, True, "5"])
def test_iterations_must_rise(tmp_path: Path, iteration: object) -> None:
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.append({"iteration": 3})
        with pytest.raises(ConfigError, match="integer 'iteration' above 3"):
            log.append({"iteration": iteration})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"iteration": 3}]


def test_a_value_that_json_cannot_hold_is_named_and_not_written(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        with pytest.raises(ConfigError, match="metric 'when': expected a number, text .* got object"):
            log.append({"iteration": 0, "when": object()})
        log.append({"iteration": 0})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"iteration": 0}]


@pytest.mark.parametrize("cut", [1, 5, 14])
def test_opening_repairs_a_half_written_line(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = "".join(json.dumps({"iteration": number}) + "\n" for number in range(3))
    path.write_text(whole + '{"iteration": 3, "reward/mean": 0.5}'[:cut])
    with MetricsLog(path) as log:
        assert path.read_text() == whole
        log.append({"iteration": 3, "again": True})
    assert [row["iteration"] for row in read_metrics(path)] == [0, 1, 2, 3]


def test_a_whole_row_without_its_line_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 0}\n{"iteration": 1}')
    with MetricsLog(path) as log:
        log.append({"iteration": 2})
    assert path.read_text() == '{"iteration": 0}\n{"iteration": 1}\n{"iteration": 2}\n'


def test_resuming_drops_the_rows_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        for number in range(6):
            log.append({"iteration": number, "try": 1})
    with MetricsLog(path, through=3) as log:
        log.append({"iteration": 4, "try": 2})
    assert [(row["iteration"], row["try"]) for row in read_metrics(path)] == [(0, 1), (1, 1), (2, 1), (3, 1), (4, 2)]


def test_reading_a_missing_file_gives_nothing(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_metrics_are_plain_numbers_in_a_row_and_described_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    row = {
        "iteration": 1,
        "loss/policy": Mean(torch.tensor([1.0, 2.0])),
        "loss/kl": Mean(float("nan")),
        "nft/positive": Share(0.5, label="positive", priority=3),
        "nft/norms": Histogram(torch.tensor([1.0, 5.0])),
        "samples": 4,
    }
    with MetricsLog(path) as log:
        log.append(row)
        log.append({"iteration": 2, "time/update_s": Max(3.0, unit="s", panel="time")})
    assert path.read_text().splitlines()[0] == (
        '{"iteration": 1, "loss/policy": 1.5, "loss/kl": null, "nft/positive": 0.5, "nft/norms": 3.0, "samples": 4}'
    )
    schema = read_schema(path)
    assert list(schema) == ["loss/policy", "loss/kl", "nft/positive", "nft/norms", "time/update_s"]
    assert schema["nft/positive"].describe() == row["nft/positive"].describe()
    assert schema["time/update_s"].describe() == Max(unit="s", panel="time").describe()
    assert json.loads((tmp_path / SCHEMA).read_text())["nft/norms"]["kind"] == "Histogram"


def test_a_resumed_run_knows_the_metrics_of_its_first_part(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.append({"iteration": 1, "a": Mean(1.0, label="first")})
    with MetricsLog(path, through=0) as log:
        assert log.schema["a"].label == "first"
        log.append({"iteration": 1, "a": Mean(1.0, label="second"), "b": Max(2.0)})
    assert {name: metric.label for name, metric in read_schema(path).items()} == {"a": "second", "b": ""}


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 3}'])
def test_a_broken_schema_only_costs_the_labels(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / SCHEMA).write_text(text)
    assert read_schema(tmp_path / "metrics.jsonl") == {}
    assert SCHEMA in caplog.text
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.append({"iteration": 1, "a": Mean(1.0)})
    assert list(read_schema(tmp_path / "metrics.jsonl")) == ["a"]


def test_runs_without_metrics_have_no_schema(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.append({"iteration": 1, "a": 1.0})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
