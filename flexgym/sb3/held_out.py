"""Verify a policy on held-out prompts, and draw the samples it chose settings for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

from flexgym.runs.records import category_of_prompt
from flexgym.runs.trackers import Tracker
from flexgym.runs.verification import Verification, audited, save_verification
from flexgym.types import GroupScores, Prompt, SampleGroup

Act = Callable[[Mapping[str, NDArray[Any]]], NDArray[np.float32]]
"""From an observation of one environment to its action."""


class Scorer(Protocol):
    """Interface of a verifier: a reward that gives 1.0 to a sample without fault."""

    def score(self, groups: Sequence[SampleGroup]) -> list[GroupScores]:
        """Return the scores of each group, in order."""
        ...


class HeldOut:
    """Held-out prompts with fixed seeds, sampled as a policy decides.

    Args:
        env: a control environment with a group of 1, without reward.
        prompts: N texts that training never sees.
        scorer: the verifier, such as ``rewards.make("shapes_verifier")``.
        seed: of first latents and noise.
        audits: check samples of the small world with the independent verifier as well.
    """

    def __init__(
        self, env: gymnasium.Env, prompts: Sequence[str], scorer: Scorer, *, seed: int = 7, audits: bool = True
    ) -> None:
        self.env, self.prompts, self.scorer, self.audits = env, list(prompts), scorer, audits
        self.seeds = [int(drawn) for drawn in np.random.SeedSequence(seed).generate_state(len(self.prompts))]

    def verify(self, act: Act) -> Verification:
        """Sample every prompt once and let the verifier judge.

        Args:
            act: the policy.
        """
        drawn = [self._sample(act, prompt, seed) for prompt, seed in zip(self.prompts, self.seeds, strict=True)]
        samples = np.stack(drawn)
        groups = [SampleGroup(Prompt(prompt), row[None]) for prompt, row in zip(self.prompts, samples, strict=True)]
        scores = np.concatenate([group.rewards for group in self.scorer.score(groups)])
        categories = [category_of_prompt(group.prompt) for group in groups]
        found = audited(self.prompts, samples) if self.audits else None
        return Verification(self.prompts, samples, scores, categories=categories, audited=found)

    def verify_default(self) -> Verification:
        """Verify the pipeline's own settings, the baseline of every policy."""
        default = self.env.get_wrapper_attr("default_action")
        return self.verify(lambda observation: default)

    def _sample(self, act: Act, prompt: str, seed: int) -> NDArray[np.uint8]:
        observation, _ = self.env.reset(seed=seed, options={"prompt": prompt})
        ended = False
        while not ended:
            observation, _, ended, _, info = self.env.step(act(observation))
        return info["samples"][0]


class SampleGridCallback(BaseCallback):
    """Verifies the policy of a Stable-Baselines3 model now and then, and draws its held-out samples.

    Accuracy and mean score go to the model's logger under ``eval/``.

    Args:
        held_out: prompts and verifier.
        folder: for the drawn samples, ``iteration_<steps>.png`` or ``.gif``.
        interval: environment steps between two; 0 leaves it to calls of `verify`.
        tracker: gets the drawn samples as well.
    """

    def __init__(self, held_out: HeldOut, folder: str | Path, *, interval: int, tracker: Tracker | None = None) -> None:
        super().__init__()
        self.held_out, self.folder, self.interval = held_out, Path(folder), interval
        self.tracker = tracker
        self._last = 0

    def verify(self, number: int) -> Verification:
        """Verify the policy as it is, without its noise.

        Args:
            number: environment steps so far; names the file.
        """
        verification = self.held_out.verify(lambda seen: self.model.predict(dict(seen), deterministic=True)[0])
        save_verification(verification, self.folder, self.tracker, iteration=number)
        for name, metric in verification.metrics.items():
            self.logger.record(name, metric.value)
        return verification

    def _on_rollout_start(self) -> None:
        """Verify between two updates, while the policy does not change."""
        if self.interval and self.num_timesteps - self._last >= self.interval:
            self._last = self.num_timesteps
            self.verify(self.num_timesteps)

    def _on_step(self) -> bool:
        return True
