"""Names and defaults that settings repeat from the libraries below, so that these need not be imported."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from typing import get_args

import pytest
import stable_baselines3
import torch
from peft import LoraConfig
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from stable_baselines3.common.base_class import BaseAlgorithm
from trl import DPOConfig, SFTConfig

from flexgym.config.judge import _EPSILONS, JudgeLoraSettings
from flexgym.config.moved import _ELSEWHERE, RLLIB_SECTIONS, RLLIB_TRAINING
from flexgym.config.sb3 import AlgorithmName
from flexgym.config.sections import ResourceSettings, RLlibSettings
from flexgym.config.trainers import DPOTrainerSettings, SFTTrainerSettings


def defaults(kind):
    found = {}
    for field in fields(kind):
        found[field.name] = field.default if field.default_factory is MISSING else field.default_factory()
    return found


@pytest.mark.parametrize(("settings", "config"), [(SFTTrainerSettings(), SFTConfig), (DPOTrainerSettings(), DPOConfig)])
def test_trainer_options_are_those_of_trl_with_its_defaults(settings, config):
    theirs = defaults(config)
    for name, value in settings:
        assert name in theirs
        assert (list(value) if isinstance(value, tuple) else value) == theirs[name], name
    assert {name.rpartition(".")[2] for name in _ELSEWHERE} <= set(theirs)


def test_adapter_options_are_those_of_peft():
    theirs = defaults(LoraConfig)
    assert set(JudgeLoraSettings.model_fields) <= set(theirs)
    own = {"r", "lora_alpha", "target_modules"}
    assert {name: value for name, value in JudgeLoraSettings() if name not in own} == {
        name: theirs[name] for name in JudgeLoraSettings.model_fields if name not in own
    }


def test_resources_and_options_are_those_of_rllib_with_its_defaults():
    theirs = AlgorithmConfig()
    for name, value in [*ResourceSettings(), *RLlibSettings()]:
        if name in ("grad_clip_by", "torch_ddp_kwargs", "wait_s", "autoscaling"):
            continue
        assert getattr(theirs, name) == value, name
    assert all(callable(getattr(AlgorithmConfig, section)) for section in RLLIB_SECTIONS)
    training = inspect.signature(AlgorithmConfig.training).parameters
    assert set(training) >= RLLIB_TRAINING


def test_algorithms_of_stable_baselines3_are_all_there():
    theirs = {
        name
        for name, found in vars(stable_baselines3).items()
        if inspect.isclass(found) and issubclass(found, BaseAlgorithm)
    }
    assert set(get_args(AlgorithmName)) == theirs


def test_precisions_are_those_of_torch():
    assert {name: torch.finfo(getattr(torch, name)).eps for name in _EPSILONS} == _EPSILONS
