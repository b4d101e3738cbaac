from __future__ import annotations

from pathlib import Path

from tests.flow.vectors import VECTORS


def test_every_vector_is_compared_with():
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in VECTORS if f'"{name}"' not in sources] == []
