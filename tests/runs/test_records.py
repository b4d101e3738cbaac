"""What runs keep for reports."""

from __future__ import annotations

import json

import numpy as np

from flexgym.config import RecordSettings
from flexgym.runs.record_files import HELD_OUT, JUDGED, MAX_FILES, record_files, remove_later_records
from flexgym.runs.records import Records, category_of_prompt, reduced
from flexgym.runs.verification import Verification
from flexgym.types import Prompt
from tests.report.written import judged_group, pixels


def verification(count: int, samples=None) -> Verification:
    samples = pixels(count) if samples is None else samples
    return Verification([f"p{number}" for number in range(count)], samples, np.ones(count, np.float32))


def rows(run, kind, iteration):
    return [json.loads(line) for line in record_files(run, kind)[iteration].read_text().splitlines()]


def test_prompts_are_evenly_spaced_and_bounded(tmp_path):
    Records(tmp_path, RecordSettings(prompts=4)).held_out(verification(8), 5)
    assert [row["prompt"] for row in rows(tmp_path, HELD_OUT, 5)] == ["p0", "p2", "p4", "p6"]
    videos = np.zeros((8, 2, 16, 16, 3), np.uint8)
    Records(tmp_path, RecordSettings(prompts=4)).held_out(verification(8, videos), 6)
    assert [row["prompt"] for row in rows(tmp_path, HELD_OUT, 6)] == ["p0"]


def test_nothing_is_kept_where_that_is_switched_off(tmp_path):
    records = Records(tmp_path, RecordSettings(prompts=0, groups=0))
    records.held_out(verification(3), 1)
    records.judged([judged_group("a", [0.1, 0.2], {(0, 1): 0})], 1)
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_files_is_bounded_and_the_first_and_last_stay(tmp_path):
    records = Records(tmp_path, RecordSettings(prompts=1))
    for iteration in range(0, 300, 5):
        records.held_out(verification(1), iteration)
    kept = list(record_files(tmp_path, HELD_OUT))
    assert len(kept) == MAX_FILES
    assert (kept[0], kept[-1]) == (0, 295)
    assert max(np.diff(kept)) <= 20


def test_a_resumed_run_writes_later_records_anew(tmp_path):
    records = Records(tmp_path, RecordSettings(prompts=1, groups=1))
    for iteration in (0, 10, 20):
        records.held_out(verification(1), iteration)
        records.judged([judged_group("a", [0.1, 0.2], {(0, 1): 0})], iteration)
    remove_later_records(tmp_path, 10)
    assert list(record_files(tmp_path, HELD_OUT)) == list(record_files(tmp_path, JUDGED)) == [0, 10]


def test_replies_are_cut(tmp_path):
    group = judged_group("a", [0.1, 0.2], {(0, 1): 0, (1, 0): None}, words="x" * 50_000)
    Records(tmp_path, RecordSettings()).judged([group], 1)
    assert record_files(tmp_path, JUDGED)[1].stat().st_size < 50_000
    [row] = rows(tmp_path, JUDGED, 1)
    assert row["pairs"][0]["winner"] == "Image 1"
    assert row["pairs"][1]["failure"] == "unparsable"


def test_samples_are_reduced():
    assert reduced(pixels(1, side=300)[0], 32)[8:12] == b"WEBP"
    assert reduced(np.zeros((3, 40, 40, 3), np.uint8), 32)[4:8] == b"ftyp"


def test_categories_come_from_the_prompt_or_the_small_world():
    assert category_of_prompt(Prompt("x", {"category": "color"})) == "color"
    assert category_of_prompt(Prompt("a red circle"))
    assert category_of_prompt(Prompt("an unknown caption")) == ""
