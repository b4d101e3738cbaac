import json
import socket
import sys

import httpx
import pytest

from flexgym.commands.serve import ServeOptions, ServerStartError, running_server, serve, serve_command
from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.judge.sources import CONFIG_NAME

HEALTHY = """\
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *words):
        pass
print("serving", sys.argv[2], flush=True)
http.server.HTTPServer(("127.0.0.1", {port}), Handler).serve_forever()
"""


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def options(tmp_path, port):
    """Makes the options for a command that runs the lines of a script in place of vLLM."""

    def make(lines: str) -> ServeOptions:
        command = tmp_path / "vllm"
        command.write_text(f"#!{sys.executable}\n{lines.replace('{port}', str(port))}")
        command.chmod(0o755)
        return ServeOptions(str(tmp_path), port=port, executable=str(command))

    return make


def test_the_command_line(options, tmp_path):
    made = options("")
    command = serve_command(made)
    assert command[:3] == [made.executable, "serve", str(tmp_path)]
    flags = dict(word.split("=", 1) for word in command[3:] if "=" in word)
    assert flags["--served-model-name"] == tmp_path.name
    assert (flags["--host"], flags["--port"]) == ("127.0.0.1", str(made.port))
    assert flags["--generation-config"] == "vllm"
    assert json.loads(flags["--limit-mm-per-prompt"]) == {"image": 16, "video": 0}
    assert json.loads(flags["--default-chat-template-kwargs"]) == {"enable_thinking": False}
    assert flags["--data-parallel-size"] == "1"
    assert "--enable-prefix-caching" in command
    assert not any("remote-code" in word or "max-model-len" in word or "eager" in word for word in command)


def test_as_many_pictures_as_the_checkpoint_is_asked_with(options, tmp_path):
    (tmp_path / CONFIG_NAME).write_text(json.dumps({"inputs": {"num_frames": 9}}))
    assert f"--limit-mm-per-prompt={json.dumps({'image': 18, 'video': 0})}" in serve_command(options(""))


def test_choices_reach_the_command_line(tmp_path):
    chosen = ServeOptions(
        "owner/judge-8b",
        name="judge",
        max_model_len=8192,
        max_pictures=2,
        data_parallel_size=4,
        enforce_eager=True,
        extra=("--seed=3",),
        executable=sys.executable,
    )
    command = serve_command(chosen)
    assert command[2] == "owner/judge-8b"
    for word in ("--served-model-name=judge", "--max-model-len=8192", "--data-parallel-size=4", "--enforce-eager"):
        assert word in command
    assert command[-1] == "--seed=3"


def test_a_server_is_there_within_the_block_and_gone_after_it(options, tmp_path):
    made, log = options(HEALTHY), tmp_path / "logs" / "server.log"
    with running_server(made, log=log, limit=30.0) as process:
        assert httpx.get(made.url.replace("/v1", "/health"), trust_env=False).status_code == 200
        with pytest.raises(ConfigError, match=f"{made.port} already has a server"), running_server(made, log=log):
            pass
    assert process.poll() is not None
    assert log.read_text() == f"serving {tmp_path}\n"
    with pytest.raises(httpx.ConnectError):
        httpx.get(made.url, trust_env=False)


def test_a_server_that_dies_shows_its_last_words(options, tmp_path):
    made = options("print('out of memory on GPU 0'); raise SystemExit(3)")
    with pytest.raises(ServerStartError, match=r"status 3(.|\n)*out of memory on GPU 0"):
        serve(made, log=tmp_path / "server.log", limit=30.0)


@pytest.mark.slow
def test_a_server_that_is_never_ready_is_ended(options, tmp_path):
    made = options("import time; print('loading', flush=True); time.sleep(600)")
    with pytest.raises(ServerStartError, match=r"not ready after 2 s(.|\n)*loading"):
        serve(made, log=tmp_path / "server.log", limit=2.0)


def test_what_cannot_work_is_explained(tmp_path):
    with pytest.raises(ConfigError, match=r"flexgym\[vllm\]"):
        serve_command(ServeOptions(str(tmp_path), executable="no-such-command"))
    with pytest.raises(CheckpointError, match="nowhere"):
        serve_command(ServeOptions(str(tmp_path / "nowhere")))
    for wrong in ({"port": 0}, {"max_pictures": 0}, {"gpu_memory_utilization": 1.5}, {"data_parallel_size": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            ServeOptions("owner/name", **wrong)
