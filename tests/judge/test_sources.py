from __future__ import annotations

import json

import pytest

from flexgym.core.errors import CheckpointError, ConfigError, UnknownNameError
from flexgym.judge.sources import CONFIG_NAME, EMBEDDED_JUDGE, JudgeConfig, locate_judge, read_judge_config


def write(folder, text):
    (folder / CONFIG_NAME).write_text(text)
    return folder


def test_the_name_of_the_embedded_judge_is_its_folder():
    assert (locate_judge(EMBEDDED_JUDGE) / "config.json").is_file()
    assert locate_judge("http://localhost:8080/v1") == "http://localhost:8080/v1"


def test_settings_come_from_the_folder(tmp_path):
    folder = write(tmp_path, json.dumps({"inputs": {"num_frames": 4}, "batch_size": 3}))
    for source in (folder, str(folder), [str(folder)]):
        assert read_judge_config(source) == JudgeConfig(inputs={"num_frames": 4}, batch_size=3)


@pytest.mark.parametrize("source", ["http://localhost:8080/v1", ["http://a/v1", "http://b/v1"], "owner/name", object()])
def test_what_is_no_folder_has_the_defaults(source):
    assert read_judge_config(source) == JudgeConfig()


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("{", CheckpointError, "JSON object"),
        ("[]", CheckpointError, "JSON object"),
        (" " * 70_000, CheckpointError, "65536 bytes"),
        ('{"input": {}}', UnknownNameError, "inputs"),
    ],
)
def test_a_broken_file_is_told(tmp_path, text, error, said):
    with pytest.raises(error, match=said):
        read_judge_config(write(tmp_path, text))


def test_a_folder_with_settings_that_cannot_work_is_told_before_it_is_loaded(tmp_path):
    from flexgym import rewards

    with pytest.raises(ConfigError, match="num_frames"):
        rewards.make("unified_reward_flex", judge=str(write(tmp_path, '{"inputs": {"num_frames": 0}}')))
