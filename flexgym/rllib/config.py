"""RLlib's config of a training run, generated from FlexGym's settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import gymnasium as gym
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from flexgym.algorithm.base import CURRENT, REFERENCE, Algorithm, CopySchedule, weight_copies
from flexgym.algorithm.feeding import Feed
from flexgym.algorithm.replay import mean_under
from flexgym.algorithm.tasks import taking_turns
from flexgym.algorithm.updates import UpdatePlan
from flexgym.config import AgentSettings
from flexgym.core.precision import dtype_named
from flexgym.data.captioned import CaptionedSet, DataFiles
from flexgym.data.pixels import SampleForm
from flexgym.flow import StepSchedule
from flexgym.generators import FlowGenerator
from flexgym.generators.latent_cache import LatentCache
from flexgym.reward import Reward
from flexgym.rllib.module import FlowModule
from flexgym.shapes.drawn import SmallWorld
from flexgym.shapes.splits import draw_prompts
from flexgym.types import Prompt


class Components(Protocol):
    """Makes the parts of a run that live above this package: rewards, prompts and environments."""

    def make_reward(self, name: str, settings: Mapping[str, Any]) -> Reward:
        """Make a reward by name."""
        ...

    def open_prompts(self, source: Any, modality: str) -> list[Prompt]:
        """Open prompts: None for the built-in set, a file, or a sequence."""
        ...

    def modality(self, env: str) -> str:
        """Return ``"image"`` or ``"video"`` for the id of an environment."""
        ...

    def wrap(self, envs: gym.vector.VectorEnv, wrappers: Sequence[Any]) -> gym.vector.VectorEnv:
        """Put the wrappers that a recipe names around a vector environment."""
        ...


class FlowConfig(AlgorithmConfig):
    """RLlib's config of a run, made by `flexgym.rllib.build.algorithm_config`.

    Attributes:
        settings: of the run.
        algorithm: that trains.
        components: makes rewards, prompts and environments.
        failed_samples: folder for samples that could not be scored; None keeps them in memory only.
        module_class: class of the policy.
    """

    settings: AgentSettings
    algorithm: Algorithm[Any]
    components: Components
    failed_samples: str | None = None
    module_class: type[FlowModule] = FlowModule

    # --- what follows from the settings ------------------------------------------------------------------------------

    @property
    def is_online(self) -> bool:
        """True if separate env runners sample, as RLlib expects of this property; else the learners sample."""
        return self.settings.is_online

    @property
    def shards(self) -> bool:
        """True if the transformer is sharded over the learners."""
        return self.settings.shards

    @property
    def betas(self) -> tuple[float, float]:
        """Decay rates of the first and second moment of AdamW."""
        return self.settings.training.betas

    @property
    def weight_decay(self) -> float:
        """Weight decay of AdamW."""
        return self.settings.training.weight_decay

    @property
    def modality(self) -> str:
        """Kind of sample that the environment makes: ``"image"`` or ``"video"``."""
        return self.components.modality(self.settings.environment.env)

    @property
    def weight_copies(self) -> dict[str, CopySchedule]:
        """Schedules of the named weight copies that training updates: those of the algorithm, and the EMA."""
        return weight_copies(self.algorithm, self.settings.training)

    @property
    def update_plan(self) -> UpdatePlan:
        """How an iteration trains on its rollout."""
        chosen, algorithm = self.settings.training, self.algorithm
        return UpdatePlan(
            algorithm.process,
            num_updates=chosen.num_updates,
            passes=chosen.passes,
            split=chosen.split,
            stacked=algorithm.stacked,
            acts=algorithm.acts == CURRENT,
            skips=algorithm.skips and not self.shards,  # sharded forwards need all learners
        )

    @property
    def keeps_reference(self) -> bool:
        """True if training, a metric or verification needs the reference policy."""
        settings = self.settings
        compares = settings.rollout.reference_interval > 0 or settings.verification.trained_share < 1
        return mean_under(REFERENCE) in self.algorithm.requires or compares

    def windows(self, num_steps: int) -> StepSchedule:
        """Return the schedule of trained steps.

        Raises:
            ConfigError: a window that does not lie within the steps.
        """
        return self.algorithm.windows(num_steps)

    # --- rewards and prompts -----------------------------------------------------------------------------------------

    def make_reward(self) -> Reward:
        """Make the reward that is optimized; there is none with a data set."""
        reward = self.settings.reward
        assert reward is not None, "a data set has scores in place of a reward"
        kept = {} if self.failed_samples is None else {"failed_samples": self.failed_samples}
        return self.components.make_reward(reward.name, {**kept, **reward.settings})

    def make_monitors(self) -> dict[str, Reward]:
        """Make the rewards that are only logged, by name."""
        watched = self.settings.monitors
        return {each.title: self.components.make_reward(each.reward, each.settings) for each in watched}

    def make_evaluations(self) -> dict[str, Reward]:
        """Make the rewards that score held-out samples besides the verifier, by name."""
        watched = self.settings.verification.rewards
        return {each.title: self.components.make_reward(each.reward, each.settings) for each in watched}

    def make_verifier(self) -> Reward | None:
        """Make the reward that verifies; None where the recipe names none."""
        name = self.settings.verification.reward
        return self.components.make_reward(name, {}) if name else None

    def training_prompts(self) -> list[Prompt]:
        """Return the prompts that groups are sampled for."""
        tasks = self.algorithm.tasks
        if not tasks:
            return self.components.open_prompts(self.settings.rollout.prompts, self.modality)
        return taking_turns({name: self.components.open_prompts(each, self.modality) for name, each in tasks.items()})

    def held_out_prompts(self) -> list[Prompt]:
        """Return the prompts that progress is measured on; by default of the small world, balanced over categories."""
        chosen = self.settings.verification
        if chosen.prompts is not None:
            return self.components.open_prompts(chosen.prompts, self.modality)[: chosen.num_prompts]
        texts = draw_prompts(self.modality, chosen.split, chosen.num_prompts, seed=chosen.seed)
        return [Prompt(text) for text in texts]

    def run_prompts(self, feed: Feed | None = None) -> list[Prompt]:
        """Return every prompt that the run gives to the generator, in training and in verification.

        Args:
            feed: of the data set that is trained on; None for rollouts.
        """
        held_out = self.held_out_prompts() if self.settings.verification.reward else []
        return [*(self.training_prompts() if feed is None else feed.prompts()), *held_out]

    def open_data(self, generator: FlowGenerator) -> Feed | None:
        """Open the data set that is trained on, or return None where rollouts are.

        Args:
            generator: whose autoencoder encodes the samples.

        Raises:
            DataError: the files cannot be read, or too many rows are bad.
            ConfigError: the folder of the latents cannot be used.
        """
        data, rollout = self.settings.data, self.settings.rollout
        if data is None:
            return None
        form = SampleForm(generator.sample_shape, data.frames)
        rows: CaptionedSet = SmallWorld(form, rollout.group_size)
        if data.files is not None:
            rows = DataFiles(data.files, **data.reading()).open(form, rollout.group_size)
        return Feed(
            rows,
            LatentCache(generator, data.latent_cache),
            seed=self.settings.run.seed,
            caption_dropout=data.caption_dropout,
            dtype=dtype_named(rollout.latents_dtype),
        )

    def make_envs(self, generator: Any) -> gym.vector.VectorEnv:
        """Make a vector environment of as many groups as one forward takes, over a generator."""
        chosen, rollout = self.settings.environment, self.settings.rollout
        prompts = self.training_prompts() if self.algorithm.tasks else rollout.prompts
        envs = gym.make_vec(
            chosen.env,
            num_envs=rollout.groups_per_forward,
            vectorization_mode="vector_entry_point",
            generator=generator,
            autoreset_mode=gym.vector.AutoresetMode.DISABLED,
            tensors=True,
            **{**chosen.settings, "group_size": rollout.group_size, "prompts": prompts},
        )
        return self.components.wrap(envs, chosen.wrappers)

    # --- RLlib -------------------------------------------------------------------------------------------------------

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return the spec of the generator's module."""
        rollout = self.settings.rollout
        model_config = {
            "generator": self.settings.generator,
            "modality": self.modality,
            "process": self.algorithm.process,
            "guidance": self.algorithm.guidance,
            "rollout_guidance": self.settings.algorithm.guidance.rollout,
            "solver": rollout.solver,
            "compute_dtype": None if rollout.compute_dtype is None else dtype_named(rollout.compute_dtype),
            "acts": self.algorithm.acts,
            "copies": self.weight_copies,
            "keep_reference": self.keeps_reference,
        }
        return RLModuleSpec(module_class=self.module_class, model_config=model_config)
