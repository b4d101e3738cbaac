"""Half of a surrogate pair is no character: it is rejected at every door, with its place."""

from __future__ import annotations

import json

import gymnasium
import pytest

import flexgym  # noqa: F401  (registers the environments)
from flexgym.config.recipe import apply_overrides, load_recipe
from flexgym.core.errors import ConfigError, PromptSourceError
from flexgym.core.yaml_files import parse_yaml
from flexgym.envs.prompts import load_prompts
from flexgym.types import Prompt

HALF = "a red \ud800 circle"


@pytest.mark.parametrize(
    "line",
    [
        {"prompt": HALF},
        {"prompt": "a", "category": HALF},
        {"prompt": "a", "objects": [{"class": [HALF]}]},
        {"prompt": "a", HALF: 1},
    ],
)
def test_a_prompt_file_with_half_a_pair_is_refused_with_its_line(tmp_path, line):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "fine"}\n' + json.dumps(line) + "\n")
    with pytest.raises(PromptSourceError, match=r"line 2 of .*prompts\.jsonl.*surrogate"):
        load_prompts(str(path), "image")


@pytest.mark.parametrize(
    ("name", "content"),
    [("p.txt", b"fine\na \xed\xa0\x80 b\n"), ("p.jsonl", b'{"prompt": "a"}\n{"prompt": "\xed\xa0\x80"}\n')],
)
def test_encoded_halves_are_no_utf8(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PromptSourceError, match="not UTF-8"):
        load_prompts(str(path), "image")


@pytest.mark.parametrize("entry", [HALF, Prompt, {"prompt": HALF}, {"prompt": "a", "n": {"m": (HALF,)}}])
def test_a_sequence_with_half_a_pair_is_refused(entry):
    with pytest.raises(PromptSourceError, match="surrogate"):
        load_prompts(["fine", Prompt(HALF) if entry is Prompt else entry], "image")


def test_reset_options_with_half_a_pair_are_refused():
    env = gymnasium.make("FlexT2I-v0", group_size=2)
    with pytest.raises(PromptSourceError, match="surrogate"):
        env.reset(seed=0, options={"prompt": HALF})


def test_recipes_and_overrides_with_half_a_pair_are_refused(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text('rollout:\n  prompts: ["a \\ud800"]\n')
    with pytest.raises(ConfigError, match=r"r\.yaml:2: .*surrogate"):
        load_recipe(path)
    with pytest.raises(ConfigError, match="special characters are not allowed"):
        apply_overrides({}, [f"rollout.prompts=['{HALF}']"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "9" * 4000, "a number of 4000 characters"),
        ("a: 0x" + "f" * 3000, "a number of 3002 characters"),
        ("a: " + "1_0" * 200, "a number of 600 characters"),
        ("a: " + "[" * 10_000, "nested more than 20|expected"),
        ("a: &a [x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]", "anchors and aliases"),
        ("a: &a {b: *a}", "anchors and aliases"),
        ("a: !!python/object/apply:os.system [ls]", "tag"),
    ],
)
def test_yaml_that_could_exhaust_or_run_something_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text, source="recipe")


def test_prompts_nested_too_deep_are_refused_with_their_line(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "fine"}\n{"prompt": "a", "b": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    with pytest.raises(PromptSourceError, match=r"line 2 of .*nested more than 100 levels"):
        load_prompts(str(path), "image")
