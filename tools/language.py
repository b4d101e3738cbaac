"""Checks of the wording: ``python -m tools.language [root]`` lists each place with the words to use instead.

It reads docstrings, comments, messages (of exceptions, logs, warnings and options, and long strings elsewhere), the
comments of recipes, and Markdown. The words come from `tools.glossary`, the rules for docstrings from
`tools.docstrings`, and the limit of each package from `tools.limits`.
"""

from __future__ import annotations

import ast
import collections
import io
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.docstrings import Finding, docstrings_without_verb, empty_docstrings
from tools.glossary import wrong_words
from tools.imports import room
from tools.limits import LANGUAGE
from tools.report import Figure
from tools.sources import MEASURED, Source, load_sources
from tools.tables import table

PYTHON = (*MEASURED, "tests", "examples")
FREE_DOCSTRINGS = ("tests", "examples")
"""Packages in which the rules for docstrings do not apply."""
PAGES = ("*.md", "docs/**/*.md", "research/**/*.md", "flexgym/**/*.md", "examples/**/*.md")
EXEMPT = ("tools/glossary.py", "tools/limits.py", "tests/tools/test_language.py")
"""Files that quote the words."""
DATA = ("flexgym/shapes/", "flexgym/judge/template.py", "flexgym/rm/trajectory.py", "tests/")
"""Paths whose strings are data: captions, requests and replies of models, inputs and expected results of tests."""
LONG = 6
"""Words from which a string counts as prose wherever it is."""
_CALLS = re.compile(r"(?:.*\.)?(?:debug|info|warning|error|exception|critical|warn|print|echo|secho|add_row)$")
_KEYWORDS = ("help", "description", "short_help", "epilog", "reason")

Text = tuple[int, str]
"""A line number and the text that starts there."""


def _comments(source: Source) -> Iterator[Text]:
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def _joined(node: ast.expr) -> str | None:
    """Return the text of a string; the values of an f-string become placeholders."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def _strings(node: ast.AST) -> Iterator[ast.expr]:
    """Yield the strings below ``node``; the parts of an f-string come with it, not alone."""
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        yield node
        return
    for child in ast.iter_child_nodes(node):
        yield from _strings(child)


def _messages(tree: ast.Module) -> set[ast.expr]:
    """Return the strings that are shown to a reader: of exceptions, assertions, prints, logs and help texts."""
    found: set[ast.expr] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and _CALLS.match(ast.unparse(node.func))):
            found.update(_strings(node))
        elif isinstance(node, ast.Assert) and node.msg is not None:
            found.update(_strings(node.msg))
        elif isinstance(node, ast.keyword) and node.arg in _KEYWORDS:
            found.update(_strings(node.value))
    return found


def _texts(source: Source) -> Iterator[Text]:
    """Yield everything in a Python file that is prose."""
    yield from _comments(source)
    messages = _messages(source.tree)
    documentation = {
        node.value
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    is_data = source.path.startswith(DATA)
    for node in _strings(source.tree):
        text = _joined(node) or ""
        shown = node in messages and " " in text  # a single word is a code, not a message
        if node in documentation or shown or (not is_data and len(text.split()) >= LONG):
            yield node.lineno, text


def _blank(text: str, pattern: str) -> str:
    """Remove what matches, and keep the lines where they are."""
    return re.sub(pattern, lambda match: "\n" * match[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)


def _markdown(text: str) -> str:
    """Keep the prose of a page: no code, no targets of links, no HTML."""
    for pattern in (r"^ *```.*?^ *```", r"<!--.*?-->", r"(?<=\])\([^)]*\)", r"<[^>\n]*>"):
        text = _blank(text, pattern)
    return text


def _in_text(path: str, line: int, text: str) -> Iterator[Finding]:
    for place, phrase, advice in wrong_words(text):
        yield Finding(path, line + text.count("\n", 0, place), phrase, advice)


def in_python(source: Source) -> Iterator[Finding]:
    """Yield the findings of a Python file."""
    if source.path in EXEMPT:
        return
    for line, text in _texts(source):
        yield from _in_text(source.path, line, text)
    if source.package not in FREE_DOCSTRINGS:
        yield from empty_docstrings(source)
        yield from docstrings_without_verb(source)


def in_pages(root: Path) -> Iterator[Finding]:
    """Yield the findings of the Markdown pages and of the comments of recipes."""
    for path in sorted(path for pattern in PAGES for path in root.glob(pattern)):
        yield from _in_text(path.relative_to(root).as_posix(), 1, _markdown(path.read_text(encoding="utf-8")))
    for path in sorted(root.glob("configs/*.yaml")):
        name = path.relative_to(root).as_posix()
        for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            yield from _in_text(name, line, text.partition("#")[2])


def findings(root: Path) -> list[Finding]:
    """Return every finding of the tree under ``root``, file by file."""
    found = [finding for source in load_sources(root, PYTHON) for finding in in_python(source)]
    return sorted([*found, *in_pages(root)], key=lambda finding: (finding.path, finding.line))


def package(path: str) -> str:
    """Return the package that a file counts for; pages outside of packages count for ``docs``."""
    if path.endswith(".md") and not path.startswith("research/"):
        return "docs"
    return room(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))


def figures(found: Sequence[Finding]) -> list[Figure]:
    """Return one figure per package that has findings or a limit."""
    counts = collections.Counter(package(finding.path) for finding in found)
    return [Figure(name, counts[name], LANGUAGE.get(name, 0)) for name in sorted({*counts, *LANGUAGE})]


def main(arguments: Sequence[str]) -> int:
    """List the findings of packages over their limit; return 1 if there is one.

    Args:
        arguments: the root of the tree, the current folder by default; ``--all`` lists the findings of every package.
    """
    roots = [argument for argument in arguments if argument != "--all"]
    found = findings(Path(roots[0] if roots else "."))
    measured = figures(found)
    over = {figure.name for figure in measured if not figure.held or "--all" in arguments}
    for finding in found:
        if package(finding.path) in over:
            print(f"{finding.place}: {finding.phrase!r} -> {finding.advice}")
    print(table(("package", "findings", "limit", ""), [figure.row for figure in measured]))
    print(f"{len(found)} findings, {sum(LANGUAGE.values())} allowed")
    return int(any(not figure.held for figure in measured))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
