"""On-policy distillation: the loss, the teacher of each prompt, training and resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flexgym.agents.opd import OPD
from flexgym.algorithm.replay import Replayed, replay_means
from flexgym.algorithm.tasks import taking_turns
from flexgym.config import AgentSettings
from flexgym.core.errors import ConfigError
from flexgym.generators import FlowGenerator
from flexgym.types import Prompt
from tests.agents.small import METRICS, SMALL, largest_difference, merged, small_config, train, weights
from tests.agents.test_algorithms import rollout_of
from tests.generators.test_adapters import disturb, velocity
from tests.generators.tiny import CASES, PROMPTS, fresh

TASKS = {"first": ["a red cube", "a blue ball", "a dog"], "second": ["two cats"]}


def save_teacher(folder: Path, seed: float, rank: int = 2) -> torch.Tensor:
    """Save an adapter, and return the velocity with it."""
    generator = fresh("sd3")
    generator.weights.add_lora(rank=rank)
    disturb(generator, seed)
    generator.save(folder)
    return velocity(generator)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    found = {name: save_teacher(folder / name, amount) for name, amount in (("first", 0.3), ("second", -0.2))}
    return folder, found


def settings_of(folder: Path, **changes):
    named = {name: {"adapter": str(folder / name), "prompts": prompts} for name, prompts in TASKS.items()}
    return {"name": "opd", "teachers": named, "window": {"size": 2, "strategy": "random", "first": [0, 1]}, **changes}


def student(folder: Path, mode: str = "lora", rank: int = 4) -> FlowGenerator:
    generator = fresh("sd3").with_settings(num_steps=4)
    generator.make_trainable(mode, **({"lora": {"rank": rank}} if mode == "lora" else {}))
    for name in TASKS:
        generator.keep_adapter(name, folder / name)
    return generator


@pytest.mark.parametrize("noise", ["ode", "flow"])
def test_the_loss_is_half_the_squared_distance_from_the_teacher(noise):
    algorithm = OPD.from_settings(teachers={"a": {"adapter": "x"}}, noise=noise)
    generator = torch.Generator().manual_seed(0)
    mean, teacher = (torch.randn(2, 3, 2, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    std = 0.1 + torch.rand(2, 3, 2, generator=generator, dtype=torch.float64)
    one = torch.ones_like(std)
    replayed = Replayed(
        mean=mean.requires_grad_(),
        std=std,
        latents=mean,
        target=mean,
        sigma=one,
        sigma_next=one,
        velocity_scale=one,
        advantage=one,
        means={"task": teacher.requires_grad_()},
    )
    found = algorithm.objective(replayed).per_sample
    expected = torch.stack(
        [(one - other).square().mean() / 2 for one, other in zip(mean.view(12, -1), teacher.view(12, -1), strict=True)]
    )
    scale = 1.0 if noise == "ode" else std.flatten().square()
    torch.testing.assert_close(found.flatten(), expected / scale, rtol=0, atol=1e-10)
    found.sum().backward()
    assert teacher.grad is None
    assert mean.grad is not None


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_a_copy_computes_what_the_teacher_does(mode, teachers):
    folder, expected = teachers
    generator = student(folder, mode).with_settings(num_steps=3)
    before = velocity(generator)
    for name in TASKS:
        with generator.weights.using(name):
            torch.testing.assert_close(velocity(generator), expected[name], rtol=1e-4, atol=1e-5)
    assert torch.equal(velocity(generator), before)
    assert generator.weights.copies_state() == {}


def test_an_adapter_that_the_student_cannot_express_is_refused(teachers, tmp_path):
    folder, _ = teachers
    with pytest.raises(ConfigError, match=r"rank 2 or more at .*raise generator.lora.rank"):
        student(folder, rank=1)
    generator = fresh("sd3")
    generator.make_trainable(adapter=folder / "first", adapter_as="merge")
    with pytest.raises(ConfigError, match="unmerged"):
        generator.keep_adapter("second", folder / "second")


@pytest.mark.parametrize("noise", ["ode", "cps"])
def test_each_group_is_held_to_the_teacher_of_its_prompt(noise, teachers):
    folder, _ = teachers
    algorithm, generator = OPD.from_settings(**settings_of(folder, noise=noise)), student(folder)
    policy, rollout = rollout_of(generator, algorithm)
    assert set(rollout.kept) == {"latents", "target"}
    prompts = [Prompt(prompt.text, {"task": task}) for prompt, task in zip(rollout.prompts, TASKS, strict=True)]
    trained = policy.process.trained(rollout, [1], policy.grid)

    def means(under):
        asked = {"prompts": prompts, "levels": trained.levels, "under": under, "guidance": algorithm.guidance}
        return replay_means(policy, trained.latents, **asked)

    found, each = means(["task"])["task_mean"], means(list(TASKS))
    for group, name in enumerate(TASKS):
        torch.testing.assert_close(found[:, group], each[f"{name}_mean"][:, group], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(each["first_mean"], each["second_mean"], atol=1e-3)
    if noise == "ode":
        assert torch.equal(trained.target, each["mean"].detach()), "the student visits what it trains"


def test_tasks_take_turns_equally_often():
    prompts = taking_turns({name: [Prompt(text, {"n": 1}) for text in texts] for name, texts in TASKS.items()})
    assert [prompt.metadata["task"] for prompt in prompts] == ["first", "second"] * 3
    assert [prompt.text for prompt in prompts[::2]] == TASKS["first"]
    assert {prompt.text for prompt in prompts[1::2]} == {"two cats"}
    assert all(prompt.metadata["n"] == 1 for prompt in prompts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollout": {"prompts": PROMPTS}}, "whose tasks have prompts of their own"),
        ({"algorithm": {"teachers": {}}}, "teachers"),
        (
            {
                "generator": {"sharding": "fsdp"},
                "rollout": {"groups_per_forward": 2, "prompts_per_iteration": 4},
                "resources": {"num_learners": 2},
            },
            "as many forwards",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    base = merged(SMALL, {"algorithm": settings_of(Path("nowhere"))})
    wrong = merged(base, changes)
    if changes.get("algorithm") == {"teachers": {}}:
        wrong["algorithm"]["teachers"] = {}
    _, problems = AgentSettings.check(wrong)
    assert any(message in ".".join(map(str, problem.path)) + problem.message for problem in problems), problems


@pytest.mark.parametrize(("mode", "lr"), [("lora", 0.01), pytest.param("full", 1e-3, marks=pytest.mark.slow)])
def test_a_student_learns_and_resumes_exactly(mode, lr, teachers, cluster, tmp_path: Path):
    folder, _ = teachers
    CASES["sd3"].build().save_pretrained(tmp_path / "pipe")
    sampling = {**CASES["sd3"].settings, "num_steps": 4}
    sections = {
        "generator": {"source": str(tmp_path / "pipe"), "mode": mode, "lora": {"rank": 4}, "sampling": sampling},
        "algorithm": settings_of(folder, window={"strategy": "all"}),
        "rollout": {"prompts_per_iteration": 4},
    }
    config = small_config(**sections, training={"lr": lr})
    algorithm, _ = train(config, 10)
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    losses = [algorithm.train()[METRICS]["loss/policy"] for _ in range(2)]
    expected = weights(algorithm)
    algorithm.stop()
    untrained, metrics = train(small_config(**sections, training={"lr": 0.0}), 12)
    untrained.stop()
    assert losses[-1] < 0.5 * metrics["loss/policy"], "on the same prompts and first latents"
    resumed = config.copy(copy_frozen=False).build_algo()
    resumed.restore_from_path(str(tmp_path / "checkpoint"))
    assert [resumed.train()[METRICS]["loss/policy"] for _ in range(2)] == losses
    assert largest_difference(weights(resumed), expected) == 0.0
    resumed.stop()
