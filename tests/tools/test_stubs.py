from __future__ import annotations

import pytest

from tools.stubs import ROOT, STUBS, Names, main


@pytest.mark.slow  # imports every reward
def test_the_stubs_are_up_to_date():
    assert main(["--check"]) == 0


def test_an_old_stub_is_found_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tools.stubs.stub_text", lambda stub: f"# {stub.base}\n")
    monkeypatch.setattr("tools.stubs.shown_text", lambda: "{}\n")
    monkeypatch.setattr("tools.stubs.ROOT", tmp_path)
    for name in ("agents", "rewards"):
        (tmp_path / "flexgym" / name).mkdir(parents=True)
    assert main(["--check"]) == 1
    assert "flexgym/rewards/vector.pyi: not up to date; run python -m tools.stubs" in capsys.readouterr().out
    assert main([]) == 0
    assert (tmp_path / "flexgym/rewards/vector.pyi").read_text() == "# NamedVectorWrapper\n"
    assert main(["--check"]) == 0


def test_every_stub_lies_beside_its_module():
    for stub in STUBS:
        assert (ROOT / stub.path).with_suffix(".py").is_file()


def test_types_as_source_text():
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any, Literal, Optional

    names = Names()
    assert names.text(str | Path | None) == "str | Path | None"
    assert names.text(Optional[Sequence[int]]) == "Sequence[int] | None"  # noqa: UP045
    assert names.text(Mapping[str, Any]) == "Mapping[str, Any]"
    assert names.text(Literal["a", "b"]) == "Literal['a', 'b']"
    assert names.imports() == (
        "from pathlib import Path\nfrom collections.abc import Mapping, Sequence\nfrom typing import Any, Literal\n"
    )
