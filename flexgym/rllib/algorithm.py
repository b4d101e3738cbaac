"""RLlib's algorithm behind every agent: sample, score, compute advantages, update."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

from flexgym.algorithm.advantages import advantages_of
from flexgym.algorithm.base import ANCHOR
from flexgym.algorithm.effects import solver_misfit
from flexgym.algorithm.gate import gated_weights
from flexgym.algorithm.kept import Rollout, concatenate
from flexgym.core.errors import CheckpointError, ConfigError, ProcessLostError
from flexgym.core.metrics import Mean, Metric, Sum, reduce_rows
from flexgym.flow import StepSchedule
from flexgym.judge.agreement import agreement_summary
from flexgym.reward import Reward
from flexgym.rllib.config import FlowConfig
from flexgym.rllib.runner import Scored, mean_score, mean_valid
from flexgym.rllib.sharded import ShardedAlgorithm
from flexgym.rllib.transfer import collect
from flexgym.runs.held_out import held_out_diversity, held_out_samples
from flexgym.runs.judged import JudgedGroup
from flexgym.runs.known_metrics import (
    REWARD,
    iteration_seconds,
    merged,
    outside_metrics,
    outside_name,
    phase_seconds,
)
from flexgym.runs.records import RecordedGroup, category_of_prompt
from flexgym.runs.verification import Verification, audited
from flexgym.types import GroupScores, Prompt, SampleGroup, stacked_term


class FlowAlgorithm(ShardedAlgorithm):
    """Trains a flow-matching generator on groups of samples, by whichever algorithm its config holds."""

    config: FlowConfig

    @classmethod
    def get_default_config(cls) -> FlowConfig:
        """Return a config without settings, which `flexgym.rllib.build.algorithm_config` fills."""
        return FlowConfig(cls)

    def setup(self, config: FlowConfig) -> None:
        """Build learners and separate runners, then check the settings that depend on the generator."""
        super().setup(config)
        self.samples_so_far = 0
        self.last_verification: Verification | None = None
        self.last_judged: list[JudgedGroup] = []
        self.last_recorded: list[RecordedGroup] = []
        gate = self.config.settings.training.gate
        self._gate = None if gate is None else gate.schedule
        self._since_reset = 0
        sigmas = self.on_first_learner(lambda learner: learner.generator.sigmas())
        self.windows: StepSchedule = self.config.windows(len(sigmas) - 1)
        self.config.algorithm.process.check(self.windows.windows, sigmas)
        if message := solver_misfit(self.config.algorithm, self.config.settings.rollout.solver, len(sigmas) - 1):
            raise ConfigError(f"rollout.solver: {message}")

    # --- one iteration -----------------------------------------------------------------------------------------------

    def training_step(self) -> None:
        """Train for one iteration and report its metrics, see `ShardedAlgorithm.report`."""
        started = time.perf_counter()
        settings = self.config.settings
        window = self.windows.at(self.iteration, settings.run.seed)
        seeds = settings.group_seeds(self.iteration)
        work: dict[str, Any] = {"seeds": seeds, "window": window}
        source = self._fed if settings.data else self._separate if settings.is_online else self._colocated
        scored, advantages, stats = source(work)
        self.samples_so_far += advantages.size
        stats = {**stats, **self._reset_anchor(stats)}
        self.last_judged = judged_groups(scored)
        self.last_recorded = [group for part in scored for group in part.recorded]
        updated = time.perf_counter()
        about = self._data_metrics(scored) if settings.data else rollout_metrics(scored, advantages)
        metrics: dict[str, Metric | float] = merged(about, stats)
        self.last_verification = self.verify() if self._is_due() else None
        if self.last_verification is not None:
            metrics.update(self.last_verification.metrics)
            metrics["time/eval_s"] = time.perf_counter() - updated
        metrics["time/iteration_s"] = iteration_seconds(time.perf_counter() - started)
        metrics["samples"] = self.samples_so_far
        self.report(metrics)
        self.metrics.log_value(
            (ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), advantages.size, reduce="lifetime_sum"
        )

    def _data_metrics(self, scored: Sequence[Scored]) -> dict[str, Metric | float]:
        """Return what is to be known of groups from a data set."""
        groups = (self.iteration + 1) * self.config.settings.rollout.prompts_per_iteration
        return {
            "data/epochs": self.on_first_learner(lambda learner: learner.epochs(groups)),
            "data/score": mean_score(_groups(scored)),
            "time/data_s": phase_seconds("data", max(part.rollout_seconds for part in scored)),
        }

    def _is_due(self) -> bool:
        chosen = self.config.settings.verification
        return bool(chosen.reward and chosen.interval and (self.iteration + 1) % chosen.interval == 0)

    def _fed(self, work: dict[str, Any]) -> tuple[list[Scored], NDArray[np.float32], dict[str, Metric]]:
        """Let the learners read their groups from the data set."""
        first = self.iteration * self.config.settings.rollout.prompts_per_iteration
        self.on_learners(lambda learner: learner.feed(first=first, **work))
        return self._scored_update()

    def _colocated(self, work: dict[str, Any]) -> tuple[list[Scored], NDArray[np.float32], dict[str, Metric]]:
        """Let the learners sample; while a part is judged, the next is sampled, or one that is scored is replayed."""
        references = self._compares()
        record = self._recorded_groups()
        self.on_learners(lambda learner: learner.roll_out(**work, references=references, record=record))
        # A reward that fails on one learner must not leave the others waiting for its part of a block.
        if self.config.settings.training.stay_in_group and not self.config.settings.shards:
            stats = self._update()
            scored = self.on_learners(lambda learner: learner.scored())
            return scored, self._advantages(scored), stats
        return self._scored_update()

    def _scored_update(self) -> tuple[list[Scored], NDArray[np.float32], dict[str, Metric]]:
        """Wait for all scores before the update."""
        scored = self.on_learners(lambda learner: learner.scored())
        advantages = self._advantages(scored)
        return scored, advantages, self._update(advantages=advantages, penalized=self._penalized(scored))

    def _compares(self) -> bool:
        """Return whether the reference policy samples in this iteration as well, for the judge."""
        interval = self.config.settings.rollout.reference_interval
        return bool(interval) and self.iteration % interval == 0

    def _recorded_groups(self) -> int:
        """Return how many groups each process keeps in this iteration for a report, if a judge compares them."""
        due = self.iteration == 0 or self._is_due()
        processes = max(self.config.settings.num_shards, self.config.num_env_runners, 1)
        return -(-self.config.settings.run.records.groups // processes) if due else 0

    def _separate(self, work: dict[str, Any]) -> tuple[list[Scored], NDArray[np.float32], dict[str, Metric]]:
        """Let the env runners sample, and send everything to the learners."""
        parts = self._on_runners(**work, references=self._compares(), record=self._recorded_groups())
        rollout, scored = concatenate([rollout for rollout, _ in parts]), [scored for _, scored in parts]
        shared = ray.put(rollout) if self.config.num_learners else rollout
        advantages = self._advantages(scored)
        stats = self._update(advantages=advantages, rollout=shared, penalized=self._penalized(scored))
        self._runners.sync_weights(from_worker_or_learner_group=self.learner_group, inference_only=True)
        return scored, advantages, stats

    @property
    def _runners(self) -> EnvRunnerGroup:
        assert self.env_runner_group is not None, "only separate env runners are a group"
        return self.env_runner_group

    def _advantages(self, scored: Sequence[Scored]) -> NDArray[np.float32]:
        options = dict(self.config.settings.training.advantage)
        return advantages_of(_groups(scored), monitors=_monitored(scored), **options)

    def _penalized(self, scored: Sequence[Scored]) -> NDArray[np.float32] | None:
        """Weigh the samples in gated penalties, and move the schedule of the gate; None where there is no gate."""
        chosen = self.config.settings.training.gate
        if chosen is None or self._gate is None:
            return None
        monitors = _monitored(scored)
        self._gate, weights = gated_weights(self._gate, _groups(scored), [monitors[name] for name in chosen.monitors])
        return weights

    def _reset_anchor(self, stats: Mapping[str, Metric]) -> dict[str, Metric]:
        """Reset the anchor when it is time, and return what is logged of it and of the gate."""
        chosen, found = self.config.settings.training.anchor, dict[str, Metric]()
        if self._gate is not None:
            found["policy/gate_share"] = Mean(self._gate.share, label="gate")
        if chosen is not None:
            self._since_reset += 1
            due = chosen.is_due(self._since_reset, stats[f"penalty/{ANCHOR}"].value)
            if due:
                self.on_learners(lambda learner: learner.reset_anchor())
                self._since_reset = 0
            found["policy/anchor_resets"] = Sum(float(due), label="anchor resets")
        return found

    def _on_runners(self, seeds: list[int], **work: Any) -> list[tuple[Rollout, Scored]]:
        """Give each healthy runner a part; the part of a lost runner goes to the others."""
        size = self.config.settings.rollout.prompts_per_iteration // self.config.num_env_runners
        waiting = {start: seeds[start : start + size] for start in range(0, len(seeds), size)}
        done: dict[int, tuple[Rollout, Scored]] = {}
        while waiting:
            runners = self._runners.healthy_env_runner_ids()[: len(waiting)]
            if not runners:
                raise ProcessLostError("every env runner: see Ray's log for what ended them")
            calls = [partial(_sample_part, start=start, seeds=waiting[start], **work) for start in waiting]
            for start, part in self._runners.foreach_env_runner(
                calls[: len(runners)], local_env_runner=False, remote_worker_ids=runners
            ):
                if isinstance(part, Exception):
                    raise part
                done[start] = part
                del waiting[start]
        return [done[start] for start in sorted(done)]

    def _update(
        self,
        *,
        advantages: NDArray[np.float32] | None = None,
        rollout: Rollout | ray.ObjectRef | None = None,
        penalized: NDArray[np.float32] | None = None,
    ) -> dict[str, Metric]:
        """Update in two calls: a reward that fails on one learner must not leave the others waiting for it."""
        settings = self.config.settings.rollout
        samples = self.samples_so_far + settings.prompts_per_iteration * settings.group_size
        self.on_learners(
            lambda learner: learner.replay_scored(
                samples_so_far=samples, advantages=advantages, rollout=_fetch(rollout), penalized=penalized
            )
        )
        return reduce_rows(self.on_learners(lambda learner: learner.take_steps()))

    def on_first_learner(self, call: Callable[[Any], Any]) -> Any:
        """Call every learner, since some calls are collective, and return the result of the first."""
        return self.on_learners(call)[0]

    # --- verification ------------------------------------------------------------------------------------------------

    @cached_property
    def held_out(self) -> list[Prompt]:
        """Held-out prompts of `verify`."""
        return self.config.held_out_prompts()

    def verify(self) -> Verification:
        """Sample the held-out prompts with fixed seeds and score them with the verifier.

        Raises:
            ConfigError: the settings name no verifier.
        """
        verifier = self.config.make_verifier()
        if verifier is None:
            raise ConfigError("verification.reward must name a pointwise reward, such as ShapesVerifier, got None")
        chosen, prompts = self.config.settings.verification, self.held_out
        samples = held_out_samples(prompts, chosen.seed, self.samples_of)
        groups = [SampleGroup(prompt, row[None]) for prompt, row in zip(prompts, samples, strict=True)]
        texts = [prompt.text for prompt in prompts]
        return Verification(
            texts,
            samples,
            scores=np.concatenate([group.rewards for group in verifier.guarded(groups)]),
            means={name: mean_score(reward.guarded(groups)) for name, reward in self._evaluations.items()},
            diversity=held_out_diversity(prompts, samples, chosen, make=self.samples_of),
            categories=[category_of_prompt(prompt) for prompt in prompts],
            audited=audited(texts, samples) if chosen.audit else None,
        )

    def samples_of(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> NDArray[np.uint8]:
        """Make one deterministic sample of each prompt with the verified weights, each learner its share of them.

        Args:
            prompts: N of them.
            seeds: N seeds of the first latents.

        Returns:
            uint8 ``[N, ...]``, the same to the bit for any number of learners.
        """
        parts = self.on_learners(lambda learner: learner.evaluate(prompts=prompts, seeds=seeds))
        blocks = {index: samples for part in parts for index, samples in part.items()}
        return np.concatenate([blocks[index] for index in sorted(blocks)])

    @cached_property
    def _evaluations(self) -> dict[str, Reward]:
        """Rewards that score held-out samples, made once since their models may be large."""
        return self.config.make_evaluations()

    def save_generator(self, folder: str | Path) -> None:
        """Write the trained weights in the format of diffusers, wherever the learners run.

        Args:
            folder: folder that does not exist yet.

        Raises:
            CheckpointError: the folder exists.
        """
        target = Path(folder)
        name = target.name
        if target.exists():
            raise CheckpointError(f"{target} exists already, and nothing saved is overwritten: choose another folder")
        collect(self.on_learners, lambda learner, place: learner.save_generator(place / name), target.parent)

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return RLlib's state, the number of samples seen, and where gate and anchor are."""
        gate = None if self._gate is None else {"share": self._gate.share, "history": list(self._gate.history)}
        own = {"samples_so_far": self.samples_so_far, "gate": gate, "since_reset": self._since_reset}
        return {**super().get_state(*args, **kwargs), **own}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Put a state of `get_state` back."""
        super().set_state(state)
        self.samples_so_far = state.get("samples_so_far", 0)
        self._since_reset = state.get("since_reset", 0)
        gate = state.get("gate")
        if self._gate is not None and gate is not None:
            self._gate = replace(self._gate, share=gate["share"], history=tuple(gate["history"]))

    def restore_from_path(self, path: str | Path, *ignored: Any, **unused: Any) -> None:
        """Restore a checkpoint, and send the weights to separate env runners."""
        super().restore_from_path(path)
        if self.env_runner_group is not None:
            self._runners.sync_weights(from_worker_or_learner_group=self.learner_group, inference_only=True)


def _sample_part(runner: Any, *, start: int, **work: Any) -> tuple[int, tuple[Rollout, Scored] | Exception]:
    """Sample a part, or return what was raised: RLlib ends a process in which a call raises, as if it were lost."""
    try:
        return start, runner.sample(**work)
    except Exception as error:  # noqa: BLE001
        error.add_note(traceback.format_exc())
        return start, error


def judged_groups(scored: Sequence[Scored]) -> list[JudgedGroup]:
    """Return the groups of an iteration that a judge compared, with their captions."""
    groups = [JudgedGroup(*pair) for part in scored for pair in zip(part.captions, part.scores, strict=True)]
    return [group for group in groups if group.scores.assessments]


def _groups(scored: Sequence[Scored]) -> list[GroupScores]:
    return [group for part in scored for group in part.scores]


def _monitored(scored: Sequence[Scored]) -> dict[str, NDArray[np.float32]]:
    """Return the scores of the monitored rewards of all groups, ``[P, G]`` by name."""
    return {name: np.concatenate([part.monitors[name] for part in scored]) for name in scored[0].monitors}


def _fetch(shared: Any) -> Rollout | None:
    return ray.get(shared) if isinstance(shared, ray.ObjectRef) else shared


def rollout_metrics(scored: Sequence[Scored], advantages: NDArray[np.float32]) -> dict[str, Metric | float]:
    """Return the metrics of rewards and monitors of an iteration, and how long it sampled and scored."""
    metrics = merged(reward_metrics(_groups(scored), advantages), scorer_metrics(scored))
    metrics["reward/mean"] = REWARD.with_value(metrics["reward/mean"])
    metrics["time/rollout_s"] = phase_seconds("rollout", max(part.rollout_seconds for part in scored))
    metrics["time/reward_s"] = phase_seconds("reward", max(part.reward_seconds for part in scored))
    return metrics


def reward_metrics(scores: Sequence[GroupScores], advantages: NDArray[np.float32]) -> dict[str, Metric | float]:
    """Return mean, spread and failures of the rewards of an iteration, by name."""
    rewards = np.stack([group.rewards for group in scores])
    scored = rewards[~np.isnan(rewards).all(axis=1)]
    metrics = {
        "reward/mean": mean_score(scores),
        "reward/std_within_group": float(np.nanstd(scored, axis=1).mean()) if len(scored) else float("nan"),
        "reward/dead_groups": float(np.mean(np.abs(advantages).max(axis=1) == 0.0)),
        "reward/unscored_share": float(np.isnan(rewards).mean()),
        "reward/failures": float(sum(sum(group.failures.values()) for group in scores)),
    }
    for name in dict.fromkeys(name for group in scores for name in group.terms):
        metrics |= _term_metrics(outside_name("reward", name), stacked_term(scores, name))
    against = [group.win_rate_vs_reference for group in scores if group.win_rate_vs_reference is not None]
    if against:
        metrics["reward/win_rate_vs_reference"] = float(np.nanmean(np.stack(against)))
    outcomes = [outcome for group in scores for outcome in group.assessments]
    agreement = agreement_summary(outcomes) if outcomes else {}
    return {**metrics, **{f"judge/{name}": value for name, value in agreement.items()}}


def _term_metrics(name: str, term_PG: NDArray[np.float32]) -> dict[str, float]:
    """Return mean, spread within the groups and unscored share of one term."""
    scored = ~np.isnan(term_PG)
    groups = term_PG[scored.any(axis=1)]
    return {
        f"reward/{name}": float(term_PG[scored].mean()) if scored.any() else float("nan"),
        f"reward_std_within_group/{name}": float(np.nanstd(groups, axis=1).mean()) if len(groups) else float("nan"),
        f"reward_unscored_share/{name}": float(1.0 - scored.mean()),
    }


def scorer_metrics(scored: Sequence[Scored]) -> dict[str, float]:
    """Return means over all learners of the monitored rewards and of the reward's own metrics.

    A metric that a learner lacks, such as a count of failures that it did not see, is 0 there.
    """
    names = dict.fromkeys(name for part in scored for name in part.usage)
    monitors = {name: [mean_valid(part.monitors[name]) for part in scored] for name in scored[0].monitors}
    usage = {name: [part.usage.get(name, 0.0) for part in scored] for name in names}
    found = {**outside_metrics("monitor", monitors), **outside_metrics("judge", usage)}
    return {name: float(np.mean(values)) for name, values in found.items()}
