"""A run against a Ray cluster that is not there, or that asks for a token."""

from __future__ import annotations

import time
from concurrent import futures

import grpc
import pytest

from flexgym.config import RunSettings
from flexgym.core.errors import ConfigError
from flexgym.rllib import address
from flexgym.rllib.address import check_reachable
from flexgym.rllib.trainable import AgentTrainable
from flexgym.runs.loop import TrainingRun
from tests.agents.small import small_config

TOKEN = "0123456789abcdef" * 2


class Head(grpc.GenericRpcHandler):
    """Answers as the head of a cluster does."""

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.answer) if details.method == address._ALIVE else None

    def answer(self, request, context):
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {TOKEN}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken: Authentication token is missing")
        return b""


@pytest.fixture(scope="module")
def head():
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[Head()])
    port = server.add_insecure_port("0.0.0.0:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


@pytest.fixture(autouse=True)
def account(monkeypatch, tmp_path):
    """Variables of an account without a token; Ray caches what it has read."""
    loader = address.ray._raylet.AuthenticationTokenLoader.instance()
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    loader.reset_cache()
    yield monkeypatch
    monkeypatch.undo()
    loader.reset_cache()


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({}, "asks for a token: copy the token that `ray get-auth-token` prints"),
        ({"RAY_AUTH_TOKEN": TOKEN}, "and set RAY_AUTH_MODE=token"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "another"}, "does not accept the token of this account"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}, ""),
    ],
)
def test_a_cluster_with_a_token(variables, problem, head, account):
    account.setenv("RAY_ADDRESS", head)
    for name, value in variables.items():
        account.setenv(name, value)
    began = time.monotonic()
    if problem:
        with pytest.raises(ConfigError) as failed:
            check_reachable()
        assert problem in str(failed.value)
    else:
        check_reachable()
    assert time.monotonic() - began < 5


def test_a_cluster_that_is_not_there_leaves_no_run_folder(account, tmp_path):
    account.setenv("RAY_ADDRESS", "127.0.0.1:9")
    account.setattr("ray.is_initialized", lambda: False)
    run = TrainingRun(AgentTrainable(small_config()), RunSettings(root=str(tmp_path), name="run"))
    with pytest.raises(ConfigError, match=r"no Ray answers at .*:9 \(RAY_ADDRESS\)"):
        run.train()
    assert not (tmp_path / "run").exists()


def test_other_addresses_are_left_to_ray(account):
    account.setenv("RAY_ADDRESS", "local")
    check_reachable()
    account.setenv("RAY_ADDRESS", "ray://127.0.0.1:9")
    check_reachable()
