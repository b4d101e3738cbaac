"""The settings of every flow algorithm, as fluent methods of an RLlib config."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from ray.rllib.algorithms.algorithm_config import NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from flexgym.core.choice import check_count
from flexgym.core.errors import ConfigError
from flexgym.environment import environment_modality
from flexgym.flow import NoiseScale, WindowSchedule, blended_advantages, noise_scale
from flexgym.flow.advantage import advantage_options
from flexgym.rllib.memory import MemoryConfig
from flexgym.rllib.module import FlowModule
from flexgym.rllib.runner import GroupEnvRunner
from flexgym.shapes.sampling import sample_prompts
from flexgym.types import GroupScores, Prompt, stacked_term

if TYPE_CHECKING:
    from flexgym.reward import Reward


class FlowAlgorithmConfig(MemoryConfig):
    """What a generator, a rollout, a reward and an update need to know.

    The sections `generator`, `rollout`, `reward` and `verification` are FlexGym's own; `training`, `learners`,
    `env_runners`, `debugging` and the others are RLlib's.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.source: str | None = None
        self.mode = "lora"
        self.lora: dict[str, Any] = {"rank": 32}
        self.settings: dict[str, Any] = {}
        self.group_size = 16
        self.prompts: Any = None
        self.prompts_per_iteration = 16
        self.groups_per_forward = 1
        self.reference_interval = 0
        self.rollout_noise = "cps"
        self.eta: float | None = None
        self.window: dict[str, Any] = {"size": 3, "strategy": "random", "first": (0, 3)}
        self.reward_name = ""
        self.reward_settings: dict[str, Any] = {}
        self.monitors: tuple[str | Mapping[str, Any], ...] = ()
        self.failed_samples: str | None = None
        self.import_paths: tuple[str, ...] = ()
        self.clip_range: float | tuple[float, float] = 1e-3
        self.kl_coeff = 0.0
        self.ema_decay = 0.0
        self.num_updates = 1
        self.weight_decay = 0.0
        self.betas = (0.9, 0.999)
        self.advantage: str | Mapping[str, Any] = "paper"
        self.verification_reward: str | None = None
        self.verification_rewards: tuple[str | Mapping[str, Any], ...] = ()
        self.verification_prompts: Any = None
        self.verification_num_prompts, self.verification_interval, self.verification_seed = 400, 20, 7
        self.verification_groups: int | None = None
        self.lr, self.grad_clip, self.grad_clip_by, self.seed = 3e-4, 1.0, "global_norm", 0
        self.environment(env="FlexT2I-v0", disable_env_checking=True)
        self.env_runners(env_runner_cls=GroupEnvRunner, create_local_env_runner=False, num_env_runners=0)
        # Buffers never change, and an exchange of them would come before a learner may find that its reward has failed.
        self.framework(torch_ddp_kwargs={"broadcast_buffers": False})
        # spaces are the environment's own business here: module and learner never look at them
        self.observation_space = self.action_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    # --- sections ----------------------------------------------------------------------------------------------------

    def generator(
        self,
        *,
        source: str | None = NotProvided,
        mode: str = NotProvided,
        lora: Mapping[str, Any] = NotProvided,
        settings: Mapping[str, Any] = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """The generator and what of it trains.

        Args:
            source: a folder or hub id; None is the embedded one.
            mode: ``"lora"`` or ``"full"``.
            lora: arguments of `FlowGenerator.add_lora`.
            settings: arguments of `load_generator`, such as ``dtype``, and of sampling, see
                `flexgym.generators.Sampling`.
            **kwargs: what stands in memory, see `MemoryConfig.generator`.
        """
        super().generator(**kwargs)
        return self._set(source=source, mode=mode, lora=lora, settings=settings)

    def rollout(
        self,
        *,
        group_size: int = NotProvided,
        prompts: str | Sequence[str] | None = NotProvided,
        prompts_per_iteration: int = NotProvided,
        groups_per_forward: int = NotProvided,
        reference_interval: int = NotProvided,
        noise: str = NotProvided,
        eta: float | None = NotProvided,
        window: Mapping[str, Any] = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """What is generated in an iteration.

        Args:
            group_size: samples G for each prompt.
            prompts: what to generate for: None (built in), a file, or a sequence.
            prompts_per_iteration: groups P of an iteration over all learners.
            groups_per_forward: groups in one forward of the transformer, in rollout and replay alike.
            reference_interval: iterations between two rollouts beside which the policy before training is rolled out
                with the same seeds, so that a judge says how often it is beaten; 0 is never.
            noise: ``"flow"``, ``"dance"`` or ``"cps"`` to sample the trained steps with noise and train their density;
                ``"matching"`` to sample without noise and train the density of the finished samples, see
                `flexgym.flow.Matching`.
            eta: amount of noise; None is the default of the noise scale.
            window: arguments of `flexgym.flow.WindowSchedule`.
            **kwargs: in what precision it is kept, see `MemoryConfig.rollout`.
        """
        super().rollout(**kwargs)
        return self._set(
            group_size=group_size,
            prompts=prompts,
            prompts_per_iteration=prompts_per_iteration,
            groups_per_forward=groups_per_forward,
            reference_interval=reference_interval,
            rollout_noise=noise,
            eta=eta,
            window=window,
        )

    def reward(
        self,
        *,
        name: str = NotProvided,
        settings: Mapping[str, Any] = NotProvided,
        monitors: Sequence[str | Mapping[str, Any]] = NotProvided,
    ) -> Self:
        """What is optimised, and what is only watched.

        Args:
            name: of the reward.
            settings: its arguments.
            monitors: rewards whose mean over each rollout is logged as ``monitor/<name>``: names, or ``reward`` and
                ``settings`` by name, with ``name`` for what they are called.
        """
        return self._set(reward_name=name, reward_settings=settings, monitors=monitors)

    def verification(
        self,
        *,
        reward: str | None = NotProvided,
        rewards: Sequence[str | Mapping[str, Any]] = NotProvided,
        prompts: str | Sequence[str] | None = NotProvided,
        num_prompts: int = NotProvided,
        interval: int = NotProvided,
        seed: int = NotProvided,
        groups: int | None = NotProvided,
    ) -> Self:
        """How progress is judged: on held-out prompts, by a verifier that is not optimised.

        Args:
            reward: name of a pointwise reward that gives 1.0 to a sample without fault.
            rewards: more that score the same samples, as for ``reward.monitors``; their means are logged as
                ``eval/<name>``.
            prompts: held-out prompts: None (built in), a file, or a sequence.
            num_prompts: how many are used.
            interval: iterations between two verifications; 0 is never.
            seed: of the prompts drawn and of the first latents.
            groups: of how many of the prompts three more samples are made, so that ``eval/diversity`` says how much the
                samples of a prompt differ; None is one in 25, 0 none.
        """
        return self._set(
            verification_reward=reward,
            verification_rewards=rewards,
            verification_prompts=prompts,
            verification_num_prompts=num_prompts,
            verification_interval=interval,
            verification_seed=seed,
            verification_groups=groups,
        )

    def training(
        self,
        *,
        clip_range: float | tuple[float, float] = NotProvided,
        kl_coeff: float = NotProvided,
        ema_decay: float = NotProvided,
        num_updates: int = NotProvided,
        weight_decay: float = NotProvided,
        betas: tuple[float, float] = NotProvided,
        advantage: str | Mapping[str, Any] = NotProvided,
        **kwargs: Any,
    ) -> Self:
        """The update.

        Args:
            clip_range: of the ratio, see `flexgym.flow.clipped_surrogate`.
            kl_coeff: weight of the divergence from the policy before training.
            ema_decay: of the moving average of the weights, which is evaluated and saved; 0 keeps none.
            num_updates: optimiser steps in an iteration, each on its own part of the groups.
            weight_decay: of AdamW.
            betas: of AdamW.
            advantage: options of `flexgym.flow.blended_advantages`, or a name in `flexgym.flow.advantage.ADVANTAGES`:
                ``"paper"`` or ``"authors_code"``.
            **kwargs: RLlib's own, such as ``lr`` (a number or a schedule) and ``grad_clip``.
        """
        super().training(**kwargs)
        return self._set(
            clip_range=clip_range,
            kl_coeff=kl_coeff,
            ema_decay=ema_decay,
            num_updates=num_updates,
            weight_decay=weight_decay,
            betas=betas,
            advantage=advantage,
        )

    # --- what follows from the settings ------------------------------------------------------------------------------

    @abstractmethod
    def make_reward(self) -> Reward:
        """The reward that is optimised."""

    @abstractmethod
    def make_monitors(self) -> dict[str, Reward]:
        """The rewards that are only watched, by name."""

    @abstractmethod
    def make_evaluations(self) -> dict[str, Reward]:
        """The rewards that score held-out samples beside the verifier, by name."""

    @abstractmethod
    def make_verifier(self) -> Reward | None:
        """The reward that verifies."""

    def run_prompts(self) -> list[Prompt]:
        """The prompts of training, and those held out where progress is judged on them."""
        return [*self.training_prompts(), *(self.held_out_prompts() if self.verification_reward else [])]

    def held_out_prompts(self) -> list[Prompt]:
        """The prompts that progress is judged on; by default of the small world, balanced over its categories."""
        count = self.verification_num_prompts
        if self.verification_prompts is not None:
            return self.opened_prompts(self.verification_prompts)[:count]
        texts = sample_prompts(self.modality, "held_out", count, seed=self.verification_seed)
        return [Prompt(text) for text in texts]

    @abstractmethod
    def opened_prompts(self, prompts: Any) -> list[Prompt]:
        """The prompts of a source: None for the built-in set, a file, or a sequence."""

    def training_prompts(self) -> list[Prompt]:
        """The prompts that groups are made for."""
        return self.opened_prompts(self.prompts)

    def held_out_groups(self, prompts: int) -> list[int]:
        """Which of so many held-out prompts are sampled more than once: their indices, evenly spaced."""
        wanted = -(-prompts // 25) if self.verification_groups is None else self.verification_groups
        count = min(wanted, prompts)
        return [number * prompts // count for number in range(count)]

    @property
    def is_online(self) -> bool:
        """Whether separate env runners sample; else the learners do."""
        return self.num_env_runners > 0

    @property
    def num_shards(self) -> int:
        """Learners that share the groups of an iteration."""
        return max(1, self.num_learners)

    @property
    def modality(self) -> str:
        """Modality of the environment, ``"image"`` or ``"video"``."""
        return environment_modality(str(self.env))

    @property
    def env_arguments(self) -> dict[str, Any]:
        """What the environment is made with, besides the generator."""
        return {**self.env_config, "group_size": self.group_size, "prompts": self.prompts}

    @property
    def noise(self) -> NoiseScale:
        """The noise of the trained steps."""
        return noise_scale(self.rollout_noise, eta=self.eta)

    def windows(self, num_steps: int) -> WindowSchedule:
        """When which steps are trained.

        Raises:
            ConfigError: when a window would not lie within the steps.
        """
        return WindowSchedule(num_steps=num_steps, **self.window)

    def group_seeds(self, iteration: int) -> list[int]:
        """One seed for each group of an iteration, whatever the number of learners or runners.

        Everything random in a rollout follows from these, so a resumed run continues bit for bit.
        """
        sequence = np.random.SeedSequence([self.seed or 0, iteration])
        return [int(seed) for seed in sequence.generate_state(self.prompts_per_iteration)]

    def advantages(self, scores: Sequence[GroupScores]) -> NDArray[np.float32]:
        """Advantages of all groups of an iteration, float32 ``[P, G]``.

        Terms with weights are normalised one by one and then blended, as in Pref-GRPO; else the reward itself is.
        """
        options = advantage_options(self.advantage)
        # A group that the reward failed on altogether has none.
        weights = next((group.weights for group in scores if group.weights), None)
        if weights is None:
            rewards = np.stack([group.rewards for group in scores])
            return blended_advantages({"reward": rewards}, {"reward": 1.0}, **options)
        terms = {name: stacked_term(scores, name) for name in weights}
        return blended_advantages(terms, weights, **options)

    @property
    def advantages_stay_in_group(self) -> bool:
        """Whether the advantages of a group follow from its own scores, so that its replay need not wait for others."""
        options = advantage_options(self.advantage)
        return options.get("std", "group") != "global" and not options.get("batch_norm", False)

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """The module of the generator."""
        model_config = {
            "source": self.source,
            "modality": self.modality,
            "settings": dict(self.settings),
            "mode": self.mode,
            "lora": dict(self.lora),
            "memory": self.memory_settings,
            "shards": self.shards,
            "keep_reference": self.kl_coeff > 0 or self.reference_interval > 0,
            "noise": self.noise,
        }
        return RLModuleSpec(module_class=FlowModule, model_config=model_config)

    def get_default_learner_class(self) -> type:
        """The learner that hosts the rollout."""
        from flexgym.rllib.learner import FlowLearner

        return FlowLearner

    def validate(self) -> None:
        """Refuse settings that cannot work, before anything is loaded.

        Raises:
            ConfigError: naming the setting, what was expected and what came.
        """
        if self.rollout_noise == "ode":
            raise ConfigError(
                "rollout.noise must be 'flow', 'dance', 'cps' or 'matching': without noise there is no policy to train"
            )
        noise_scale(self.rollout_noise, eta=self.eta)
        if self.verification_groups:
            check_count("verification.groups", self.verification_groups)
        advantage_options(self.advantage)
        if self.group_size < 2:
            raise ConfigError(f"rollout.group_size must be at least 2 (advantages compare), got {self.group_size}")
        self._check_divides("the learners (learners.num_learners)", self.num_shards)
        self._check_divides("learners times training.num_updates", self.num_shards * self.num_updates)
        per_forward = self.num_shards * self.num_updates * self.groups_per_forward
        self._check_divides("learners times num_updates times rollout.groups_per_forward", per_forward)
        if self.num_env_runners:
            runners = self.num_env_runners * self.groups_per_forward
            self._check_divides("the env runners times rollout.groups_per_forward", runners)
        super().validate()

    def _check_divides(self, what: str, count: int) -> None:
        groups = self.prompts_per_iteration
        if groups < count or groups % count:
            fitting = max(count, groups - groups % count)
            raise ConfigError(
                f"rollout.prompts_per_iteration must be a multiple of {what}, {count}, so that groups stay whole;"
                f" got {groups}, the nearest is {fitting}"
            )
