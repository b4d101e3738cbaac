from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import flexgym.data.convert
heavy = {"ray", "torch", "trl", "datasets", "pyarrow", "av"} & {name.split(".")[0] for name in sys.modules}
assert not heavy, heavy
"""


def test_the_data_layer_brings_nothing_heavy():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=120)


def test_an_embedded_data_set_becomes_files(tmp_path):
    """As the documentation of `IndexedRows` advises for Parquet with images in it."""
    from flexgym.data import IndexedRows, MediaStore, PreferencePair, load_picture, read_rows, write_rows
    from tests.data.builders import image_bytes, pair, write_parquet

    rows = [pair(id=str(seed), second={"bytes": image_bytes(seed), "path": None}) for seed in range(3)]
    (tmp_path / "a.png").write_bytes(image_bytes(9, kind="PNG"))
    source = write_parquet(tmp_path / "d.parquet", rows)
    store = MediaStore(tmp_path / "media")
    path = write_rows(tmp_path / "d.jsonl", (row.with_files(store.keep) for row in read_rows(source, PreferencePair)))
    indexed = IndexedRows.open(path, PreferencePair)
    assert [row.id for row in indexed] == ["0", "1", "2"]
    assert indexed[2].second[0].path.startswith(str(tmp_path / "media"))
    assert load_picture(indexed[0].second[0]).size == (24, 16)
