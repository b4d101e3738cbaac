# Written by `python -m tools.stubs`.
"""Rewards of image and video groups as wrappers of vector environments."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium.vector

from flexgym.judge.aggregation import WinRate
from flexgym.judge.backends.base import Backend
from flexgym.judge.schedule import Schedule
from flexgym.judge.tournament import Tournament
from flexgym.reward import VectorRewardWrapper
from flexgym.rewards.rubric import Term
from flexgym.rewards.wrappers import NamedVectorWrapper
from flexgym.rewards.wrappers import wrap_vector as wrap

__all__ = [
    "Aesthetic",
    "CLIPScore",
    "Diversity",
    "DynamicDegree",
    "HPSv2",
    "ImageReward",
    "JPEGCompressibility",
    "MP4Compressibility",
    "OCR",
    "PickScore",
    "Remote",
    "Rubric",
    "ShapesMatch",
    "ShapesOracle",
    "ShapesVerifier",
    "TemporalConsistency",
    "UnifiedReward",
    "UnifiedRewardFlex",
    "UnifiedRewardPair",
    "UnifiedRewardThink",
    "VQAScore",
    "VectorRewardWrapper",
    "wrap",
]

class Aesthetic(NamedVectorWrapper):
    """Predicted rating of an image, about 1 to 10, by a linear head on CLIP's normalized image features."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        head: str | Path = "",
        model: str | Path = "openai/clip-vit-large-patch14",
        num_frames: int = 8,
        device: str | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        batch_size: int = 32,
        deadline_s: float | None = None,
        own_process: bool | None = None,
        failed_samples: str | Path | None = None,
    ) -> None: ...

class CLIPScore(NamedVectorWrapper):
    """Cosine of prompt and image by CLIP, typically 0.15 to 0.4."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        model: str | Path = "",
        num_frames: int = 8,
        processor: str | Path | None = None,
        device: str | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        batch_size: int = 32,
        deadline_s: float | None = None,
        own_process: bool | None = None,
        failed_samples: str | Path | None = None,
    ) -> None: ...

class Diversity(NamedVectorWrapper):
    """Distance of a sample from the most similar other one of its group; a group needs two samples."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        model: str | Path | None = None,
        num_frames: int = 8,
        device: str | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        batch_size: int = 32,
        deadline_s: float | None = None,
        own_process: bool | None = None,
        failed_samples: str | Path | None = None,
    ) -> None: ...

class DynamicDegree(NamedVectorWrapper):
    """Amount of motion between consecutive frames, 0 to 1."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        deadline_s: float | None = None,
        own_process: bool | None = None,
        failed_samples: str | Path | None = None,
    ) -> None: ...

class HPSv2(NamedVectorWrapper):
    """Cosine of prompt and image by HPSv2, typically 0.2 to 0.35; the authors' tables show it times 100."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        model: str | Path = "",
        num_frames: int = 8,
        processor: str | Path | None = None,
        device: str | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        batch_size: int = 32,
        deadline_s: float | None = None,
        own_process: bool | None = None,
        failed_samples: str | Path | None = None,
    ) -> None: ...

class ImageReward(NamedVectorWrapper):
    """Human preference by BLIP, normalized to mean 0 and deviation 1 over the authors' data; about -2 to 2."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        model: str | Path = "",
        num_frames: int = 8,
        device: str | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        batch_size: int = 32,
        deadline_s: float | None = None,
        own_process: bool | None = None,
        failed_samples: str | Path | None = None,
    ) -> None: ...

class JPEGCompressibility(NamedVectorWrapper):
    """Minus the size of an image as a JPEG file in kilobytes, divided by 500."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        quality: int = 95,
        incompressible: bool = False,
        deadline_s: float | None = None,
        own_process: bool | None = None,
        failed_samples: str | Path | None = None,
    ) -> None: ...

class MP4Compressibility(NamedVectorWrapper):
    """Minus the size of the H.264 file of a video in kilobytes per frame."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        incompressible: bool = False,
        deadline_s: float | None = None,
        own_process: bool | None = None,
        failed_samples: str | Path | None = None,
    ) -> None: ...

class OCR(NamedVectorWrapper):
    """One minus the normalized edit distance between the text in the image and the target text; 0 to 1."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        num_frames: int = 4,
        engine: dict[str, Any] | None = None,
        deadline_s: float | None = None,
        own_process: bool | None = None,
        failed_samples: str | Path | None = None,
    ) -> None: ...

class PickScore(NamedVectorWrapper):
    """Cosine of prompt and image times the model's scale (arXiv 2305.01569, equation 1), typically 15 to 25."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        model: str | Path = "",
        num_frames: int = 8,
        processor: str | Path | None = None,
        device: str | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        batch_size: int = 32,
        deadline_s: float | None = None,
        own_process: bool | None = None,
        failed_samples: str | Path | None = None,
    ) -> None: ...

class Remote(NamedVectorWrapper):
    """Scores from a server that speaks the protocol of this module."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        url: str | Sequence[str] = "",
        timeout_s: float = 120.0,
        max_attempts: int = 4,
        max_concurrency: int = 8,
        num_frames: int | None = None,
        fps: float = 8.0,
        api_key_env: str | None = None,
        max_failure_share: float = 0.5,
        deadline_s: float | None = None,
        own_process: bool | None = None,
        failed_samples: str | Path | None = None,
    ) -> None: ...

class Rubric(NamedVectorWrapper):
    """Several rewards as weighted, named terms of one."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        terms: Sequence[Mapping[str, Any] | Term] = ...,
        combine: Literal["sum", "gdpo"] = "sum",
        deadline_s: float | None = None,
        own_process: bool | None = None,
        failed_samples: str | Path | None = None,
    ) -> None: ...

class ShapesMatch(NamedVectorWrapper):
    """How well outlines of a caption's things match an image of the small world, 0 to 1, with gradients to pixels."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        deadline_s: float | None = None,
        own_process: bool | None = None,
        failed_samples: str | Path | None = None,
    ) -> None: ...

class ShapesOracle(NamedVectorWrapper):
    """Win rates by the rule-based judge of the small world, an offline substitute for a vision-language judge."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        schedule: Schedule | str | Mapping[str, Any] = ...,
        both_orders: bool = ...,
        aggregation: WinRate | str | Mapping[str, Any] = ...,
        variant: str = ...,
        alpha: float = ...,
        category_weights: Sequence[float] | None = None,
        min_comparisons: int = ...,
        max_failure_share: float = ...,
        seed: int = ...,
        alpha_by_category: Mapping[str, float] = ...,
        deadline_s: float | None = None,
        own_process: bool | None = None,
        failed_samples: str | Path | None = None,
    ) -> None: ...

class ShapesVerifier(NamedVectorWrapper):
    """Share of the caption's constraints that a sample meets, 0 to 1, read from its pixels."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        deadline_s: float | None = None,
        own_process: bool | None = None,
        failed_samples: str | Path | None = None,
    ) -> None: ...

class TemporalConsistency(NamedVectorWrapper):
    """Mean similarity of each frame to the first and to the previous one, by CLIP's image features; 0 to 1."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        model: str | Path = "openai/clip-vit-large-patch14",
        num_frames: int = 16,
        device: str | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        batch_size: int = 32,
        deadline_s: float | None = None,
        own_process: bool | None = None,
        failed_samples: str | Path | None = None,
    ) -> None: ...

class UnifiedReward(NamedVectorWrapper):
    """Scores by UnifiedReward, or by any model that answers in its form."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        judge: str | Path | Sequence[str] | Backend = "",
        form: Literal["axes", "final_score"] = "axes",
        weights: Mapping[str, float] | None = None,
        max_failure_share: float = 0.5,
        backend: str | None = None,
        backend_settings: Mapping[str, Any] | None = None,
        prompt_template: str | Path | None = None,
        decoding: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
        own_process: bool | None = None,
        failed_samples: str | Path | None = None,
    ) -> None: ...

class UnifiedRewardFlex(NamedVectorWrapper):
    """Win rates in a tournament judged by UnifiedReward-Flex, or by any model that answers in its form."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        judge: str | Path | Sequence[str] | Backend | None = None,
        tournament: Tournament | Mapping[str, Any] | None = None,
        backend: str | None = None,
        backend_settings: Mapping[str, Any] | None = None,
        prompt_template: str | Path | None = None,
        decoding: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
        own_process: bool | None = None,
        failed_samples: str | Path | None = None,
    ) -> None: ...

class UnifiedRewardPair(NamedVectorWrapper):
    """Win rates in a tournament judged by UnifiedReward, or by any model that answers in its form."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        judge: str | Path | Sequence[str] | Backend | None = None,
        form: Literal["rank", "score"] = "rank",
        tournament: Tournament | Mapping[str, Any] | None = None,
        backend: str | None = None,
        backend_settings: Mapping[str, Any] | None = None,
        prompt_template: str | Path | None = None,
        decoding: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
        own_process: bool | None = None,
        failed_samples: str | Path | None = None,
    ) -> None: ...

class UnifiedRewardThink(NamedVectorWrapper):
    """Win rates in a tournament judged by UnifiedReward-Think, or by any model that answers in its form."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        judge: str | Path | Sequence[str] | Backend | None = None,
        tournament: Tournament | Mapping[str, Any] | None = None,
        backend: str | None = None,
        backend_settings: Mapping[str, Any] | None = None,
        prompt_template: str | Path | None = None,
        decoding: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
        own_process: bool | None = None,
        failed_samples: str | Path | None = None,
    ) -> None: ...

class VQAScore(NamedVectorWrapper):
    """Probability that a vision-language model answers yes when asked whether the sample shows the prompt."""

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        *,
        judge: str | Path | Sequence[str] | Backend = "",
        max_failure_share: float = 0.5,
        backend: str | None = None,
        backend_settings: Mapping[str, Any] | None = None,
        prompt_template: str | Path | None = None,
        decoding: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
        own_process: bool | None = None,
        failed_samples: str | Path | None = None,
    ) -> None: ...
