from __future__ import annotations

import pytest

from tools.snippets import SnippetError, blocks, extract, run_document

DOCUMENT = """# Title

```python
x = 1
```

<!-- snippet: skip (needs a GPU) -->
```python
raise RuntimeError
```

```bash
exit 1
```

<!-- snippet: run -->

```console
$ echo seen > file.txt
seen nothing
```

```python
assert x == 1 and open("file.txt").read() == "seen\\n"
```
"""


@pytest.fixture
def document(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "guide.md"
    path.write_text(DOCUMENT)
    return path


def test_blocks_with_their_lines_and_marks(document):
    found = [(block.line, block.language, block.skip, block.runs) for block in blocks(document)]
    assert found == [
        (4, "python", "", True),
        (9, "python", "needs a GPU", True),
        (13, "bash", "", False),
        (19, "console", "", True),
        (24, "python", "", True),
    ]


def test_document_runs_in_one_namespace_and_a_folder_of_its_own(document, capfd):
    assert run_document(document) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.rsplit(" ", 2)[0].removeprefix(str(document)) for line in lines] == [
        ":4 python ok",
        ":9 python skipped (needs a GPU)",
        ":19 console ok",
        ":24 python ok",
    ]
    assert not (document.parent / "file.txt").exists()


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("```python\n\n1 / 0\n```", "line 3, in <module>"),
        ("```python\nx = = 1\n```", "SyntaxError"),
        ("```python\nraise SystemExit(0)\n```", "SystemExit"),
        pytest.param(
            "<!-- snippet: timeout=1 -->\n```python\nwhile True: pass\n```", "TimeoutError", marks=pytest.mark.slow
        ),
        pytest.param("<!-- snippet: timeout=1 -->\n```bash\nsleep 5\n```", "timed out", marks=pytest.mark.slow),
        ("<!-- snippet: run -->\n```bash\nfalse\ntrue\n```", "exit status 1"),
    ],
)
def test_failures_are_counted_and_shown(document, capfd, code, problem):
    document.write_text(code + "\n\n```python\nx = 1\n```\n")
    assert run_document(document) == 1
    out = capfd.readouterr().out
    assert problem in out
    assert "FAILED" in out


def test_unknown_marker_is_refused(document):
    document.write_text("<!-- snippet: skip -->\n```python\nx = 1\n```\n")
    with pytest.raises(SnippetError, match=r"guide.md:3: cannot read 'snippet: skip'; expected"):
        list(blocks(document))


def test_extract_needs_exactly_one_block(document):
    document.write_text("<!-- install -->\n```bash\npip install .\n```\n")
    assert extract(document, "install") == "pip install ."
    with pytest.raises(SnippetError, match="found 0"):
        extract(document, "test")
