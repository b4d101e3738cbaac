"""WebDataset shards: rows in order and at random, and what a hostile or damaged file cannot do."""

from __future__ import annotations

import io
import json
import tarfile

import pytest

from flexgym.data import DataError
from flexgym.data import shards as module
from flexgym.data.shards import read_shard, shard_row
from tests.data.builders import image_bytes


def write_shard(path, members, mode="w"):
    """Write files by name; a value that is no bytes is written as JSON."""
    with tarfile.open(path, mode) as shard:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            about = tarfile.TarInfo(name)
            about.size = len(data)
            shard.addfile(about, io.BytesIO(data))
    return path


def test_neighbors_with_one_base_name_are_a_row(tmp_path):
    path = write_shard(
        tmp_path / "a.tar",
        {
            "part/0001.1.png": b"second",
            "part/0001.0.PNG": b"first",
            "part/0001.txt": b"a cat\n",
            "part/0001.json": {"scores": [1, 0.5], "prompt": "not this one"},
            "part/0001.cls": b"3",
            "part/0002.jpg": b"third",
            "part/0002.json": {"caption": "a dog"},
        },
    )
    first, second = read_shard(path)
    assert first.values["id"] == "part/0001"
    assert first.values["prompt"] == "a cat"
    assert first.values["scores"] == [1, 0.5]
    assert [file["bytes"] for file in first.values["samples"]] == [b"first", b"second"]
    assert second.values["caption"] == "a dog"
    assert str(second.place).endswith("a.tar, row 2")
    assert shard_row(path, second.offset).values == second.values
    assert shard_row(path, first.offset).values == first.values


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [("1.json", b"{", "not_json"), ("1.json", b"[1]", "wrong_type"), ("1.txt", b"\xff", "not_json")],
)
def test_a_row_that_cannot_be_read_is_a_problem_of_that_row_alone(tmp_path, name, content, kind):
    path = write_shard(tmp_path / "a.tar", {name: content, "1.png": b"x", "2.png": b"y", "2.txt": b"fine"})
    bad, good = read_shard(path)
    assert bad.problem.kind == kind
    assert name in str(bad.problem)
    assert good.values["prompt"] == "fine"


def test_rows_that_are_too_large_are_not_read(tmp_path, monkeypatch):
    path = write_shard(tmp_path / "a.tar", {"1.png": bytes(5000), "2.png": b"y", "3.txt": bytes(900)})
    monkeypatch.setattr(module, "MAX_ROW_BYTES", 4000)
    monkeypatch.setattr(module, "MAX_TEXT_BYTES", 800)
    kinds = [row.problem and row.problem.kind for row in read_shard(path)]
    assert kinds == ["too_large", None, "too_long"]


def test_a_header_cannot_claim_more_than_the_bound(tmp_path, monkeypatch):
    path = write_shard(tmp_path / "a.tar", {"1.png": b"x", "n" * 5000 + ".txt": b"long name"})
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 4096)
    with pytest.raises(DataError, match="at most 4096 bytes in one piece"):
        list(read_shard(path))


def test_links_and_devices_are_no_files_of_a_row(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as shard:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
            about = tarfile.TarInfo("1.png")
            about.type, about.linkname = kind, "/etc/passwd"
            shard.addfile(about)
        about = tarfile.TarInfo("1.txt")
        about.size = 3
        shard.addfile(about, io.BytesIO(b"cat"))
    (row,) = read_shard(path)
    assert row.values == {"id": "1", "prompt": "cat", "samples": []}


@pytest.mark.parametrize("damage", ["compressed", "cut", "no tar"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, damage):
    path = tmp_path / "a.tar"
    write_shard(path, {"1.png": image_bytes(), "1.txt": b"cat"}, mode="w:gz" if damage == "compressed" else "w")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:700])
    if damage == "no tar":
        path.write_bytes(b"something else" * 100)
    with pytest.raises(DataError, match=r"a\.tar: cannot be read as a tar file after row"):
        list(read_shard(path))
