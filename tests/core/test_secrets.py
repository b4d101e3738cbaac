"""Keys come from the environment, and nothing that is written or shown holds one."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from typer.testing import CliRunner

from flexgym import rewards
from flexgym.cli import app
from flexgym.commands.serve import ServeOptions, running_server, serve_command
from flexgym.config import AgentSettings
from flexgym.config.load import load_settings
from flexgym.config.recipe import apply_overrides, load_recipe
from flexgym.core.errors import ConfigError
from flexgym.core.secrets import Secret, names_a_secret, refuse_secrets, secret_from_environment
from flexgym.judge.backends.opening import check_backend, open_backend
from flexgym.rewards.validate import settings_of
from tests.judge.backends.scripted_server import ScriptedServer

KEY = "sk-proj-0123456789abcdef"


def test_a_secret_is_given_away_by_reveal_alone():
    secret = Secret(KEY)
    assert secret.reveal() == KEY
    shown = [str(secret), repr(secret), f"{secret}", f"{secret!r:>20}", repr([secret]), repr(vars)]
    assert all(KEY not in text for text in shown)
    for leak in (pickle.dumps, copy.deepcopy, json.dumps, vars):
        with pytest.raises(TypeError):
            leak(secret)


def test_a_key_is_read_from_its_variable(monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", f" {KEY}\n")
    assert secret_from_environment("JUDGE_API_KEY").reveal() == KEY
    assert secret_from_environment(None) is None
    with pytest.raises(ConfigError, match="OTHER_API_KEY, which is not set"):
        secret_from_environment("OTHER_API_KEY")
    monkeypatch.setenv("JUDGE_API_KEY", "two\r\nX-Header: lines")
    with pytest.raises(ConfigError, match="printable ASCII"):
        secret_from_environment("JUDGE_API_KEY")


@pytest.mark.parametrize("given", [KEY, "hf_abcDEF", "", "a b", "A=B", 3])
def test_a_key_in_place_of_its_variable_is_refused_and_not_quoted(given):
    with pytest.raises(ConfigError, match="api_key_env") as caught:
        secret_from_environment(given)
    assert KEY not in str(caught.value)
    assert "hf_abcDEF" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "API_KEY",
        "apikey",
        "openai_api_key",
        "api-key",
        "hf_token",
        "token",
        "password",
        "secret",
        "auth_token",
        "Authorization",
        "aws_secret_key",
        "credentials",
    ],  # fmt: skip
)
def test_names_of_secrets(name):
    assert names_a_secret(name)
    assert not names_a_secret(f"{name}_env")


@pytest.mark.parametrize("name", ["max_tokens", "tokens", "keys", "key", "bos_token", "tokenizer", "secretary", "path"])
def test_names_that_are_no_secrets(name):
    assert not names_a_secret(name)


HIDDEN = [
    {"reward": {"settings": {"backend_settings": {"api_key": KEY}}}},
    {"reward": {"settings": {"backend_settings": {"api_key_env": KEY}}}},
    {"reward": {"settings": {"judge": f"http://me:{KEY}@host/v1"}}},
    {"reward": {"settings": {"judge": [f"http://host/v1?key={KEY}"]}}},
    {"reward": {"monitors": [{"reward": "Remote", "settings": {"headers": {"Authorization": f"Bearer {KEY}"}}}]}},
    {"reward": {"settings": {"terms": [{"settings": {"apikey": KEY}}]}}},
    {"run": {"root": f"s3://id:{KEY}@bucket/runs"}},
]


@pytest.mark.parametrize("values", HIDDEN)
def test_no_recipe_holds_a_secret(tmp_path, values):
    with pytest.raises(ConfigError, match="environment variable") as caught:
        refuse_secrets(values, source="recipe.yaml")
    assert KEY not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        load_settings(AgentSettings, values)
    assert KEY not in str(caught.value)
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"recipe\.yaml: .*environment variable") as caught:
        load_recipe(path)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        f"reward.settings.backend_settings.api_key={KEY}",
        f"reward.settings.backend_settings={{api_key: {KEY}}}",
        f"reward.settings.backend_settings.api_key=[{KEY}",  # not even YAML
        f"reward.settings.backend_settings.api_key_env={KEY}",
        f"reward.settings.judge=https://me:{KEY}@host/v1",
    ],
)
def test_no_override_holds_a_secret(override):
    with pytest.raises(ConfigError, match="environment variable") as caught:
        apply_overrides({}, [override])
    assert KEY not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        settings_of([override])
    assert KEY not in str(caught.value)


def test_rewards_and_backends_take_no_key_itself():
    for make in (
        lambda: rewards.make("remote", url="http://localhost:1/score", api_key=KEY),
        lambda: rewards.make("unified_reward", judge="http://localhost:1", backend_settings={"api_key": KEY}),
        lambda: check_backend("http://localhost:1", None, {"api_key": KEY}),
    ):
        with pytest.raises(ConfigError, match="api_key_env") as caught:
            make()
        assert KEY not in str(caught.value)


def test_a_judge_server_gets_the_key_of_the_variable(monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", KEY)
    with ScriptedServer(api_key=KEY) as server:
        backend = open_backend(server.url, None, {"api_key_env": "JUDGE_API_KEY"})
        words = ["judge", "rank", "folder", "--judge", server.url, "--api-key-env", KEY]
        result = CliRunner().invoke(app, words)
        backend.close()
    assert result.exit_code == 2
    assert "capitals" in result.output
    assert KEY not in result.output


def test_the_key_of_a_judge_that_is_served_is_not_on_its_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", KEY)
    seen = tmp_path / "seen.json"
    script = tmp_path / "vllm"
    script.write_text(
        "#!/usr/bin/env python3\nimport json, os, sys\n"
        f"json.dump([sys.argv, os.environ['VLLM_API_KEY']], open({str(seen)!r}, 'w'))\n"
    )
    script.chmod(0o755)
    options = ServeOptions("owner/judge", port=1, executable=str(script), api_key_env="JUDGE_API_KEY")
    assert KEY not in " ".join(serve_command(options))
    with pytest.raises(RuntimeError, match="exited with status 0"), running_server(options, log=tmp_path / "log"):
        pass
    arguments, key = json.loads(seen.read_text())
    assert key == KEY
    assert KEY not in " ".join(arguments)
    with pytest.raises(ConfigError, match="use api_key_env"):
        ServeOptions("owner/judge", extra=("--api-key=x",))
