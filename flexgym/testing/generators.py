"""Rules of generators: sampling equals the pipeline's, and replay equals the rollout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from flexgym.algorithm.rollout import sample
from flexgym.flow import FlowSDE, transition
from flexgym.generators.base import FlowGenerator
from flexgym.generators.conformance import own_run, pipeline_run
from flexgym.generators.sampling import Sampler
from flexgym.generators.schedulers import own_solver
from flexgym.testing.rules import expect, expect_same, rule
from flexgym.types import Prompt

PROMPTS = ("a red cube", "two green cones beside a red ball")
_SCALES = (1.0, 4.0)


class GeneratorConformance:
    """Conformance tests of a generator. Inherit and override `make`; small random modules suffice and take 0.1 s.

    Attributes:
        guidance: the setting that weighs the two branches of classifier-free guidance.
        prompts: two of them, with texts of different lengths; with first frames for generators from image to video.
        dtypes: precisions of the weights in which the rules must hold.
        trained_share: share of the weights under full training that gradients must reach; less than 1 where a
            transformer ends with layers whose output is not used.
    """

    guidance = "guidance_scale"
    prompts: tuple[str | Prompt, str | Prompt] = PROMPTS
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    trained_share = 0.8

    def make(self, dtype: torch.dtype) -> FlowGenerator:
        """Create a frozen generator, equal to those of earlier calls.

        Args:
            dtype: precision of the weights.
        """
        raise NotImplementedError(f"{type(self).__name__} must override make(dtype), which returns a new generator")

    @rule("sampling equals the pipeline's own, bit for bit")
    def test_sampling_equals_the_call_of_the_pipeline(self) -> None:
        """Compare latents of all steps and samples, with and without guidance, for one row and for a group of four."""
        for dtype in self.dtypes:
            made = self.make(dtype)
            for scale, rows in ((1.0, 1), (1.0, 4), (4.0, 1), (4.0, 4)):
                generator = made.with_settings(**{self.guidance: scale})
                # Some pipelines round the first latents and some do not: here there is nothing to round.
                noise = generator.initial_latents(rows, 7).to(dtype).float()
                ours, theirs = (run(generator, noise, self.prompts[0]) for run in (own_run, pipeline_run))
                case = f"of the pipeline's call, {self.guidance} {scale}, {rows} rows, {dtype}"
                expect_same(ours.latents, theirs.latents, f"the latents after each step {case}")
                expect_same(ours.samples, theirs.samples, f"the samples {case}")
                expect(bool(np.ptp(ours.samples)), f"samples of more than one value ({case})", "one value")
                wanted = f"uint8 {[rows, *generator.sample_shape]}"
                found = f"{ours.samples.dtype} {list(ours.samples.shape)}"
                expect(found == wanted, f"samples {wanted}, as sample_shape says", found)

    @rule("samples of an evaluation equal the pipeline's own")
    def test_evaluation_equals_the_call_of_the_pipeline(self) -> None:
        """Compare `flexgym.algorithm.rollout.sample` with the pipeline's call from the latents of the same seed."""
        generator = self._frozen.with_settings(**{self.guidance: 4.0})
        theirs = pipeline_run(generator, generator.initial_latents(1, 7), self.prompts[0]).samples
        samplers: tuple[Sampler, ...] = (
            ("pipeline",) if own_solver(generator.pipe.scheduler) else ("rollout", "pipeline")
        )
        for sampler in samplers:
            ours = sample(generator, self.prompts[:1], seeds=[7], sampler=sampler)
            expect_same(ours, theirs, f"the sample of the pipeline's call, by the sampler {sampler}")

    @rule("replay equals rollout exactly")
    def test_replay_equals_rollout(self) -> None:
        """Compute two steps of two groups again in one call with gradients: velocity and log density are the same."""
        for dtype in self.dtypes:
            for scale in _SCALES:
                for mode in ("lora", "full"):
                    self._check_replay(self.make(dtype), scale, mode)

    def _check_replay(self, made: FlowGenerator, scale: float, mode: str) -> None:
        generator = made.with_settings(**{self.guidance: scale})
        case = f"{mode}, {self.guidance} {scale}, {generator.dtype}"
        _train(generator, mode)
        steps, group = list(_rollout(generator, self.prompts)), 2
        latents, level, after, nexts, velocity, log_prob = (torch.cat(part) for part in zip(*steps, strict=True))
        conditioning = generator.condition(self.prompts).repeat(group).index([*range(2 * group)] * len(steps))
        replayed = generator.velocity(latents, level, conditioning, micro_batch=group)
        grid = generator.sigmas()
        again = transition(
            latents, replayed, level, sigma_next=after, noise=FlowSDE(), sigma_max=float(grid[1])
        ).log_prob(nexts)
        expect_same(replayed, velocity, f"the velocity of the rollout ({case})")
        expect_same(again, log_prob, f"the log density of the rollout ({case})")
        again.sum().backward()
        weights = generator.weights.trained().values()
        share = sum(weight.grad is not None for weight in weights) / len(weights)
        least = 1.0 if mode == "lora" else self.trained_share
        expect(share >= least, f"gradients in {least:.0%} of the trained weights ({case})", f"{share:.0%}")

    @rule("a group does not depend on the other prompts")
    def test_a_group_is_the_same_beside_any_other(self) -> None:
        """Batch groups with texts of other lengths, which changes nothing: each group is its own forward."""
        generator = self._frozen.with_settings(**{self.guidance: 4.0})
        latents, level = generator.initial_latents(4, 3), torch.full((4,), 0.7)
        both = generator.condition(self.prompts).repeat(2)
        velocity = generator.velocity(latents, level, both, micro_batch=2)
        for rows, prompt in zip((slice(0, 2), slice(2, 4)), self.prompts, strict=True):
            alone = generator.velocity(latents[rows], level[rows], generator.condition([prompt]).repeat(2))
            expect_same(velocity[rows], alone, f"the velocity of {prompt!r} alone")

    @rule("guidance has an effect")
    def test_guidance_changes_the_velocity(self) -> None:
        """Compare the velocities of two guidance scales, which differ."""
        velocities = []
        for scale in _SCALES:
            generator = self._frozen.with_settings(**{self.guidance: scale})
            velocities.append(_velocity(generator, self.prompts[0], 0.7))
        expect(not torch.equal(*velocities), f"{self.guidance} 1.0 and 4.0 to give different velocities", "equal ones")

    @rule("text and noise level have an effect")
    def test_the_text_and_the_level_reach_the_transformer(self) -> None:
        """Compare the velocities of two prompts and of two noise levels, which differ."""
        base, text, level = (
            _velocity(self._frozen, *asked)
            for asked in ((self.prompts[0], 0.7), (self.prompts[1], 0.7), (self.prompts[0], 0.3))
        )
        expect(not torch.equal(base, text), "different velocities for different prompts", "equal ones")
        expect(not torch.equal(base, level), "different velocities at different noise levels", "equal ones")

    @rule("initial latents depend only on the seed")
    def test_latents_depend_on_the_seed_alone(self) -> None:
        """Draw latents twice from one seed, which are equal and float32 of ``latent_shape``, and once from another."""
        first, again, other = (self._frozen.initial_latents(2, seed) for seed in (5, 5, 6))
        expect_same(again, first, "the same latents for the same seed")
        expect(not torch.equal(first, other), "other latents for another seed", "equal ones")
        wanted = f"torch.float32 {[2, *self._frozen.latent_shape]}"
        found = f"{first.dtype} {list(first.shape)}"
        expect(found == wanted, wanted, found)

    @cached_property
    def _frozen(self) -> FlowGenerator:
        return self.make(torch.float32)


def _velocity(generator: FlowGenerator, prompt: str | Prompt, level: float) -> Tensor:
    with torch.no_grad():
        return generator.velocity(generator.initial_latents(1, 0), torch.tensor([level]), generator.condition([prompt]))


def _train(generator: FlowGenerator, mode: str) -> None:
    """Train something, and disturb its initial value."""
    torch.manual_seed(0)
    if mode == "full":
        generator.weights.train_full()
        return
    generator.weights.add_lora(rank=2)
    for parameter in generator.weights.trained().values():
        torch.nn.init.normal_(parameter, std=0.1)


def _rollout(generator: FlowGenerator, prompts: Sequence[str | Prompt]) -> Iterator[tuple[Tensor, ...]]:
    """Yield the inputs and outputs of two steps of two groups, as a rollout takes them."""
    group, grid, noise = 2, generator.sigmas(), FlowSDE()
    conditioning = generator.condition(prompts).repeat(group)
    latents = generator.initial_latents(2 * group, 3)
    for step in range(2):
        level, after = grid[step].expand(2 * group), grid[step + 1].expand(2 * group)
        with torch.no_grad():
            velocity = generator.velocity(latents, level, conditioning, micro_batch=group)
            gaussian = transition(latents, velocity, level, sigma_next=after, noise=noise, sigma_max=float(grid[1]))
            nexts = gaussian.sample(torch.randn_like(latents))
        yield latents, level, after, nexts, velocity, gaussian.log_prob(nexts)
        latents = nexts
