"""Typed settings of agents, judge training and Stable-Baselines3, read from recipes and checked at every depth."""

from flexgym.algorithm.settings import AlgorithmSettings, GuidanceSettings, WindowSettings
from flexgym.config.agent import AgentSettings
from flexgym.config.data import DataSettings
from flexgym.config.generator import GeneratorSettings, LoraSettings, SamplingSettings
from flexgym.config.judge import DPOSettings, JudgeTrainingSettings, SFTSettings
from flexgym.config.sb3 import SB3Settings
from flexgym.config.sections import (
    EnvironmentSettings,
    RecordSettings,
    ResourceSettings,
    RewardSettings,
    RLlibSettings,
    RunSettings,
    VerificationSettings,
    WatchedReward,
    WrapperSettings,
)
from flexgym.config.training import AdvantageSettings, RolloutSettings, TrainingSettings

__all__ = [
    "AdvantageSettings",
    "AgentSettings",
    "AlgorithmSettings",
    "DPOSettings",
    "DataSettings",
    "EnvironmentSettings",
    "GeneratorSettings",
    "GuidanceSettings",
    "JudgeTrainingSettings",
    "LoraSettings",
    "RLlibSettings",
    "RecordSettings",
    "ResourceSettings",
    "RewardSettings",
    "RolloutSettings",
    "RunSettings",
    "SB3Settings",
    "SFTSettings",
    "SamplingSettings",
    "TrainingSettings",
    "VerificationSettings",
    "WatchedReward",
    "WindowSettings",
    "WrapperSettings",
]
