from __future__ import annotations

import json
import os
import tempfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexgym.core.errors import ConfigError, FlexGymError, UnknownNameError
from flexgym.data import BadRows, DataError, DPORow, PreferencePair, ReadOptions, SFTRow, read_rows, write_rows
from flexgym.data.raw import MAX_LINE, read_list
from tests.data.builders import (
    QUICK,
    image_bytes,
    pair,
    sft,
    write_images,
    write_lines,
    write_parquet,
    write_video,
)


def lenient(rejects=None, **changes):
    return ReadOptions(bad=BadRows(max_share=1.0, rejects=rejects), **changes)


def relative(rows, folder):
    """The rows with paths as they stand in the file."""
    return [
        row.with_files(lambda file: type(file)(path=os.path.relpath(file.path, folder)) if file.path else file)
        for row in rows
    ]


def test_good_rows_come_out_with_absolute_paths(tmp_path):
    write_images(tmp_path, "a.png", "sub/b.jpg")
    stream = read_rows(write_lines(tmp_path / "d.jsonl", [pair(second="sub/b.jpg")]), PreferencePair)
    (row,) = stream
    assert [file.path for file in row.media] == [str(tmp_path / "a.png"), str(tmp_path / "sub/b.jpg")]
    assert (stream.report.good, stream.report.num_bad, stream.report.describe()) == (1, 0, "rows: 1 good, 0 bad")


def test_several_files_are_read_in_order(tmp_path):
    first = write_lines(tmp_path / "1.jsonl", [pair(id=number) for number in range(3)])
    second = write_parquet(tmp_path / "2.parquet", [pair(id="3"), pair(id="4")])
    assert [row.id for row in read_rows([first, str(second)], PreferencePair, options=QUICK)] == list("01234")


BAD_LINES = [
    ('{"prompt": "a cat", ', "not_json", "Expecting"),
    (b'{"prompt": "\xff"}', "not_json", "UTF-8"),
    ("[" * 100_000, "not_json", "nested"),
    ('["a cat"]', "wrong_type", "expected a JSON object, got list"),
    ("null", "wrong_type", "got NoneType"),
    (json.dumps(pair(winner="DROP")), "missing_key", "'winner' is missing"),
    (json.dumps(pair(second=None)), "one_side", "'second' is missing"),
    (json.dumps(pair(prompt=5)), "wrong_type", "prompt"),
    (json.dumps(pair(winner=2)), "invalid", "winner"),
    (json.dumps(pair(second="c.png")), "missing_file", "there is no file 'c.png'"),
    (
        json.dumps(pair(second="cut.jpg")),
        "unreadable_media",
        "cut.jpg: cannot be read as an image: image file is trunc",
    ),
    (json.dumps(pair(second="text.png")), "unreadable_media", "cannot identify"),
    (json.dumps(pair(second="sub")), "missing_file", "there is no file 'sub'"),
    (json.dumps(pair(second="../a.png")), "outside_root", "'../a.png' leads to"),
    (json.dumps(pair(second="https://a.b/c.png")), "missing_file", "download the file"),
    (" " * MAX_LINE + json.dumps(pair()), "too_long", f"at most {MAX_LINE} bytes"),
]


@pytest.mark.parametrize(("line", "kind", "reason"), BAD_LINES, ids=[f"{row[1]}-{row[2]:.12}" for row in BAD_LINES])
def test_a_bad_row_is_reported_counted_and_set_aside(tmp_path, line, kind, reason):
    write_images(tmp_path, "a.png", "b.png")
    (tmp_path / "sub").mkdir()
    (tmp_path / "cut.jpg").write_bytes(image_bytes(size=(64, 64))[:-200])
    (tmp_path / "text.png").write_text("no image")
    path = write_lines(tmp_path / "d.jsonl", [pair(id=1), line, "", pair(id=2)])
    stream = read_rows(path, PreferencePair, options=lenient(tmp_path / "out" / "rejects.jsonl"))
    assert [row.id for row in stream] == ["1", "2"]
    assert stream.report.good == 2
    assert stream.report.bad == {kind: 1}
    assert stream.report.describe() == f"rows: 2 good, 1 bad (1 {kind})"
    (rejected,) = [json.loads(text) for text in stream.report.rejects.read_text().splitlines()]
    assert (rejected["file"], rejected["line"], rejected["kind"]) == (str(path), 2, kind)
    assert reason in rejected["reason"]
    assert stream.report.examples == (f"{path}, line 2: {rejected['reason']}",)
    raw = line if isinstance(line, str) else line.decode(errors="replace")
    assert len(rejected["raw"]) <= 2000
    assert raw.startswith(rejected["raw"])


def test_a_bad_row_of_parquet_is_named_by_its_number(tmp_path):
    def embedded(seed, cut=0):
        data = image_bytes(seed, size=(64, 64))
        return {"bytes": data[: len(data) - cut], "path": None}

    rows = [
        pair(first=embedded(0), second=embedded(1), winner=None),
        pair(first=embedded(0), second=embedded(1, cut=300)),
        pair(first=embedded(0), second=None),
        pair(first=embedded(2), second=embedded(3), winner=1),
    ]
    path = write_parquet(tmp_path / "d.parquet", rows, row_group_size=3)
    stream = read_rows(path, PreferencePair, options=lenient(tmp_path / "rejects.jsonl"))
    good = list(stream)
    assert [row.winner for row in good] == [None, 1]
    assert good[1].first[0].data == image_bytes(2, size=(64, 64))
    assert stream.report.bad == {"unreadable_media": 1, "one_side": 1}
    rejects = [json.loads(text) for text in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert [reject["row"] for reject in rejects] == [2, 3]
    assert f"<{len(rows[1]['second']['bytes'])} bytes>" in rejects[0]["raw"]


def test_arrow_maps_and_nulls(tmp_path):
    aspects = pa.array([[("quality", 1), ("motion", None)], None], pa.map_(pa.string(), pa.int64()))
    columns = {name: [value, value] for name, value in pair(winner=1.0).items()}
    table = pa.table({**columns, "aspects": aspects, "category": [None, "counting"], "extra": [1, 2]})
    pa.parquet.write_table(table, tmp_path / "d.parquet")
    first, second = read_rows(tmp_path / "d.parquet", PreferencePair, options=QUICK)
    assert (first.aspects, first.category, first.winner) == ({"quality": 1, "motion": None}, None, 1)
    assert (second.aspects, second.category) == ({}, "counting")


def test_too_many_bad_rows_stop_the_reading(tmp_path):
    rows = [pair(winner=2) if number % 10 == 3 else pair() for number in range(100)]  # one of ten is bad
    path = write_lines(tmp_path / "d.jsonl", rows)
    options = replace(QUICK, bad=BadRows(max_share=0.12, min_rows=50, rejects=tmp_path / "r.jsonl"))
    assert len(list(read_rows(path, PreferencePair, options=options))) == 90
    stream = read_rows(
        path, PreferencePair, options=replace(options, bad=BadRows(0.05, 50, tmp_path / "stopped.jsonl"))
    )
    with pytest.raises(
        DataError, match=r"6 of the first 54 rows are bad \(6 invalid\), more than the 5% allowed"
    ) as caught:
        list(stream)
    assert f"{path}, line 4: winner" in str(caught.value)
    assert stream.report.good == 48
    assert len((tmp_path / "stopped.jsonl").read_text().splitlines()) == 6
    # Fewer rows than min_rows never stop it.
    small = write_lines(tmp_path / "small.jsonl", rows[:4])
    assert len(list(read_rows(small, PreferencePair, options=replace(options, bad=BadRows(0.0, 5))))) == 3
    with pytest.raises(DataError, match="1 of the first 4 rows are bad"):
        list(read_rows(small, PreferencePair, options=replace(options, bad=BadRows(0.0, 4))))
    # Also where the last bad row is before them.
    early = write_lines(tmp_path / "early.jsonl", [pair(winner=2)] * 5 + [pair()] * 5)
    with pytest.raises(DataError, match="5 of the first 10 rows are bad"):
        list(read_rows(early, PreferencePair, options=replace(options, bad=BadRows(0.2, 10))))


def test_the_rejects_file_says_what_the_last_pass_found(tmp_path):
    path = write_lines(tmp_path / "d.jsonl", [pair(), "{"])
    stream = read_rows(path, PreferencePair, options=lenient(tmp_path / "r.jsonl", check="none"))
    assert list(stream) == list(stream)
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 1
    assert stream.report.bad == {"not_json": 1}


@pytest.mark.parametrize("rows", [[], ["{", "}"]])
def test_files_without_a_good_row(tmp_path, rows):
    path = write_lines(tmp_path / "d.jsonl", rows)
    found = "2 bad" if rows else "no rows at all"
    with pytest.raises(DataError, match=f"expected valid rows, got .*{found}"):
        list(read_rows(path, PreferencePair))


def test_files_that_cannot_be_data(tmp_path):
    (tmp_path / "d.csv").write_text("a,b")
    (tmp_path / "d.json").write_text(json.dumps([pair()]))
    (tmp_path / "d.parquet").write_text("no Parquet")
    good = write_lines(tmp_path / "d.jsonl", [pair()])
    for paths, reason in (
        (tmp_path / "x.jsonl", "does not exist"),
        (tmp_path, "is a folder"),
        ([], "at least one data file"),
        ([good, good], "given twice"),
        (tmp_path / "d.csv", r"ending in \.jsonl, \.parquet or \.tar"),
        ([good, tmp_path / "d.json"], r"ending in \.jsonl, \.parquet or \.tar; convert"),
    ):
        with pytest.raises(DataError, match=reason):
            read_rows(paths, PreferencePair)
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        list(read_rows(tmp_path / "d.parquet", PreferencePair))
    assert issubclass(DataError, FlexGymError)


def test_parquet_that_is_damaged_inside(tmp_path):
    path = write_parquet(tmp_path / "d.parquet", [pair(prompt=f"prompt {n}" * 50) for n in range(500)])
    data = bytearray(path.read_bytes())
    data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 4)
    path.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read as Parquet after row"):
        list(read_rows(path, PreferencePair, options=QUICK))


def test_settings_that_make_no_sense():
    with pytest.raises(UnknownNameError, match="Did you mean 'decode'"):
        ReadOptions(check="decoded")
    with pytest.raises(ConfigError, match="expected 0 to 1, got 5"):
        BadRows(max_share=5)
    with pytest.raises(ConfigError, match="min_rows"):
        BadRows(min_rows=0)


@pytest.mark.parametrize("name", ["../other/a.png", "{other}/a.png", "link.png", "links/a.png"])
def test_media_outside_of_the_root_are_refused_unless_it_is_widened(tmp_path, name):
    data, other = tmp_path / "data", tmp_path / "other"
    write_images(other, "a.png")
    write_images(data, "b.png")
    (data / "link.png").symlink_to(other / "a.png")
    (data / "links").symlink_to(other)
    path = write_lines(data / "d.jsonl", [pair(first=name.format(other=other), second="b.png")])
    for check in ("decode", "exists", "none"):
        stream = read_rows(path, PreferencePair, options=ReadOptions(check=check))
        with pytest.raises(DataError, match=r"1 bad \(1 outside_root\)"):
            list(stream)
    (row,) = read_rows(path, PreferencePair, options=ReadOptions(root=tmp_path))
    assert row.first[0].path == str(other / "a.png")


def test_media_can_lie_in_a_folder_of_their_own(tmp_path):
    write_images(tmp_path / "media", "a.png", "b.png")
    (tmp_path / "rows").mkdir()
    path = write_lines(tmp_path / "rows" / "d.jsonl", [pair()])
    (row,) = read_rows(path, PreferencePair, options=ReadOptions(folder=tmp_path / "media"))
    assert row.second[0].path == str(tmp_path / "media" / "b.png")


def test_checks_of_media(tmp_path):
    write_images(tmp_path, "a.png")
    (tmp_path / "b.png").write_bytes(image_bytes(1, size=(64, 64), kind="PNG")[:500])
    path = write_lines(tmp_path / "d.jsonl", [pair(), pair(second="c.png")])
    counts = {check: list(read_counts(path, check)) for check in ("none", "exists", "decode")}
    assert counts == {
        "none": [2, {}],
        "exists": [1, {"missing_file": 1}],
        "decode": [0, {"missing_file": 1, "unreadable_media": 1}],
    }


def read_counts(path, check):
    stream = read_rows(path, PreferencePair, options=lenient(check=check))
    try:
        yield len(list(stream))
    except DataError:
        yield 0
    yield stream.report.bad


def test_videos_are_checked_as_well(tmp_path):
    write_video(tmp_path / "a.mp4", num_frames=4)
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:700])
    write_images(tmp_path, "0.png", "1.png")
    clip = {"video": "a.mp4", "num_frames": 4}
    path = write_lines(tmp_path / "d.jsonl", [pair(kind="video", first="a.mp4", second=["0.png", "1.png"])])
    assert len(list(read_rows(path, PreferencePair))) == 1
    bad = [pair(kind="video", first="a.mp4", second=second) for second in ("b.mp4", ["0.png", "2.png"])]
    path = write_lines(tmp_path / "e.jsonl", [*bad, pair(kind="video", first="a.mp4", second="0.png")])
    stream = read_rows(path, PreferencePair, options=lenient())
    assert len(list(stream)) == 1
    assert stream.report.bad == {"unreadable_media": 1, "missing_file": 1}
    path = write_lines(tmp_path / "f.jsonl", [sft(images=[clip]), sft(images=[clip | {"num_frames": 5}])])
    stream = read_rows(path, SFTRow, options=lenient())
    assert [row.images[0].num_frames for row in stream] == [4]
    assert "expected at least 5 frames, got 4" in stream.report.examples[0]


def names(suffixes=("png", "jpg")):
    letters = st.text("abcdefghäß狐 _-.", min_size=1, max_size=8).map(str.strip).filter(lambda name: name.strip("."))
    return st.tuples(letters, st.sampled_from(suffixes)).map(".".join)


texts = st.text(min_size=1, max_size=40).filter(str.strip)
optional_text = st.none() | texts
sides = st.sampled_from([0, 1, None])
messages = texts.map(lambda said: [{"role": "user", "content": said}])
images = st.lists(
    names() | st.fixed_dictionaries({"video": names(["mp4"]), "num_frames": st.integers(1, 8)}), min_size=1
)
about = {"id": optional_text, "source": optional_text, "category": optional_text}
pairs = st.fixed_dictionaries(
    {
        "prompt": texts,
        "kind": st.just("video"),
        "first": st.lists(names(), min_size=1, max_size=3) | names(["mp4", "gif"]),
        "second": names(["webm"]),
        "winner": sides,
        "aspects": st.dictionaries(texts, sides, max_size=3),
        "confidence": st.none() | st.floats(0, 1),
        **about,
    }
)
conversations = st.builds(
    lambda asked, answer, shown, more: {"messages": asked + answer, "images": shown[:8], **more},
    messages,
    texts.map(lambda said: [{"role": "assistant", "content": said}]),
    images,
    st.fixed_dictionaries(about),
)
preferences = st.fixed_dictionaries(
    {
        "prompt": messages,
        "chosen": texts.map("a".__add__),
        "rejected": texts.map("b".__add__),
        "images": images.map(lambda it: it[:8]),
    }
)


@pytest.mark.parametrize(
    ("schema", "values"),
    [(PreferencePair, pairs), (SFTRow, conversations), (DPORow, preferences)],
    ids=["pairs", "conversations", "preferences"],
)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_what_is_written_is_read_again(schema, values, ending):
    @settings(max_examples=30)
    @given(st.lists(values, min_size=1, max_size=4))
    def check(written):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name).resolve()
            rows = [schema.model_validate(row) for row in written]
            path = folder / f"d.{ending}"
            if ending == "jsonl":
                write_rows(path, rows)
            else:
                pa.parquet.write_table(as_table(rows), path)
            read = list(read_rows(path, schema, options=replace(QUICK, root="/")))
        assert relative(read, folder) == rows

    check()


def as_table(rows):
    """The rows for Arrow, whose columns have one type each."""
    columns = [row.model_dump() for row in rows]
    aspects = [list(values.pop("aspects", {}).items()) for values in columns]
    for values in columns:
        for name in {"first", "second"} & set(values):
            values[name] = values[name] if isinstance(values[name], list) else [values[name]]
        if "images" in values:
            values["images"] = [it if isinstance(it, dict) else {"path": it, "bytes": None} for it in values["images"]]
    column = pa.array(aspects, pa.map_(pa.string(), pa.int64()))
    return pa.Table.from_pylist(columns).append_column("aspects", column)


def test_a_large_file_stays_on_the_disk(tmp_path):
    path = tmp_path / "d.jsonl"
    with path.open("w") as file:
        for number in range(1000):
            file.write(json.dumps(pair(id=number, surplus="x" * 20_000)) + "\n")
    assert path.stat().st_size > 20_000_000
    tracemalloc.start()
    seen = sum(1 for _ in read_rows(path, PreferencePair, options=QUICK))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen == 1000
    assert peak < 2_000_000


def test_parquet_is_read_by_row_group(tmp_path):
    rows = [pair(first={"bytes": os.urandom(50_000), "path": "a.png"}, second="b.png") for _ in range(200)]
    path = write_parquet(tmp_path / "d.parquet", rows, row_group_size=10)
    assert path.stat().st_size > 10_000_000
    del rows
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    held = [pool.bytes_allocated() - before for _ in read_rows(path, PreferencePair, options=QUICK)]
    assert len(held) == 200
    assert max(held) < 2_500_000  # a group takes 0.5 MB


def test_a_reader_takes_no_more_than_it_is_asked_for(tmp_path):
    path = write_lines(tmp_path / "d.jsonl", [pair(id=1), pair(id=2), *["{"] * 1000])
    rows = iter(read_rows(path, PreferencePair, options=QUICK))
    assert [next(rows).id, next(rows).id] == ["1", "2"]


def test_lists_in_one_document_are_read_piece_by_piece(tmp_path):
    rows = [{"number": number, "text": "x" * (number * 37 % 5000)} for number in range(3000)]
    path = tmp_path / "d.json"
    path.write_text(json.dumps(rows, indent=1))  # 7 MB, in chunks of one
    assert path.stat().st_size > 7_000_000
    tracemalloc.start()
    found = [(raw.place.number, raw.values == rows[raw.offset]) for raw in read_list(path)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [(number, True) for number in range(1, 3001)]
    assert peak < 6_000_000


@given(
    st.lists(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5)), max_size=5), st.integers(0, 3)
)
def test_lists_whatever_the_chunks(rows, indent):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("flexgym.data.raw._CHUNK", 3)
        path = Path(folder) / "d.json"
        path.write_text(json.dumps(rows, indent=indent or None), encoding="utf-8")
        assert [raw.values for raw in read_list(path)] == rows


@pytest.mark.parametrize(
    "text", ['[{"a": 1}', '[{"a": 1} {"b": 2}]', '[{"a": 1},]', '[{"a"}]', '{"a": 1}', "", "[" * 100_000]
)
def test_broken_lists(tmp_path, text):
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(DataError, match="expected one list of JSON objects"):
        list(read_list(path))
