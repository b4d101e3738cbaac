"""One deadline and one bound on bytes for a whole exchange, for everything that talks to a server."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import numpy as np
import pytest

from flexgym import rewards
from flexgym.core.errors import ConfigError
from flexgym.judge.backends.addresses import base_url, checked_address
from flexgym.judge.backends.base import ChatRequest, Decoding
from flexgym.judge.backends.connection import ExchangeError, fetch
from flexgym.judge.backends.server import ServerBackend
from flexgym.judge.backends.streams import MAX_EXCHANGE_BYTES
from flexgym.types import Prompt, SampleGroup
from tests.judge.backends.slow_server import FLOODS, PARTS, raw_server

ROOT = Path(__file__).parents[3]
LIMIT_S = 0.2
LATEST_S = 1.5


@pytest.mark.parametrize("part", PARTS)
def test_an_exchange_ends_at_its_deadline_whatever_trickles_in(part):
    with raw_server(PARTS[part]) as (url, _):
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            fetch(url, seconds=LIMIT_S)
        assert time.monotonic() - started < LATEST_S


@pytest.mark.parametrize(
    "part", [pytest.param(part, marks=() if part == "one header" else pytest.mark.slow) for part in FLOODS]
)
def test_a_flood_ends_after_a_bounded_number_of_bytes(part):
    with raw_server(FLOODS[part]) as (url, sent):
        started = time.monotonic()
        try:
            answer = fetch(url, seconds=20.0)
            assert answer.is_cut or answer.status == 302
        except ExchangeError:
            pass
        assert time.monotonic() - started < 10.0
        assert sum(sent) < MAX_EXCHANGE_BYTES + 8 * 2**20  # what the kernel keeps on its way counts as sent


def test_a_server_that_does_not_read_the_request_or_begin_tls_is_left_in_time():
    group = SampleGroup(Prompt("a"), np.random.default_rng(0).integers(0, 256, (4, 512, 512, 3), np.uint8))
    for scheme in ("http", "https"):
        with raw_server(iter, reads=False) as (url, _):
            started = time.monotonic()
            reward = rewards.make("remote", url=url.replace("http", scheme), timeout_s=LIMIT_S, max_failure_share=1.0)
            assert reward.score([group])[0].failures == {"timed_out": 4}
            reward.close()
            assert time.monotonic() - started < LATEST_S + 1.0


@pytest.mark.parametrize("part", ["head", "100 Continue", "trailers"])
def test_the_remote_reward_and_the_judge_server_keep_their_deadlines(part):
    group = SampleGroup(Prompt("a"), np.zeros((2, 8, 8, 3), np.uint8))
    with raw_server(PARTS[part]) as (url, _):
        started = time.monotonic()
        reward = rewards.make("remote", url=url, timeout_s=LIMIT_S, max_failure_share=1.0)
        assert reward.score([group])[0].failures == {"timed_out": 2}
        reward.close()
        judge = ServerBackend(url, "judge", wait_for_server_s=LIMIT_S, deadline_s=LIMIT_S)
        with pytest.raises(ConnectionError, match="no judge server responded"):
            judge.complete([ChatRequest((), "text")], Decoding())
        judge.close()
        assert time.monotonic() - started < 2 * LATEST_S


@pytest.mark.parametrize(
    "address", ["http://me:SECRET@host/v1", "http://host/v1?key=SECRET", "http://host/#SECRET", "SECRET@host", 3, None]
)
def test_addresses_with_secrets_are_refused_and_not_quoted(address):
    for check in (checked_address, base_url):
        with pytest.raises(ConfigError) as caught:
            check(address)
        assert "SECRET" not in str(caught.value)


def test_nothing_else_in_the_project_talks_to_servers():
    clients = {"urllib", "http", "requests", "aiohttp", "socket", "httpcore", "httpx", "asyncio"}
    allowed = {
        "flexgym/judge/backends/connection.py",  # the one client
        "flexgym/judge/backends/streams.py",
        "flexgym/judge/backends/addresses.py",  # httpx.URL
        "flexgym/judge/backends/server.py",  # httpx.create_ssl_context
        "flexgym/judge/backends/server_pool.py",
        "flexgym/judge/backends/group_queue.py",
        "flexgym/judge/backends/loop_thread.py",
        "flexgym/commands/serve.py",  # whether a port is free
        "flexgym/doctor/network.py",  # whether ports are free and machines answer
        "flexgym/core/lock.py",  # the name of the host
        "flexgym/report/server.py",  # the page, on loopback
        "flexgym/runs/storage.py",  # the name of the host
        "flexgym/runs/trackers/tensorboard.py",  # the name of the host
        "flexgym/rewards/remote.py",
    }
    found = set()
    for path in (ROOT / "flexgym").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if clients & {name.split(".")[0] for name in names}:
                found.add(str(path.relative_to(ROOT)))
    assert found <= allowed
