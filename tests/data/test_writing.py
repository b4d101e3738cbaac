from __future__ import annotations

import json

import pytest

from flexgym.core.errors import ConfigError
from flexgym.data import MediaFile, MediaStore, PreferencePair, RowWriter, SFTRow, read_rows, write_rows
from tests.data.builders import image_bytes, pair, sft, write_images


def row(**changes):
    return PreferencePair.model_validate(pair(**changes))


def test_rows_are_lines_without_keys_that_say_nothing(tmp_path):
    path = write_rows(tmp_path / "new" / "d.jsonl", [row(prompt="狐 \u2028 \n", winner=None), row(id="2")])
    lines = path.read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in lines[:2]] == [pair(prompt="狐 \u2028 \n", winner=None), pair(id="2")]
    assert lines[2:] == [""]
    assert "狐" in lines[0]


def test_paths_below_the_file_are_relative_to_it(tmp_path):
    write_images(tmp_path / "data" / "sub", "a.png")
    write_images(tmp_path / "other", "b.png")
    inside, outside = tmp_path / "data" / "sub" / "a.png", tmp_path / "other" / "b.png"
    path = write_rows(tmp_path / "data" / "d.jsonl", [row(first=str(inside), second=str(outside))])
    values = json.loads(path.read_text())
    assert (values["first"], values["second"]) == ("sub/a.png", str(outside))
    (tmp_path / "data").rename(tmp_path / "moved")
    conversation = SFTRow.model_validate(
        sft(images=[str(tmp_path / "moved/a.png"), {"video": "b.mp4", "num_frames": 2}])
    )
    values = json.loads(write_rows(tmp_path / "moved" / "s.jsonl", [conversation]).read_text())
    assert values["images"] == ["a.png", {"video": "b.mp4", "num_frames": 2}]


def test_a_file_appears_when_all_rows_are_there(tmp_path):
    path = tmp_path / "d.jsonl"
    with RowWriter(path) as writer:
        writer.write(row())
        assert not path.exists()
    assert len(path.read_text().splitlines()) == 1

    def interrupted():
        yield from (row(), row())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(path, interrupted(), overwrite=True)
    assert len(path.read_text().splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["d.jsonl"]


def test_what_is_there_is_not_overwritten_unless_allowed(tmp_path):
    path = write_rows(tmp_path / "d.jsonl", [row()])
    with pytest.raises(ConfigError, match="already exists"):
        write_rows(path, [row(), row()])
    write_rows(path, [row(), row()], overwrite=True)
    assert len(path.read_text().splitlines()) == 2
    with pytest.raises(ConfigError, match=r"ending in \.jsonl"):
        RowWriter(tmp_path / "d.parquet")


def test_embedded_files_are_kept_once_by_their_content(tmp_path):
    store = MediaStore(tmp_path / "media")
    data, other = image_bytes(0), image_bytes(1, kind="PNG")
    first = store.keep(MediaFile(data=data, path="x/../../y.png"))
    assert store.keep(MediaFile(data=data)) == first
    second = store.keep(MediaFile(data=other))
    files = sorted(path for path in (tmp_path / "media").rglob("*") if path.is_file())
    assert sorted([first.path, second.path]) == [str(path) for path in files]
    assert {path.suffix for path in files} == {".jpg", ".png"}
    assert MediaFile(path="kept.png") == store.keep(MediaFile(path="kept.png"))
    # One that was cut off, as by a power cut, is written again.
    files[0].write_bytes(b"")
    for kept in (MediaFile(data=data), MediaFile(data=other)):
        store.keep(kept)
    assert files[0].stat().st_size in (len(data), len(other))
    paired = row(first=first.path, second=second.path)
    (read,) = read_rows(write_rows(tmp_path / "d.jsonl", [paired]), PreferencePair)
    assert read == paired


def test_json_lines_hold_no_files(tmp_path):
    embedded = row(first={"bytes": image_bytes(), "path": None})
    with pytest.raises(ConfigError, match=r"MediaStore\.keep"):
        write_rows(tmp_path / "d.jsonl", [embedded])
    assert list(tmp_path.iterdir()) == []
