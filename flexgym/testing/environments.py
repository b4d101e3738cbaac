"""The rules of environments: Gymnasium's own, and those that rewards and agents count on."""

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
    """Inherit it, and override `make`.

    Attributes:
        vector_size: environments of a vector.
        expected_warnings: parts of warnings of Gymnasium's checker that are known and right; latents, for example, are
            Gaussian, so no bound holds for them, and an environment made by its class has no spec.
    """

    vector_size = 3
    expected_warnings: tuple[str, ...] = (
        "space minimum value is -infinity",
        "space maximum value is infinity",
        "due to the environment not having a spec",
    )

    def make(self) -> gymnasium.Env:
        """A new environment, equal to the one before."""
        raise NotImplementedError(f"{type(self).__name__} must override make(), which returns a new environment")

    def make_vector(self, num_envs: int, mode: AutoresetMode) -> VectorEnv:
        """The same environment as a vector; by default Gymnasium's, of single ones.

        Args:
            num_envs: how many.
            mode: what happens at the end of an episode.
        """
        return vector_of([self.make] * num_envs, mode)

    @rule("Gymnasium's own checker passes")
    def test_gymnasiums_checker_passes(self) -> None:
        """Spaces, types, seeds and rendering as Gymnasium wants them, without an unexpected warning."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check_env(self.make().unwrapped)
        told = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
        unexpected = [text for text in told if not any(known in text for known in self.expected_warnings)]
        expect(not unexpected, "no warning but those in expected_warnings", unexpected)

    @rule("a seeded episode repeats to the bit")
    def test_seeded_episodes_repeat(self) -> None:
        """The same seed and actions give the same episode, in this environment and in a new one."""
        env = self.make()
        first = _episode(env, seed=5)
        expect_same(_episode(env, seed=5), first, "the same episode after another reset with the same seed")
        expect_same(_episode(self.make(), seed=5), first, "the same episode from a new environment")

    @rule("what an environment has handed out stays as it is")
    def test_observations_share_no_memory(self) -> None:
        """An observation must not change when the environment goes on."""
        env = self.make()
        observation, _ = env.reset(seed=1)
        before = _copied(observation)
        env.action_space.seed(1)
        env.step(env.action_space.sample())
        env.reset(seed=2)
        expect_same(observation, before, "the observation of the reset as it was")

    @rule("an episode ends with its samples and their prompt")
    def test_an_episode_ends_with_its_samples(self) -> None:
        """The last info holds ``samples``, uint8 ``[G, H, W, 3]`` or ``[G, F, H, W, 3]``; each holds the ``prompt``."""
        steps = _episode(self.make(), seed=3)
        infos = [step[-1] for step in steps]
        kinds = {type(info.get("prompt")).__name__ for info in infos}
        expect(kinds == {Prompt.__name__}, "info['prompt'] to be a flexgym.types.Prompt at every step", kinds)
        samples = infos[-1].get("samples")
        shaped = isinstance(samples, np.ndarray) and samples.ndim in (4, 5) and samples.shape[-1] == 3
        shown = f"{samples.dtype} {list(samples.shape)}" if isinstance(samples, np.ndarray) else repr(samples)
        wanted = "info['samples'] of the last step to be uint8 [G, H, W, 3] or [G, F, H, W, 3]"
        expect(shaped and samples is not None and samples.dtype == np.uint8, wanted, shown)

    @rule("group rewards are float32 [G] and the reward is their mean")
    def test_group_rewards_are_of_the_agreed_form(self) -> None:
        """In the last info; the scalar is the mean of the valid ones. A plain environment gets a reward around it."""
        env = self.make()
        _, reward, _, _, info = _episode(env, seed=3)[-1]
        if "group_rewards" not in info:
            _, reward, _, _, info = _episode(wrapped(env, Brightness()), seed=3)[-1]
        found, size = info.get("group_rewards"), len(info["samples"])
        form = (found.dtype, found.shape) if isinstance(found, np.ndarray) else None
        wanted = f"info['group_rewards'] to be float32 [{size}], one for each sample"
        expect(form == (np.dtype(np.float32), (size,)), wanted, repr(found))
        expect(bool(np.isclose(reward, np.nanmean(found))), f"the reward {np.nanmean(found)}, their mean", reward)

    @rule("the spaces of a vector are the batch of the single ones")
    def test_vector_spaces_are_the_batch_of_single_ones(self) -> None:
        """As `gymnasium.vector.utils.batch_space` makes them."""
        env, envs = self.make(), self.make_vector(self.vector_size, AutoresetMode.NEXT_STEP)
        for name in ("observation_space", "action_space"):
            single, many = getattr(env, name), getattr(envs, name)
            expect(
                getattr(envs, f"single_{name}") == single, f"single_{name} {single}", getattr(envs, f"single_{name}")
            )
            batch = batch_space(single, self.vector_size)
            expect(many == batch, f"{name} {batch}", many)

    @rule("a vector says how it resets itself, and does so")
    def test_autoreset_is_what_the_metadata_says(self) -> None:
        """NextStep begins anew with the step after the end, SameStep with the last one, whose end is in the infos."""
        for mode in _MODES:
            envs = self.make_vector(self.vector_size, mode)
            told = envs.metadata.get("autoreset_mode")
            expect(told == mode, f"metadata['autoreset_mode'] {mode}", told)
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

    @rule("a vector does what single environments do")
    def test_a_vector_equals_single_environments(self) -> None:
        """With the same seeds and actions, to the bit, in each mode of autoreset."""
        for mode in _MODES:
            vector = self.make_vector(self.vector_size, mode)
            _expect_same_episodes(vector, vector_of([self.make] * self.vector_size, mode), f"mode {mode.value}")

    @rule("a reward around a vector equals a vector of rewards")
    def test_wrapper_of_vector_equals_vector_of_wrapper(self) -> None:
        """``VectorRewardWrapper(vector)`` and the vector of ``RewardWrapper(single)`` agree in rewards and infos."""
        for mode in _MODES:
            ours = vector_wrapped(self.make_vector(self.vector_size, mode), Brightness())
            theirs = vector_of([lambda: wrapped(self.make(), Brightness())] * self.vector_size, mode)
            _expect_same_episodes(ours, theirs, f"mode {mode.value}")


def _episode(env: gymnasium.Env, seed: int) -> list[Any]:
    """What reset and all steps of an episode gave, with actions that follow from the seed."""
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
    """The step at which the first episode ends."""
    for _ in range(_LONGEST_EPISODE):
        step = envs.step(envs.action_space.sample())
        if np.any(step[2] | step[3]):
            return step
    raise BrokenRuleError(f"the end of an episode within {_LONGEST_EPISODE} steps", "none")


def _expect_same_episodes(ours: VectorEnv, theirs: VectorEnv, mode: str) -> None:
    """Compare two vectors over two episodes and the way from the one to the other."""
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
