"""Settings of rewards are validated without building anything."""

from __future__ import annotations

import pytest

from flexgym import rewards
from flexgym.core.arguments import setting_parameters
from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.rewards.registry import reward_class

URL = "http://localhost:1/v1"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("JPEGCompressibility", {"quality": 50, "deadline_s": 3, "failed_samples": "folder"}),
        ("ShapesOracle", {"schedule": "regular(6)", "alpha": 1}),
        ("UnifiedRewardFlex", {}),
        ("UnifiedRewardFlex", {"judge": "no/such-model", "tournament": {"alpha": 0.5}}),
        ("UnifiedReward", {"judge": [URL, URL], "backend_settings": {"max_concurrency": 2}}),
        ("CLIPScore", {"model": "no/such-model", "dtype": "bfloat16"}),
        ("Remote", {"url": URL}),
        ("Rubric", {"terms": [{"reward": "CLIPScore", "settings": {"model": "no/such-model"}}]}),
    ],
)
def test_what_can_work_passes_without_loading_anything(name, settings):
    rewards.check(name, settings)


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("clip_scor", {}, UnknownNameError, "Did you mean 'CLIPScore'"),
        ("ShapesOracle", {"alhpa": 0.2}, UnknownNameError, "Did you mean 'alpha'"),
        ("ShapesOracle", {"alpha": "high"}, ConfigError, "alpha of shapes_oracle: expected number"),
        ("ShapesOracle", {"alpha": 3}, ConfigError, "alpha must be between 0"),
        ("ShapesOracle", {"both_orders": "yes"}, ConfigError, "both_orders of shapes_oracle"),
        ("ShapesOracle", {"schedule": "regula(3)"}, UnknownNameError, "Did you mean 'regular'"),
        ("ShapesOracle", 3, ConfigError, "settings of shapes_oracle: expected settings by name, got 3"),
        ("UnifiedRewardFlex", {"tournament": {"alhpa": 1}}, UnknownNameError, "Did you mean 'alpha'"),
        ("UnifiedRewardFlex", {"tournament": {"seed": "x"}}, ConfigError, "seed of the tournament"),
        ("UnifiedRewardFlex", {"judge": 3}, ConfigError, "judge of unified_reward_flex: expected str | Path"),
        ("UnifiedRewardFlex", {"decoding": {"max_token": 3}}, UnknownNameError, "Did you mean 'max_tokens'"),
        ("UnifiedRewardFlex", {"decoding": {"max_tokens": "3"}}, ConfigError, "max_tokens of decoding"),
        ("UnifiedRewardFlex", {"inputs": {"quality": 200}}, ConfigError, "1 to 95"),
        ("UnifiedRewardFlex", {"prompt_template": "nowhere.txt"}, ConfigError, "nowhere.txt"),
        ("UnifiedRewardFlex", {"backend": "transformer"}, UnknownNameError, "Did you mean 'transformers'"),
        ("UnifiedRewardFlex", {"judge": URL, "backend": "vllm"}, ConfigError, "expects a checkpoint folder"),
        (
            "UnifiedRewardFlex",
            {"judge": URL, "backend_settings": {"max_concurency": 3}},
            UnknownNameError,
            "setting of judge backend 'server' 'max_concurency'. Did you mean 'max_concurrency'",
        ),
        (
            "UnifiedRewardFlex",
            {"judge": URL, "backend_settings": {"max_concurrency": "3"}},
            ConfigError,
            "max_concurrency of judge backend 'server': expected whole number",
        ),
        ("UnifiedReward", {"judge": URL, "form": "axis"}, UnknownNameError, "Did you mean 'axes'"),
        ("CLIPScore", {"dtype": "bf16"}, UnknownNameError, "Did you mean 'bfloat16'"),
        ("CLIPScore", {"num_frames": 2.5}, ConfigError, "num_frames of clip_score"),
        ("HPSv2", {}, ConfigError, "hpsv2: expected a model"),
        ("Remote", {"url": "localhost"}, ConfigError, "expected an address such as"),
        ("Remote", {"url": URL, "timeout_s": 0}, ConfigError, "timeout_s of remote: expected a number above 0"),
        ("OCR", {"engine": 3}, ConfigError, "engine of ocr"),
        ("JPEGCompressibility", {"deadline_s": "soon"}, ConfigError, "deadline_s of jpeg_compressibility"),
        ("JPEGCompressibility", {"failed_samples": 3}, ConfigError, "failed_samples of jpeg_compressibility"),
        (
            "Rubric",
            {"terms": [{"reward": "JPEGCompressibility", "settings": {"qualty": 3}}]},
            UnknownNameError,
            "setting of jpeg_compressibility 'qualty'. Did you mean 'quality'",
        ),
        (
            "Rubric",
            {"terms": [{"reward": "Rubric", "settings": {"terms": [{"reward": "OCRR"}]}}]},
            UnknownNameError,
            "Did you mean 'OCR'",
        ),
    ],
)
def test_what_cannot_work_is_explained(name, settings, error, message):
    with pytest.raises(error, match=message):
        rewards.check(name, settings)


@pytest.mark.parametrize("name", rewards.names())
def test_every_setting_of_a_shipped_reward_has_a_type(name):
    for parameter in setting_parameters(reward_class(name)):
        assert parameter.annotation is not parameter.empty
        assert not isinstance(parameter.annotation, str)
