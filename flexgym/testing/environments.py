"""Conformance tests of environments: rules of Gymnasium, and rules that rewards and agents rely on."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from flexgym.testing.groups import Brightness, vector_of, vector_wrapped, wrapped
from flexgym.testing.rules import BrokenRuleError, expect, expect_same, rule
from flexgym.types import Prompt

_LONGEST_EPISODE = 1000
_MODES = (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP)
Step = tuple[Any, Any, Any, Any, dict[str, Any]]


class EnvironmentConformance:
    """Conformance tests of an environment. Inherit and override `make`.

    Attributes:
        vector_size: number of environments in a vector environment.
        expected_warnings: parts of accepted warnings of Gymnasium's checker. Latents, for example, are Gaussian and
            therefore unbounded, and an environment created by its class has no spec.
    """

    vector_size = 3
    expected_warnings: tuple[str, ...] = (
        "space minimum value is -infinity",
        "space maximum value is infinity",
        "due to the environment not having a spec",
    )

    def make(self) -> gymnasium.Env:
        """Create an environment, equal to those of earlier calls."""
        raise NotImplementedError(f"{type(self).__name__} must override make(), which returns a new environment")

    def make_vector(self, num_envs: int, mode: AutoresetMode) -> VectorEnv:
        """Create the environment as a vector environment, by default with Gymnasium's `SyncVectorEnv`.

        Args:
            num_envs: number of environments.
            mode: autoreset mode.
        """
        return vector_of([self.make] * num_envs, mode)

    @rule("Gymnasium's own checker passes")
    def test_gymnasiums_checker_passes(self) -> None:
        """Run Gymnasium's checker of spaces, types, seeds and rendering, without unexpected warnings."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check_env(self.make().unwrapped)
        shown = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
        unexpected = [text for text in shown if not any(known in text for known in self.expected_warnings)]
        expect(not unexpected, "no warning but those in expected_warnings", unexpected)

    @rule("a seeded episode is reproducible bit for bit")
    def test_seeded_episodes_repeat(self) -> None:
        """Repeat an episode with the same seed and actions, in the same environment and in a new one."""
        env = self.make()
        first = _episode(env, seed=5)
        expect_same(_episode(env, seed=5), first, "the same episode after another reset with the same seed")
        expect_same(_episode(self.make(), seed=5), first, "the same episode from a new environment")

    @rule("returned observations do not change")
    def test_observations_share_no_memory(self) -> None:
        """Check that later steps and resets leave an observation unchanged."""
        env = self.make()
        observation, _ = env.reset(seed=1)
        before = _copied(observation)
        env.action_space.seed(1)
        env.step(env.action_space.sample())
        env.reset(seed=2)
        expect_same(observation, before, "the observation of the reset as it was")

    @rule("an episode ends with its samples and their prompt")
    def test_an_episode_ends_with_its_samples(self) -> None:
        """Check that every info has ``prompt``, and the last one ``samples``, uint8 ``[G, (F,) H, W, 3]``."""
        steps = _episode(self.make(), seed=3)
        infos = [step[-1] for step in steps]
        kinds = {type(info.get("prompt")).__name__ for info in infos}
        expect(kinds == {Prompt.__name__}, "info['prompt'] to be a flexgym.types.Prompt at every step", kinds)
        samples = infos[-1].get("samples")
        shaped = isinstance(samples, np.ndarray) and samples.ndim in (4, 5) and samples.shape[-1] == 3
        shown = f"{samples.dtype} {list(samples.shape)}" if isinstance(samples, np.ndarray) else repr(samples)
        wanted = "info['samples'] of the last step to be uint8 [G, H, W, 3] or [G, F, H, W, 3]"
        expect(shaped and samples is not None and samples.dtype == np.uint8, wanted, shown)

    @rule("group rewards are float32 [G], and the reward is their mean")
    def test_group_rewards_are_of_the_agreed_form(self) -> None:
        """Check ``group_rewards`` of the last info; an environment without a reward is wrapped in one."""
        env = self.make()
        _, reward, _, _, info = _episode(env, seed=3)[-1]
        if "group_rewards" not in info:
            _, reward, _, _, info = _episode(wrapped(env, Brightness()), seed=3)[-1]
        found, size = info.get("group_rewards"), len(info["samples"])
        form = (found.dtype, found.shape) if isinstance(found, np.ndarray) else None
        wanted = f"info['group_rewards'] to be float32 [{size}], one for each sample"
        expect(form == (np.dtype(np.float32), (size,)), wanted, repr(found))
        expect(bool(np.isclose(reward, np.nanmean(found))), f"the reward {np.nanmean(found)}, their mean", reward)

    @rule("the spaces of a vector environment batch the single ones")
    def test_vector_spaces_are_the_batch_of_single_ones(self) -> None:
        """Compare the spaces with those of `gymnasium.vector.utils.batch_space`."""
        env, envs = self.make(), self.make_vector(self.vector_size, AutoresetMode.NEXT_STEP)
        for name in ("observation_space", "action_space"):
            single, many = getattr(env, name), getattr(envs, name)
            expect(
                getattr(envs, f"single_{name}") == single, f"single_{name} {single}", getattr(envs, f"single_{name}")
            )
            batch = batch_space(single, self.vector_size)
            expect(many == batch, f"{name} {batch}", many)

    @rule("a vector environment declares its autoreset mode and follows it")
    def test_autoreset_is_what_the_metadata_says(self) -> None:
        """Check that NextStep resets in the step after the end, and SameStep in the last step itself."""
        for mode in _MODES:
            envs = self.make_vector(self.vector_size, mode)
            named = envs.metadata.get("autoreset_mode")
            expect(named == mode, f"metadata['autoreset_mode'] {mode}", named)
            start = _first(envs)
            last = _until_end(envs)
            if mode == AutoresetMode.SAME_STEP:
                expect("final_info" in last[4] and "final_obs" in last[4], "final_obs and final_info", sorted(last[4]))
            else:
                last = envs.step(envs.action_space.sample())
                expect(not np.any(last[2] | last[3]), "a step that only resets, and ends nothing", last[2] | last[3])
                expect(not np.any(last[1]), "no reward for a step that only resets", last[1])
            shapes = [getattr(leaf, "shape", None) for leaf in _leaves(last[0])]
            wanted = [getattr(leaf, "shape", None) for leaf in _leaves(start)]
            expect(shapes == wanted, f"the observations of new episodes, of shapes {wanted}", shapes)

    @rule("a vector environment equals single environments")
    def test_a_vector_equals_single_environments(self) -> None:
        """Compare vector and single environments bit by bit with the same seeds and actions in each autoreset mode."""
        for mode in _MODES:
            vector = self.make_vector(self.vector_size, mode)
            _expect_same_episodes(vector, vector_of([self.make] * self.vector_size, mode), f"mode {mode.value}")

    @rule("a reward around a vector environment equals rewards around single ones")
    def test_wrapper_of_vector_equals_vector_of_wrapper(self) -> None:
        """Compare rewards and infos of ``VectorRewardWrapper(vector)`` and of a vector of ``RewardWrapper(single)``."""
        for mode in _MODES:
            ours = vector_wrapped(self.make_vector(self.vector_size, mode), Brightness())
            theirs = vector_of([lambda: wrapped(self.make(), Brightness())] * self.vector_size, mode)
            _expect_same_episodes(ours, theirs, f"mode {mode.value}")


def _episode(env: gymnasium.Env, seed: int) -> list[Any]:
    """Return the results of reset and of all steps of an episode, with actions drawn from the seed."""
    env.action_space.seed(seed)
    steps: list[Any] = [env.reset(seed=seed)]
    for _ in range(_LONGEST_EPISODE):
        steps.append(env.step(env.action_space.sample()))
        if steps[-1][2] or steps[-1][3]:
            return steps
    raise BrokenRuleError(f"the end of an episode within {_LONGEST_EPISODE} steps", "none")


def _first(envs: VectorEnv) -> Any:
    envs.action_space.seed(2)
    return envs.reset(seed=4)[0]


def _until_end(envs: VectorEnv) -> Step:
    """Step until the first episode ends, and return that step."""
    for _ in range(_LONGEST_EPISODE):
        step = envs.step(envs.action_space.sample())
        if np.any(step[2] | step[3]):
            return step
    raise BrokenRuleError(f"the end of an episode within {_LONGEST_EPISODE} steps", "none")


def _expect_same_episodes(ours: VectorEnv, theirs: VectorEnv, mode: str) -> None:
    """Compare two vector environments over two episodes, including the reset between them."""
    first = [envs.reset(seed=11) for envs in (ours, theirs)]
    expect_same(first[0], first[1], f"the reset of single environments ({mode})")
    ours.action_space.seed(3)
    ended = 0
    for number in range(2 * _LONGEST_EPISODE):
        action = ours.action_space.sample()
        steps = [envs.step(action) for envs in (ours, theirs)]
        expect_same(steps[0], steps[1], f"step {number} of single environments ({mode})")
        ended += bool(np.any(steps[0][2] | steps[0][3]))
        if ended == 2:
            return


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_copied(inner) for inner in value)
    return value.copy() if isinstance(value, np.ndarray) else value


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in _leaves(inner)]
    return [value]
