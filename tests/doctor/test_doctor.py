"""``flexgym doctor`` under real conditions: full disks, closed ports, servers that are not there, wrong versions."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from flexgym.cli import app
from flexgym.core.errors import ConfigError
from flexgym.core.secrets import Secret
from flexgym.doctor import Finding, disks
from flexgym.doctor.clocks import check_clock
from flexgym.doctor.disks import check_disk, check_shared
from flexgym.doctor.machine import check_gpus, check_memory, check_nccl
from flexgym.doctor.network import check_connection, check_judge, check_name, check_ports
from flexgym.doctor.versions import check_versions


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def server() -> Iterator[tuple[str, type]]:
    """A server on this machine whose answer the test chooses."""

    class Handler(http.server.BaseHTTPRequestHandler):
        status, body, skew = 200, b'{"data": [{"id": "judge \\u001b[31m"}]}', 0.0

        def do_GET(self):
            accepted = self.headers.get("Authorization") == "Bearer key" or self.status != 401
            self.send_response_only(200 if accepted else 401)
            self.send_header("Date", self.date_time_string(int(time.time() + self.skew)))
            self.send_header("Content-Length", str(len(self.body)))
            self.end_headers()
            self.wfile.write(self.body)

        def log_message(self, *args):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}", Handler
    running.shutdown()
    running.server_close()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def only(found: list[Finding]) -> tuple[str, str]:
    (finding,) = found
    assert (finding.level == "ok") is (finding.advice == "")
    return finding.level, finding.what


def plant(folder: Path, name: str, version: str, *files: str) -> None:
    information = folder / f"{name}-{version}.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (information / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    (information / "top_level.txt").write_text("".join({f"{file.split('/')[0]}\n" for file in files}))


def test_a_wrong_version_is_named_with_the_command_that_corrects_it(tmp_path: Path, monkeypatch):
    before = [finding for finding in check_versions() if "trl" in finding.what]
    plant(tmp_path, "trl", "0.1.0")
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = [finding for finding in check_versions() if "trl" in finding.what]
    assert not before
    assert (found.level, found.check) == ("problem", "versions")
    assert found.what.startswith("trl 0.1.0 is installed, and FlexGym needs trl<2,>=1.16")
    assert found.advice == "pip install 'trl<2,>=1.16'"


def test_a_package_that_hides_the_launchers_is_named(tmp_path: Path, monkeypatch):
    assert not [finding for finding in check_versions() if finding.check == "packages"]
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").write_text("import flexgym\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "agents", raising=False)
    (found,) = [finding for finding in check_versions() if finding.check == "packages"]
    hidden = f"python -m agents.NAME finds {tmp_path}/agents/__init__.py and not the launchers of FlexGym"
    assert (found.level, found.what) == ("warning", hidden)
    assert found.advice == "use `flexgym train NAME`, which no other package can hide"

    command = [sys.executable, "-m", "agents.grpo", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"python -m agents.grpo finds {tmp_path}/agents/__init__.py, which hides the launchers" in done.stderr
    assert "run `flexgym train grpo`" in done.stderr


def test_a_package_that_lost_its_files_to_an_older_version_is_named(tmp_path: Path, monkeypatch):
    plant(tmp_path, "openai_agents", "1.0", "agents/__init__.py")
    monkeypatch.syspath_prepend(tmp_path)
    (found,) = [finding for finding in check_versions() if finding.check == "packages"]
    assert found.what == "openai_agents has lost its agents/__init__.py, such as to an older FlexGym"
    assert found.advice == "pip install --force-reinstall --no-deps openai_agents"


def test_a_full_disk_is_a_problem(small_disk: Path):
    (small_disk / "data").write_bytes(b"0" * 200_000)
    found = check_disk(small_disk / "runs", "runs")
    assert (found.level, found.advice) == ("problem", "free space or set run.root to another disk")
    assert found.what.endswith("cannot be written to: the disk is full")


def test_a_disk_without_room_or_rights_is_a_problem(small_disk: Path, monkeypatch):
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    found = check_disk(small_disk, "models")
    assert (found.level, found.advice) == ("problem", "free space or set HF_HOME to another disk")
    assert found.what == f"models: {small_disk} (tmpfs) has 0.0 GiB free"
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "the disk is read-only" in check_disk(small_disk, "runs").what
    monkeypatch.setattr(disks, "_LITTLE_GIB", 0)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert check_disk(small_disk, "runs").level == "warning"
    monkeypatch.setattr(disks, "_ENOUGH_GIB", 0)
    assert check_disk(small_disk, "runs").level == "ok"


def test_a_shared_folder_must_exist_lock_and_have_the_same_time(tmp_path: Path, monkeypatch):
    assert only(check_shared(tmp_path / "none"))[0] == "problem"
    assert [finding.check for finding in check_shared(tmp_path)] == ["disk"]
    now = time.time()
    monkeypatch.setattr(disks.time, "time", lambda: now - 60)
    (clock,) = check_shared(tmp_path)[1:]
    assert (clock.check, clock.level) == ("clock", "warning")
    assert "differs by +60 s" in clock.what
    assert not list(tmp_path.iterdir())


def test_ports_that_are_taken_or_closed_are_distinguished():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        level, what = only(check_ports([port]))
        assert (level, "Address already in use" in what) == ("problem", True)
        assert check_connection(f"127.0.0.1:{port}").level == "ok"
    free = closed_port()
    assert only(check_ports([free])) == ("ok", f"port {free} of this machine is free")
    refused = check_connection(f"127.0.0.1:{free}")
    assert (refused.level, refused.what) == ("problem", f"127.0.0.1:{free}: Connection refused")
    assert check_ports([70000])[0].level == "problem"
    for wrong in ("head", "head:", ":1", "head:x", "head:0"):
        with pytest.raises(ConfigError, match="expected HOST:PORT"):
            check_connection(wrong)


def test_a_judge_that_is_not_there_or_is_none(server):
    level, what = only(check_judge(f"http://127.0.0.1:{closed_port()}", None))
    assert (level, "cannot be reached: ConnectError" in what) == ("problem", True)
    url, handler = server
    assert only(check_judge(url, None)) == ("ok", rf"{url}/v1 serves judge \x1b[31m")
    handler.status = 401
    assert only(check_judge(url, None)) == ("problem", f"{url}/v1 rejects the key (HTTP 401)")
    assert check_judge(url, Secret("key"))[0].level == "ok"
    handler.status, handler.body = 200, b"<html>"
    assert only(check_judge(url, None)) == ("problem", f"{url}/v1/models lists no model (HTTP 200)")


def test_the_clock_of_a_server_is_compared(server):
    url, handler = server
    handler.skew = 90.0
    (clock,) = check_judge(url, None)[1:]
    assert (clock.level, clock.check) == ("warning", "clock")
    assert "differs by +" in clock.what


def test_variables_of_nccl():
    interface = next(iter(psutil.net_if_addrs()))
    assert only(check_nccl({"HOME": "/"})) == ("ok", "variables: none")
    assert only(check_nccl({"NCCL_SOCKET_IFNAME": f"={interface}"}))[0] == "ok"
    assert only(check_nccl({"NCCL_SOCKET_IFNAME": "^none"}))[0] == "ok"
    level, what = only(check_nccl({"NCCL_SOCKET_IFNAME": "ib9"}))
    assert (level, what) == ("problem", "NCCL_SOCKET_IFNAME=ib9 names no network interface of this machine")
    assert only(check_nccl({"NCCL_P2P_DISABLE": "1"}))[0] == "warning"
    assert only(check_nccl({"NCCL_P2P_DISABLE": "0"}))[0] == "ok"
    assert "TORCH_NCCL_BLOCKING_WAIT" in only(check_nccl({"NCCL_BLOCKING_WAIT": "1"}))[1]


def test_the_rest_of_the_machine_is_described():
    assert {finding.check for finding in check_gpus()} == {"gpus"}
    assert "memory" in {finding.check for finding in check_memory()}
    assert {finding.check for finding in check_clock()} <= {"clock"}
    assert check_name().check == "network"


def test_the_command_prints_findings_and_exits_with_1_for_problems(tmp_path: Path):
    words = ["doctor", "--root", str(tmp_path)]
    fine = CliRunner().invoke(app, [*words, "--json"])
    levels = {finding["check"]: finding["level"] for finding in json.loads(fine.stdout)}
    assert {"versions", "gpus", "memory", "disk", "nccl"} <= set(levels)
    assert fine.exit_code == ("problem" in levels.values())
    refused = CliRunner().invoke(app, [*words, "--connect", f"127.0.0.1:{closed_port()}"])
    assert refused.exit_code == 1
    assert "Connection refused" in refused.stdout
    assert "start the process that listens on port" in refused.stdout
    wrong = CliRunner().invoke(app, [*words, "--judge", "ftp://x"])
    assert (wrong.exit_code, "expected an address" in wrong.stderr) == (2, True)


def test_a_key_is_read_from_the_environment_and_not_shown(server, tmp_path: Path, monkeypatch):
    url, handler = server
    handler.status = 401
    monkeypatch.setitem(os.environ, "JUDGE_KEY", "key")
    words = ["doctor", "--root", str(tmp_path), "--judge", url, "--api-key-env", "JUDGE_KEY", "--json"]
    shown = CliRunner().invoke(app, words).stdout
    assert "Bearer" not in shown
    (judge,) = [finding for finding in json.loads(shown) if finding["check"] == "judge"]
    assert judge["level"] == "ok"
