from __future__ import annotations

import json
import os
import pickle
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest

from flexgym.data import BadRows, DataError, IndexedRows, PreferencePair, ReadOptions, RowError, SFTRow, indexing
from tests.data.builders import QUICK, image_bytes, pair, sft, write_images, write_lines, write_parquet

LENIENT = ReadOptions(check="none", bad=BadRows(max_share=1.0))


def mixed(tmp_path):
    """Rows 0 to 8 in three files, with bad ones between them."""
    lines = [pair(id=0), "{", "", pair(id="1", prompt="ein Fuchs, 狐"), pair(winner=9), pair(id=2)]
    group = [pair(id=str(number)) if number != 4 else pair(id="bad", winner=7) for number in (3, 4, 5, 6)]
    return [
        write_lines(tmp_path / "1.jsonl", lines),
        write_parquet(tmp_path / "2.parquet", group, row_group_size=2),
        write_lines(tmp_path / "3.jsonl", [pair(id=7), pair(id=8)]),
    ]


def ids(rows):
    return [rows[number].id for number in range(len(rows))]


def test_good_rows_by_number(tmp_path):
    rows = IndexedRows.open(mixed(tmp_path), PreferencePair, options=LENIENT)
    assert ids(rows) == ["0", "1", "2", "3", "5", "6", "7", "8"]
    assert (rows.report.good, rows.report.bad) == (8, {"not_json": 1, "invalid": 2})
    assert rows[1].prompt == "ein Fuchs, 狐"
    assert rows[np.int64(-1)].id == "8"
    assert [row.id for row in rows] == ids(rows)
    for number in (8, -9):
        with pytest.raises(IndexError):
            rows[number]
    with pytest.raises(TypeError):
        rows["1"]
    order = np.random.default_rng(0).permutation(8)
    assert [rows[number].id for number in order] == [ids(rows)[number] for number in order]


def test_reading_through_is_the_check_of_the_data(tmp_path):
    write_images(tmp_path, "a.png", "b.png")
    (tmp_path / "cut.jpg").write_bytes(image_bytes(size=(64, 64))[:-300])
    path = write_lines(tmp_path / "d.jsonl", [pair(), pair(second="cut.jpg"), pair(second="none.jpg")])
    options = ReadOptions(bad=BadRows(max_share=0.7, rejects=tmp_path / "rejects.jsonl"))
    rows = IndexedRows.open(path, PreferencePair, options=options)
    assert len(rows) == 1
    assert rows.report.bad == {"unreadable_media": 1, "missing_file": 1}
    assert len((tmp_path / "rejects.jsonl").read_text().splitlines()) == 2
    with pytest.raises(DataError, match="1 of the first 2 rows are bad"):
        IndexedRows.open(path, PreferencePair, options=replace(options, bad=BadRows(0.1, 1)))


def measure(row):
    if row.reply == "long":
        raise RowError("too_long", "a reply longer than the context")
    return len(row.reply)


def test_lengths_and_rows_that_are_refused_by_them(tmp_path):
    replies = ["ab", "long", "abcdef"]
    users = {"role": "user", "content": "?"}
    lines = [sft(messages=[users, {"role": "assistant", "content": reply}]) for reply in replies]
    rows = IndexedRows.open(write_lines(tmp_path / "d.jsonl", lines), SFTRow, options=LENIENT, measure=measure)
    assert rows.lengths.tolist() == [2, 6]
    assert rows.lengths.dtype == np.int64
    assert rows.report.bad == {"too_long": 1}
    assert [row.reply for row in rows] == ["ab", "abcdef"]


def row_id(rows, number):
    return rows[number].id


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same_rows(tmp_path, method):
    rows = IndexedRows.open(mixed(tmp_path), PreferencePair, options=LENIENT)
    expected = ids(rows)
    assert ids(pickle.loads(pickle.dumps(rows))) == expected
    assert len(pickle.dumps(rows)) < 10_000
    with ProcessPoolExecutor(2, get_context(method)) as pool:
        assert list(pool.map(row_id, [rows] * 24, list(range(8)) * 3)) == expected * 3


def test_a_saved_index_is_taken_while_nothing_changes(tmp_path, monkeypatch):
    files, saved = mixed(tmp_path), tmp_path / "run" / "index.npz"
    first = IndexedRows.open(files, PreferencePair, options=LENIENT, saved=saved)

    def forbidden(stream):
        raise AssertionError("the files were read through")

    with monkeypatch.context() as patch:
        patch.setattr(indexing, "_read_through", forbidden)
        again = IndexedRows.open(files, PreferencePair, options=LENIENT, saved=saved)
        assert ids(again) == ids(first)
        assert again.report == first.report
        for changes in (
            {"saved_for": "another tokenizer"},
            {"options": replace(LENIENT, check="exists")},
            {"options": replace(LENIENT, bad=BadRows(max_share=0.9))},
        ):
            with pytest.raises(AssertionError, match="read through"):
                IndexedRows.open(files, PreferencePair, saved=saved, **({"options": LENIENT} | changes))
        with pytest.raises(AssertionError, match="read through"):
            IndexedRows.open(files[:2], PreferencePair, options=LENIENT, saved=saved)
    write_lines(files[2], [pair(id=7), pair(id="new")])
    assert ids(IndexedRows.open(files, PreferencePair, options=LENIENT, saved=saved))[-1] == "new"


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04 rubbish"])
def test_a_broken_index_is_made_anew(tmp_path, content):
    (tmp_path / "index.npz").write_bytes(content)
    path = write_lines(tmp_path / "d.jsonl", [pair(id=1)])
    for _ in range(2):
        assert ids(IndexedRows.open(path, PreferencePair, options=QUICK, saved=tmp_path / "index.npz")) == ["1"]


def test_files_that_change_under_the_reader(tmp_path):
    path = write_lines(tmp_path / "d.jsonl", [pair(id=1), pair(id=2)])
    rows = IndexedRows.open(path, PreferencePair, options=QUICK)
    path.write_text(json.dumps(pair(id=1, prompt="longer than before")) + "\n")
    with pytest.raises(DataError, match="row 1 was valid when the file was indexed, but no longer is"):
        rows[1]
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        rows[0]
    path = write_parquet(tmp_path / "d.parquet", [pair(id="1"), pair(id="2")])
    rows = IndexedRows.open(path, PreferencePair, options=QUICK)
    write_parquet(path, [pair(id="1")])
    with pytest.raises(DataError, match="the file has only 1 rows"):
        rows[1]


def test_the_rows_are_not_in_memory(tmp_path):
    path = tmp_path / "d.jsonl"
    with path.open("w") as file:
        for number in range(1000):
            file.write(json.dumps(pair(id=number, surplus="x" * 20_000)) + "\n")
    tracemalloc.start()
    rows = IndexedRows.open(path, PreferencePair, options=QUICK)
    assert [rows[number].id for number in (999, 0, 500)] == ["999", "0", "500"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000  # of 20 MB


def test_row_groups_of_parquet_are_kept_for_a_while(tmp_path, monkeypatch):
    rows = [pair(id=str(number), first={"bytes": os.urandom(1000), "path": None}) for number in range(8)]
    path = write_parquet(tmp_path / "d.parquet", rows, row_group_size=2)
    indexed = IndexedRows.open(path, PreferencePair, options=QUICK)
    read = []
    original = indexing._read_group
    monkeypatch.setattr(indexing, "_read_group", lambda *about: read.append(about[1]) or original(*about))
    assert [indexed[number].id for number in (0, 1, 2, 0, 3, 6, 0)] == ["0", "1", "2", "0", "3", "6", "0"]
    assert read == [0, 2, 6, 0]  # the last two groups are kept
    monkeypatch.setattr(indexing, "MAX_GROUP_BYTES", 1000)
    with pytest.raises(DataError, match="row group 2 takes .* write smaller groups, or JSON Lines"):
        indexed[4]
