from __future__ import annotations

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from flexgym import rewards
from flexgym.core.errors import ConfigError
from flexgym.reward import PointwiseReward
from flexgym.rewards.known import flat_and_noise, known_pairs
from flexgym.rewards.registry import reward_class
from flexgym.rewards.validate import main, settings_of, validate

app = typer.Typer()
app.command()(main)


def run(*words):
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})


class Upside(PointwiseReward):
    """Says that noise is best."""

    def score_samples(self, prompt, samples):
        return samples.reshape(len(samples), -1).std(axis=1)

    def known_pairs(self):
        return flat_and_noise()


class Broken(PointwiseReward):
    """Never scores."""

    def score_samples(self, prompt, samples):
        raise ValueError("no weights [here]")


@pytest.mark.parametrize(
    "words",
    [
        ("JPEGCompressibility",),
        ("mp4_compressibility", "incompressible=true"),
        ("jpeg_compressibility", "quality=50", "incompressible=true"),
        ("rubric", "terms=[{reward: jpeg_compressibility}, {reward: shapes_verifier, weight: 0}]"),
    ],
)
def test_a_reward_that_is_right_ends_with_zero(words):
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert "right" in result.output


def test_a_reward_that_is_wrong_or_broken_ends_with_one():
    result = run("tests.rewards.test_validate:Upside")
    assert result.exit_code == 1
    assert "WRONG" in result.output
    result = run("tests.rewards.test_validate:Broken")
    assert result.exit_code == 1
    assert "no weights [here]" in result.output


def test_what_cannot_be_built_ends_with_two():
    for words in (("jpeg_compresibility",), ("jpeg_compressibility", "quality=0"), ("jpeg_compressibility", "quality")):
        assert run(*words).exit_code == 2


def test_shapes_are_told_apart_by_their_verifier():
    findings = validate(rewards.make("shapes_verifier"))
    assert [found.right for found in findings] == [True] * 3
    assert (findings[0].good, findings[2].bad) == (1.0, 0.0)


def test_known_pairs_are_groups_of_two():
    for name in ("clip_score", "aesthetic", "temporal_consistency", "dynamic_degree", "ocr"):
        cls = reward_class(name)
        for pair in known_pairs(object.__new__(cls)):  # they need no weights
            assert pair.group.samples.dtype == np.uint8
            assert len(pair.group) == 2
            assert not np.array_equal(pair.good, pair.bad)


def test_settings_reach_into_mappings():
    assert settings_of(["a=1", "b.c=[x, 2]", "b.d=null"]) == {"a": 1, "b": {"c": ["x", 2], "d": None}}
    for bad in ("a", "=1", "a..b=1"):
        with pytest.raises(ConfigError, match="key=value"):
            settings_of([bad])
