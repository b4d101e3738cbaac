from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from flexgym import rewards
from flexgym.core.errors import ConfigError, JudgeFailureShareError
from flexgym.types import Prompt, SampleGroup

SERVER = Path(__file__).parents[2] / "examples" / "reward_server.py"
SCORER = """
import numpy as np

def detailed(prompt, samples, metadata):
    if prompt == "broken":
        raise RuntimeError("out of memory")
    if prompt == "endless":
        return [float("inf"), None, 1.0]
    values = samples.reshape(len(samples), -1).mean(axis=1).tolist()
    frames = samples.shape[1] if samples.ndim == 5 else 0
    terms = {"frames": [frames] * len(samples), "fps": [metadata.get("fps", -1)] * len(samples)}
    return {"scores": values, "terms": terms, "errors": [None, metadata.get("category"), None]}
"""


@contextlib.contextmanager
def example_server(*arguments, folder=None, **environment):
    """The server of the examples, in a process of its own."""
    command = [sys.executable, str(SERVER), *arguments, "--port", "0"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment or None)
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scorer")
    (folder / "my_scorer.py").write_text(SCORER)
    with example_server("my_scorer:detailed", folder=folder) as url:
        yield url


class Scripted:
    """A server on loopback that answers a request by ``script(serial, parsed body) -> (status, headers, bytes)``."""

    def __init__(self, script):
        outer, self.seen = self, []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append((dict(self.headers), body))
                status, headers, data = script(len(outer.seen) - 1, body)
                if status is None:
                    return  # the connection is cut
                self.send_response(status)
                for name, value in {"Content-Length": len(data), **headers}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(data)

            def do_GET(self):  # of a chat server: its models
                data = b'{"data": [{"id": "judge"}]}'
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/score"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def group(text="a cat", shape=(3, 8, 8, 3), **metadata):
    samples = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    return SampleGroup(Prompt(text, metadata), samples)


def good(count=3, **fields):
    return 200, {}, json.dumps({"scores": list(range(count)), **fields}).encode()


def remote(url, **settings):
    return rewards.make("remote", url=url, **{"max_attempts": 2, "timeout_s": 20, **settings})


def test_scores_of_the_example_server(url):
    images, videos = group(), group(shape=(3, 5, 8, 8, 3))
    reward = remote(url, fps=16)
    first, second = reward.score([images, videos])
    np.testing.assert_allclose(first.rewards, images.samples.reshape(3, -1).mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(second.rewards, videos.samples.reshape(3, -1).mean(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(first.terms["frames"], [0, 0, 0])
    np.testing.assert_array_equal(second.terms["frames"], [5, 5, 5])
    np.testing.assert_array_equal(second.terms["fps"], [16, 16, 16])
    assert first.failures == {}
    assert reward.metrics()["requests"] == 2
    reward.close()


def test_two_of_five_frames_are_sent_where_two_are_asked_for(url):
    videos = group(shape=(3, 5, 8, 8, 3))
    scores = remote(url, num_frames=2).score([videos])[0]
    np.testing.assert_allclose(scores.rewards, videos.samples[:, [0, 4]].reshape(3, -1).mean(axis=1), rtol=1e-6)


def test_what_the_server_cannot_score_is_a_failure_and_kept(url):
    reward = remote(url)
    broken, endless, fine = reward.guarded([group("broken"), group("endless"), group("a dog", category="animal")])
    assert np.isnan(broken.rewards).all()
    assert broken.failures == {"server_error": 3}
    np.testing.assert_array_equal(endless.rewards, [np.nan, np.nan, 1])
    assert endless.failures == {"refused": 2}
    assert fine.failures == {}  # an error beside a score is a remark
    assert "HTTP 422" in reward.failed.latest()[0].failure.detail
    assert "out of memory" in reward.failed.latest()[0].failure.detail
    assert [failed.failure.kind for failed in reward.failed.latest()] == ["server_error"] * 3 + ["refused"] * 2


@pytest.mark.parametrize(
    ("answer", "kind", "detail"),
    [
        ((200, {}, b"<html>"), "unparsable", "not JSON"),
        ((200, {}, b'{"scores": ["good", 1, 2]}'), "unparsable", "scores.0"),
        ((200, {}, b'{"scores": [NaN, 1, 2]}'), "unparsable", "not JSON"),
        ((200, {}, b'{"scores": [1e999, 1, 2]}'), "unparsable", "finite"),
        ((200, {}, b'{"score": [1, 2, 3]}'), "unparsable", "scores"),
        ((200, {}, b'{"scores": [1, 2, 3], "terms": {"a": [1]}}'), "invalid", "'a': 1"),
        (good(2), "invalid", "expected 3 entries, got {'scores': 2}"),
        ((200, {}, b" " * (2**20 + 10)), "unparsable", "longer than"),
        ((403, {}, b"no"), "server_error", "HTTP 403: no"),
        ((500, {}, b"oops"), "server_error", "gave up after 2 attempts; last error: HTTP 500"),
        ((None, {}, b""), "server_error", "gave up after 2 attempts"),
        ((200, {"Content-Length": 500}, b'{"scores": ['), "server_error", "gave up after 2 attempts"),
    ],
)
def test_bad_answers_fail_by_kind(answer, kind, detail):
    with Scripted(lambda serial, body: answer) as server:
        scores = (reward := remote(server.url)).guarded([group()])[0]
    assert np.isnan(scores.rewards).all()
    assert scores.failures == {kind: 3}
    assert detail in reward.failed.latest()[0].failure.detail


def test_trouble_that_may_pass_is_tried_again_at_the_next_address():
    def script(serial, body):
        return (503, {"Retry-After": "0"}, b"busy") if serial == 0 else good()

    with Scripted(script) as first, Scripted(lambda serial, body: good()) as second:
        reward = remote([first.url, second.url])
        np.testing.assert_array_equal(reward.score([group()])[0].rewards, [0, 1, 2])
        assert (len(first.seen), len(second.seen)) == (1, 1)
        assert reward.metrics()["retries"] == 1


def test_a_server_that_hangs_fails_in_time():
    gate = threading.Event()

    def script(serial, body):
        gate.wait(20)
        return good()

    with Scripted(script) as server:
        started = time.monotonic()
        scores = remote(server.url, timeout_s=0.3).score([group()])[0]
        gate.set()
    assert time.monotonic() - started < 5
    assert scores.failures == {"timed_out": 3}


def test_nothing_listens_there():
    scores = remote("http://127.0.0.1:9/score").score([group()])[0]
    assert scores.failures == {"server_error": 3}


def test_too_many_failures_stop_the_run():
    with Scripted(lambda serial, body: (422, {}, b'{"error": "no weights"}')) as server:
        groups = [group() for _ in range(6)]
        with pytest.raises(JudgeFailureShareError, match="18 of 18 .*no weights"):
            remote(server.url).guarded(groups)
        assert len(remote(server.url, max_failure_share=1.0).guarded(groups)) == 6


def test_names_of_terms_are_bounded_and_the_scores_are_kept():
    def script(serial, body):
        return good(terms={"remote": [9, 9, 9], **{f"term {serial} {n}": [n, n, n] for n in range(20)}})

    with Scripted(script) as server:
        reward = remote(server.url, max_concurrency=1)
        scores = [reward.score([group()])[0] for _ in range(3)]
    assert all(each.rewards.tolist() == each.terms["remote"].tolist() == [0, 1, 2] for each in scores)
    assert [len(each.terms) for each in scores] == [21, 13, 1]


def test_what_is_sent(monkeypatch):
    monkeypatch.setenv("SCORER_KEY", "secret")
    with Scripted(lambda serial, body: good()) as server:
        remote(server.url, api_key_env="SCORER_KEY").score([group("a 'cat' \u2603", category="x")])
        headers, body = server.seen[0]
    assert headers["Authorization"] == "Bearer secret"
    assert body["prompt"] == "a 'cat' \u2603"
    assert body["metadata"] == {"category": "x"}
    assert body["kind"] == "image"
    assert [len(frames) for frames in body["samples"]] == [1, 1, 1]


def test_the_example_server_refuses_what_it_cannot_read(url):
    def status(body, **headers):
        return httpx.post(url, content=body, headers=headers).status_code

    assert status(b"{") == 400
    assert status(b'{"prompt": "a", "samples": []}') == 400
    assert status(b'{"prompt": "a", "samples": [["no base64!"]]}') == 400
    assert status(b'{"prompt": "a", "samples": [["aGVsbG8="]]}') == 400
    assert status(b"[" * 100_000) == 400
    announced = http.client.HTTPConnection(*url.removeprefix("http://").removesuffix("/score").split(":"), timeout=10)
    announced.putrequest("POST", "/score")
    announced.putheader("Content-Length", str(2**40))
    announced.endheaders()
    assert announced.getresponse().status == 413
    assert httpx.get(url).json() == {"scorer": "my_scorer:detailed"}


def test_the_example_server_asks_for_its_key_and_scores_brightness(monkeypatch):
    monkeypatch.setenv("SCORER_KEY", "secret")
    with example_server(REWARD_SERVER_KEY="secret", PATH="/usr/bin") as url:
        refused = remote(url).score([group()])[0]
        assert refused.failures == {"server_error": 3}
        pictures = group()
        known = remote(url, api_key_env="SCORER_KEY").score([pictures])[0]
    np.testing.assert_allclose(known.rewards, pictures.samples.reshape(3, -1).mean(axis=1) / 255, rtol=1e-6)


@pytest.mark.parametrize("bad", ["", "localhost:8100", "ftp://a/b", "http://user:pass@host/score", [], 3])
def test_addresses_are_checked(bad):
    with pytest.raises((ConfigError, TypeError)):
        rewards.make("remote", url=bad)


def test_settings_are_checked():
    for settings in ({"timeout_s": 0}, {"max_attempts": 0}, {"num_frames": 0}, {"max_failure_share": 2}):
        with pytest.raises(ConfigError):
            remote("http://localhost:1/score", **settings)


def png(width, height):
    """A PNG of a few kilobytes, however many pixels it has."""
    image = io.BytesIO()
    Image.new("1", (width, height)).save(image, "png", compress_level=9)
    return base64.b64encode(image.getvalue()).decode()


@pytest.fixture(scope="module")
def bounded():
    """The example server with a limit of 2 s, and a function that returns its largest memory so far, in MiB."""
    command = [sys.executable, str(SERVER), "--port", "0", "--max-seconds", "1.5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().split()[-1]

        def peak():
            status = Path(f"/proc/{process.pid}/status")
            if not status.exists():
                pytest.skip("the memory of a process is read from /proc")
            return int(next(line for line in status.read_text().splitlines() if "VmHWM" in line).split()[1]) / 1024

        yield url, peak
        process.kill()


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ([[png(8192, 8192)] * 8], "pixels"),
        ([[png(4096, 4096)]] * 64, "pixels"),
        ([[png(20_000, 20_000)]], "base64 PNG|pixels"),
        ([[png(8, 8)], [png(8192, 8192)]], "same size"),
        ([[png(8, 8)] * 2, [png(8, 8)]], "same number of frames"),
        ([[png(8, 8)] * 5000], "at most 4096 frames"),
        ([[png(0x7FFF, 1)] * 3000], "pixels"),
    ],
)
def test_a_small_request_does_not_decode_to_gigabytes(bounded, samples, reason):
    url, peak = bounded
    before = peak()
    answer = httpx.post(url, json={"prompt": "a", "kind": "video", "samples": samples})
    assert answer.status_code == 400
    assert re.search(reason, answer.json()["error"])
    assert peak() - before < 60


def test_what_the_example_server_accepts_takes_little_more_than_its_pixels(bounded):
    url, peak = bounded
    before = peak()
    answer = httpx.post(url, json={"prompt": "a", "kind": "image", "samples": [[png(4096, 4096)]]}, timeout=60)
    assert answer.json()["scores"] == [0.0]
    assert peak() - before < 400


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"prompt": "a", "samples": ' + b"[" * 50 + b"]" * 50 + b"}", "levels"),
        (b'{"prompt": "a", "metadata": ' + b'{"a":' * 40 + b"1" + b"}" * 40 + b"}", "levels"),
        (b'{"prompt": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
def test_depth_and_numbers_of_a_request_are_bounded(bounded, body, reason):
    answer = httpx.post(bounded[0], content=body)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


@pytest.mark.parametrize("part", ["head", pytest.param("body", marks=pytest.mark.slow)])
def test_a_client_that_drips_is_cut_off(bounded, part):
    address = bounded[0].removeprefix("http://").removesuffix("/score").split(":")
    head = b"POST /score HTTP/1.1\r\nContent-Length: 1000\r\n" + (b"\r\n" if part == "body" else b"X-Drip: ")
    started = time.monotonic()
    with socket.create_connection((address[0], int(address[1])), timeout=10) as client, contextlib.suppress(OSError):
        client.sendall(head)
        while time.monotonic() - started < 8:
            client.sendall(b"x")
            client.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                if client.recv(100) == b"":
                    break
    assert time.monotonic() - started < 4


def test_clients_that_announce_much_at_a_time_are_told_to_come_back(bounded):
    address = bounded[0].removeprefix("http://").removesuffix("/score").split(":")
    with contextlib.ExitStack() as stack:
        answers = []
        for _ in range(3):
            client = stack.enter_context(socket.create_connection((address[0], int(address[1])), timeout=10))
            client.sendall(b"POST /score HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (120 * 2**20))
            time.sleep(0.05)
            answers.append(client)
        assert b"503" in answers[-1].recv(100)
    time.sleep(0.2)
    assert httpx.post(bounded[0], json={"prompt": "a", "samples": [[png(8, 8)]], "kind": "image"}).status_code == 200
