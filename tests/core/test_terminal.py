"""Nothing that comes from outside can do anything to a terminal."""

from __future__ import annotations

import io
import json
import logging
import re
import runpy
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from flexgym.cli import main
from flexgym.core.errors import CheckpointError, ConfigError, UnknownNameError
from flexgym.core.metrics import Mean
from flexgym.core.terminal import say, teaching_errors, terminal
from flexgym.core.text import PlainLogger, one_line, printable
from flexgym.runs.display import TrainingDisplay

ROOT = Path(__file__).parents[2]
NAME = "\x1b]52;c;aGk=\x07\x1b[2J\x9b31m\x1b]8;;evil\x1b\\\u202eelif\u200b\r[red]x[bold]\x00"[:-1]
HOSTILE = f"{NAME}[/red]\x00\u2066\ud800\ufeff\x85\u2028[link=https://evil]y[/link]"
_COLORS = re.compile(r"\x1b\[[0-9;]*m")


def harmless(text):
    """Assert that text consists of what is seen, besides colors and line breaks; return it without colors."""
    plain = _COLORS.sub("", text)
    assert [one for one in plain if not (one.isprintable() or one in "\n\t")] == []
    return plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a red cube, größe 日本語 😀 \t\n", "a red cube, größe 日本語 😀 \t\n"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x9b2J\x90q\x9c\x85", r"\x9b2J\x90q\x9c\x85"),
        ("\x1b]8;;http://a\x07link\x1b]8;;\x07", r"\x1b]8;;http://a\x07link\x1b]8;;\x07"),
        ("ok\rerror", r"ok\rerror"),
        ("line\r\nline", "line\nline"),
        ("a\u202eb\u2066c\u200fd\u061c", r"a\u202eb\u2066c\u200fd\u061c"),
        ("me\u200ban\ufeff\u2060\u00ad", r"me\u200ban\ufeff\u2060\xad"),
        ("\u3164\u115f\u2800\u034f", r"\u3164\u115f\u2800\u034f"),
        ("\ud83d", r"\ud83d"),
        ("\U000e0041\U000e0100", r"\U000e0041\U000e0100"),
        ("a\xa0b\u3000c\u2003d", "a b c d"),
        ("\x08\x7f\x00\x0b\x0c", r"\x08\x7f\x00\x0b\x0c"),
        ("\u2028\u2029", r"\u2028\u2029"),
    ],
)
def test_what_text_becomes(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown
    harmless(one_line(text))


@pytest.mark.parametrize("width", [20, 80])
@pytest.mark.parametrize("live", [True, False])
def test_no_console_interprets_what_it_shows(width, live):
    file = io.StringIO()
    console = terminal(file=file)
    console._width, console._force_terminal = width, live
    table = Table(HOSTILE, title=HOSTILE, caption=HOSTILE)
    table.add_row(HOSTILE)
    for shown in (
        HOSTILE,
        Text(HOSTILE),
        table,
        Panel(Text(HOSTILE), title=Text(HOSTILE)),
        Text.assemble((HOSTILE, "red")),
    ):
        console.print(shown)
    plain = harmless(file.getvalue())
    assert r"\x1b" in plain
    assert width < 80 or "[red]" in plain


def test_the_display_of_a_run_interprets_nothing(capsys):
    row = {"iteration": 1, f"reward/{HOSTILE}": Mean(1.0, label=HOSTILE), f"policy/{HOSTILE}": Mean(2.0)}
    with TrainingDisplay(3, title=HOSTILE) as display:
        display.phase(HOSTILE)
        display.update(row)
        display.note(HOSTILE)
    harmless(capsys.readouterr().out)
    console = terminal(file=(file := io.StringIO()))
    console.print(display)
    assert "[red]" in harmless(file.getvalue())


def test_warnings_log_messages_and_errors_are_printable(capsys):
    handler = logging.StreamHandler(sys.stderr)
    foreign = logging.getLogger("some.library")
    foreign.addHandler(handler)

    @teaching_errors()
    def fail():
        sys.stderr.write(warnings.formatwarning(HOSTILE, UserWarning, "file.py", 1))
        foreign.warning("server said %s", HOSTILE)
        raise ConfigError(HOSTILE)

    with pytest.raises(typer.Exit):
        fail()
    foreign.removeHandler(handler)
    shown = harmless(capsys.readouterr().err)
    assert shown.count(r"\x1b]52") == 3
    assert "[red]x" in shown


def test_tracebacks_are_printable(capsys):
    hook = sys.excepthook
    try:
        with pytest.raises(RuntimeError), teaching_errors():
            raise RuntimeError(HOSTILE)
        try:
            raise RuntimeError(HOSTILE)
        except RuntimeError as error:
            sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.excepthook = hook
    assert r"RuntimeError: \x1b]52" in harmless(capsys.readouterr().err)


@pytest.mark.parametrize("kind", [ConfigError, UnknownNameError, CheckpointError])
def test_errors_and_loggers_are_printable_without_a_command(kind, caplog):
    harmless(str(kind(HOSTILE)))
    PlainLogger("flexgym.somewhere").warning("%s failed: %s", HOSTILE, HOSTILE)
    harmless(caplog.records[-1].getMessage())
    assert caplog.records[-1].filename == "test_terminal.py"


def test_say_neither_wraps_nor_interprets(capsys):
    say("[red]" + "x" * 500, HOSTILE)
    assert harmless(capsys.readouterr().out).startswith("[red]" + "x" * 500 + "\n")


def test_all_output_goes_through_the_terminal_module():
    sinks = re.compile(
        r"\bConsole\(|(?<![\w.])print\(|sys\.std(out|err)\.write|typer\.echo|logging\.getLogger\(__name__\)"
    )
    allowed = {"flexgym/core/terminal.py", "flexgym/core/text.py"}
    found = {
        (str(path.relative_to(ROOT)), match[0])
        for path in (ROOT / "flexgym").rglob("*.py")
        for match in sinks.finditer(path.read_text())
    }
    assert {place for place in found if place[0] not in allowed} == {
        ("flexgym/commands/judge.py", "typer.echo")
    }  # JSON


# --- each command --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server():
    """A server whose every answer is hostile."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(400, json.dumps({"error": {"message": HOSTILE}}, ensure_ascii=False).encode("utf-8", "replace"))

        def do_GET(self):
            self.reply(200, json.dumps({"data": [{"id": HOSTILE}]}).encode())

        def reply(self, status, data):
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_address[1]}/v1"
        listening.shutdown()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of hostile names and contents."""
    folder = tmp_path_factory.mktemp("hostile")
    group = folder / "samples" / NAME
    group.mkdir(parents=True)
    for index in range(2):
        pixels = np.full((32, 32, 3), 100 * index, np.uint8)
        Image.fromarray(pixels).save(group / f"{index}{NAME}.png")
        Image.fromarray(pixels).save(folder / f"{index}.png")
    (folder / f"{NAME}.yaml").write_text(json.dumps({"reward": {"name": HOSTILE}, HOSTILE: {HOSTILE: HOSTILE}}))
    row = {"prompt": NAME, "first": "0.png", "second": "1.png", "winner": HOSTILE, "kind": "image"}
    (folder / f"{NAME}.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({HOSTILE: 1}) + "\n[")
    return folder


def commands(files, server):
    """The commands by name: app and arguments."""
    pictures = [files / "0.png", files / "1.png"]
    recipe, rows, out = files / f"{NAME}.yaml", files / f"{NAME}.jsonl", files / f"out{NAME}"
    judge = ("--judge", server)
    return {
        "judge compare": ("flexgym.cli", "judge", "compare", *pictures, "--prompt", NAME, *judge),
        "judge compare oracle": ("flexgym.cli", "judge", "compare", *pictures, "--prompt", NAME, "--judge", "oracle"),
        "judge compare files": ("flexgym.cli", "judge", "compare", rows, rows, "--prompt", "a", *judge),
        "judge compare dialect": (
            "flexgym.cli",
            "judge",
            "compare",
            *pictures,
            "--prompt",
            "a",
            *judge,
            "--dialect",
            NAME,
        ),
        "judge rank": ("flexgym.cli", "judge", "rank", files / "samples", "--judge", "oracle"),
        "judge rank server": ("flexgym.cli", "judge", "rank", files / "samples", *judge),
        "judge calibrate": ("flexgym.cli", "judge", "calibrate", files / "samples", *judge),
        "judge serve": ("flexgym.cli", "judge", "serve", NAME, "--name", NAME),
        "export": ("flexgym.cli", "export", files / NAME, out),
        "plan": ("flexgym.cli", "plan", "--config", recipe),
        "plan override": ("flexgym.cli", "plan", f"generator.source={NAME}"),
        "config show": ("flexgym.cli", "config", "show", recipe),
        "config check": ("flexgym.cli", "config", "check", recipe),
        "no such command": ("flexgym.cli", NAME),
        "train": ("agents.grpo", "--config", recipe),
        "train override": ("agents.grpo", f"run.name={NAME}", f"generator.source={NAME}"),
        "train resume": ("agents.grpo", "--resume", files / NAME),
        "sb3": ("agents.sb3_ppo", "--config", recipe),
        "rm train": ("flexgym.rm.__main__", "train", "sft", "--config", recipe),
        "rm train files": (
            "flexgym.rm.__main__",
            "train",
            "dpo",
            f"data.files=['{NAME}']",
            f"judge.source={NAME}",
            "--dry-run",
        ),
        "rm distill": ("flexgym.rm.__main__", "distill", rows, "--teacher", server, "--out", f"{out}.jsonl"),
        "rm pairs": ("flexgym.rm.__main__", "pairs", rows, "--judge", server, "--out", f"{out}2.jsonl"),
        "rm evaluate": ("flexgym.rm.__main__", "evaluate", rows, "--judge", server, "--out", out),
        "rm export": ("flexgym.rm.__main__", "export", files / NAME, out),
        "rewards validate": ("flexgym.rewards.validate", "Remote", f"url={server}", "max_failure_share=1.0"),
        "rewards validate name": ("flexgym.rewards.validate", NAME),
        "rewards validate setting": ("flexgym.rewards.validate", "Remote", f"{NAME}={NAME}"),
        "agents compare": ("agents.compare", "--reward", NAME, "--out", out),
        "agents compare recipe": ("agents.compare", "--config", recipe, "--out", out),
    }


NAMES = list(commands(Path("x"), "http://x"))


@pytest.mark.parametrize("name", NAMES)
def test_no_command_lets_anything_through(name, files, server, monkeypatch, capsys):
    monkeypatch.chdir(files)
    module, *words = commands(files, server)[name]
    monkeypatch.setattr(sys, "argv", [module, *map(str, words)])
    hook = sys.excepthook
    try:
        if module == "flexgym.cli":
            main()
        else:
            runpy.run_module(module, run_name="__main__")
    except SystemExit:
        pass
    except Exception as error:  # noqa: BLE001  (shown as Python shows it at the end)
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.excepthook = hook
    output = "".join(capsys.readouterr())
    assert output.strip()
    harmless(output)
