"""Runs the code of the documentation: ``python -m tools.snippets [file.md ...]``, then the doctests of the packages.

Every ``python`` block runs, and every console block (``bash``, ``console``, ``sh``) that is marked. The blocks of one
file run in order, in one process of their own, in one namespace and in a temporary folder. A comment on a line
before the fence marks the block that follows:

- ``<!-- snippet: skip (reason) -->`` leaves a block out;
- ``<!-- snippet: run -->`` runs a console block;
- ``<!-- snippet: timeout=600 -->`` gives a block that many seconds instead of 120 and runs it, a console block too;
- ``<!-- install -->`` and ``<!-- test -->`` name a block for CI (``tools/snippets.py --extract install`` prints it).

In a console block whose lines start with ``$ `` these lines are the commands and the others are their output.
"""

from __future__ import annotations

import argparse
import code
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("flexgym",)
CONSOLE = ("bash", "console", "sh", "shell")
TIMEOUT = 120
NOTHING_COLLECTED = 5  # exit status of pytest when it found no test

FENCE = re.compile(
    r"^(?P<fence>`{3,}|~{3,})[ \t]*(?P<language>[\w+-]*)[^\n]*\n(?P<code>.*?)^(?P=fence)[ \t]*$", re.M | re.S
)
MARK = re.compile(r"<!--\s*(?P<mark>snippet:[^>]*?|install|test)\s*-->\s*\Z")
OPTION = re.compile(r"snippet:\s*(?:(?P<run>run)|skip \((?P<reason>[^()]+)\)|timeout=(?P<timeout>\d+))")


class SnippetError(ValueError):
    """A marker in a document is not understood, or a named block is missing."""


@dataclass(frozen=True)
class Block:
    """One fenced block of a document.

    Attributes:
        path: the document.
        line: number of its first line of code.
        language: the word after the fence, in lower case.
        code: the text between the fences.
        name: ``install`` or ``test`` when a comment names it so, else empty.
        skip: why it is left out; empty when it is not.
        marked: whether a comment asks for it to run.
        timeout: seconds it may take.
    """

    path: Path
    line: int
    language: str
    code: str
    name: str = ""
    skip: str = ""
    marked: bool = False
    timeout: int = TIMEOUT

    @property
    def runs(self) -> bool:
        """True for code to run, which may still be skipped."""
        return self.language == "python" or (self.language in CONSOLE and self.marked)

    def commands(self) -> str:
        """Return the shell commands of a console block, without prompts and without the output below them."""
        lines = self.code.splitlines()
        prompted = [line.strip()[2:] for line in lines if line.strip().startswith("$ ")]
        return "\n".join(prompted or lines)


def blocks(path: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a Markdown document, in order.

    Args:
        path: the document, UTF-8.

    Yields:
        One `Block` per fence.

    Raises:
        SnippetError: a ``snippet:`` comment cannot be read.
    """
    text = path.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        block = Block(path, line, match["language"].lower(), match["code"])
        mark = MARK.search(text, 0, match.start())
        yield _marked(block, mark["mark"]) if mark else block


def _marked(block: Block, mark: str) -> Block:
    """Apply the comment before a block to it."""
    fields = {key: getattr(block, key) for key in ("path", "line", "language", "code")}
    if not mark.startswith("snippet:"):
        return Block(**fields, name=mark)
    option = OPTION.fullmatch(mark)
    if option is None:
        raise SnippetError(
            f"{block.path}:{block.line}: cannot read {mark!r}; expected 'snippet: run', 'snippet: skip (reason)' "
            "or 'snippet: timeout=600'"
        )
    return Block(**fields, skip=option["reason"] or "", marked=True, timeout=int(option["timeout"] or TIMEOUT))


def extract(path: Path, name: str) -> str:
    """Return the commands of the block that a comment names.

    Args:
        path: the document.
        name: ``install`` or ``test``.

    Returns:
        Shell commands, one per line.

    Raises:
        SnippetError: no block has that name, or several have.
    """
    named = [block for block in blocks(path) if block.name == name]
    if len(named) != 1:
        raise SnippetError(f"{path}: expected one block after '<!-- {name} -->', found {len(named)}")
    return named[0].commands()


class Namespace(code.InteractiveInterpreter):
    """Names shared by the Python blocks of one document.

    Attributes:
        problem: the traceback of the last block that failed, empty before.
    """

    problem = ""

    def showtraceback(self) -> None:
        """Keep the traceback of a block instead of writing it."""
        self.problem = traceback.format_exc()

    def run(self, block: Block) -> str:
        """Run a block under its time limit and return its traceback, empty on success."""
        self.problem = ""
        signal.signal(signal.SIGALRM, _out_of_time)
        signal.alarm(block.timeout)
        try:
            # Blank lines in front make the line numbers of a traceback those of the document.
            self.runcode(compile("\n" * (block.line - 1) + block.code, str(block.path), "exec"))
        except (SyntaxError, SystemExit):
            self.showtraceback()
        finally:
            signal.alarm(0)
        return self.problem


def _out_of_time(signum: int, frame: FrameType | None) -> NoReturn:
    raise TimeoutError("the block ran past its time limit")


def run_console(block: Block) -> str:
    """Run the commands of a console block in the current folder and return the error, empty on success."""
    try:
        status = subprocess.run(["bash", "-euo", "pipefail", "-c", block.commands()], timeout=block.timeout).returncode
    except subprocess.TimeoutExpired as error:
        return str(error)
    return f"exit status {status}" if status else ""


def run_document(path: Path) -> int:
    """Run the blocks of one document in a new temporary folder and print a line for each.

    Args:
        path: the document.

    Returns:
        Number of blocks that failed.
    """
    namespace = Namespace({"__name__": "__snippet__"})
    failed = 0
    path = path.resolve()
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    with tempfile.TemporaryDirectory(prefix="snippets-") as folder:
        os.chdir(folder)
        for block in filter(lambda block: block.runs, blocks(path)):
            start = time.perf_counter()
            run = namespace.run if block.language == "python" else run_console
            problem = "" if block.skip else run(block)
            failed += bool(problem)
            verdict = f"skipped ({block.skip})" if block.skip else "FAILED" if problem else "ok"
            line = f"{shown}:{block.line} {block.language} {verdict} {time.perf_counter() - start:.1f} s"
            print("\n".join([line, problem] if problem else [line]), flush=True)
        os.chdir(ROOT)
    return failed


def run_doctests() -> bool:
    """Run the doctests of the packages; return True if they passed, or if there are none.

    Modules of an extra that is not installed, such as a tracker, have no doctests to run.
    """
    command = [sys.executable, "-m", "pytest", "--doctest-modules", "--doctest-ignore-import-errors", "-q", *PACKAGES]
    return subprocess.run(command, cwd=ROOT).returncode in (0, NOTHING_COLLECTED)


def run_all(paths: Sequence[Path]) -> int:
    """Run every document in a process of its own; return 1 if a block failed.

    Args:
        paths: the documents; README.md, everything under ``docs/`` and the doctests when empty.
    """
    documents = paths or [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    command = [sys.executable, "-m", "tools.snippets", "--document"]
    failed = [path for path in documents if subprocess.run([*command, path.resolve()], cwd=ROOT).returncode]
    doctests = bool(paths) or run_doctests()
    print(f"{len(documents) - len(failed)} of {len(documents)} documents passed", flush=True)
    return int(bool(failed) or not doctests)


def main(arguments: Sequence[str]) -> int:
    """Run the command line that the docstring of the module describes.

    Args:
        arguments: what follows the name of the program.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.snippets", description="Run the code of the documentation.")
    parser.add_argument("documents", nargs="*", type=Path, help="default: README.md, docs/**/*.md and all doctests")
    parser.add_argument("--extract", choices=("install", "test"), help="print the block of README.md named so")
    parser.add_argument("--document", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        if options.extract:
            print(extract(ROOT / "README.md", options.extract))
            return 0
        return int(run_document(options.document) > 0) if options.document else run_all(options.documents)
    except SnippetError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
