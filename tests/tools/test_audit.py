from __future__ import annotations

import json

import pytest
from packaging.version import Version

from tools.audit import findings, main, resolved


def advisory(*events, name="Some_Package", versions=(), **fields):
    part = {"type": "ECOSYSTEM", "events": list(events)}
    package = {"ecosystem": "PyPI", "name": name}
    return {"id": "X-1", "affected": [{"package": package, "ranges": [part], "versions": list(versions)}], **fields}


RANGE = ({"introduced": "0"}, {"fixed": "1.5"}, {"introduced": "2.0"}, {"last_affected": "2.2"})


@pytest.mark.parametrize(
    ("version", "affected"),
    [("0.1", True), ("1.5", False), ("1.9", False), ("2.0", True), ("2.2", True), ("2.2.1", False)],
)
def test_ranges_of_versions(version, affected):
    assert bool(findings({"some-package": Version(version)}, [advisory(*RANGE)])) is affected


def test_listed_versions_other_packages_and_withdrawn_advisories():
    installed = {"some-package": Version("1.0")}
    assert findings(installed, [advisory(versions=["1.0.0"])])[0].advisory == "X-1"
    assert not findings(installed, [advisory(*RANGE, name="another"), advisory(*RANGE, withdrawn="2024-01-01")])
    assert findings(installed, [advisory(*RANGE)])[0].fixed == ("1.5",)


def test_everything_that_flexgym_needs_is_audited(tmp_path, capsys):
    installed = resolved("flexgym")
    assert {"pillow", "torch", "httpx", "httpcore", "ray", "gymnasium"} <= set(installed)
    (tmp_path / "a.json").write_text(json.dumps(advisory({"introduced": "0"}, name="Pillow", published="2026-01-02")))
    assert main([str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert "against 1 advisories, the newest of 2026-01-02" in output
    assert "pillow" in output
    (tmp_path / "a.json").unlink()
    assert main([str(tmp_path)]) == 1  # nothing was checked
