"""Weights in single precision, arithmetic in half: nothing that is learned rounds away, and all figures agree."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.rm.plan import make_plan
from flexgym.rm.processor import load_model
from flexgym.rm.saving import export_judge
from tests.rm.small import changed, measured, small_config, steps, weights

RATE = 2.5e-6  # of the paper
slow = pytest.mark.slow


def mixed(kind, checkpoint, files, *, mode="full", learners=0, sharding="none"):
    judge = {"compute_dtype": "bfloat16", "sharding": sharding}
    return small_config(kind, checkpoint, files[kind], mode=mode, judge=judge, resources={"num_learners": learners})


def share_moved(config):
    """Of the numbers that train, those that three steps at the rate of the paper change."""
    algorithm = changed(config, training={"lr": RATE}).build_algo()
    before = weights(algorithm)
    for _ in range(3):
        measured(algorithm)
    after = weights(algorithm)
    algorithm.stop()
    moved = sum(int((before[name] != after[name]).sum()) for name in before)
    return moved / sum(value.numel() for value in before.values())


@pytest.mark.slow
def test_small_steps_move_the_weights_of_single_precision_only(learner_pairs, checkpoint, files, monkeypatch):
    single = small_config("sft", checkpoint, files["sft"], mode="full")
    half = changed(single, judge={"dtype": "bfloat16"})
    with pytest.raises(ConfigError, match=r"2\.5e-06.*judge\.compute_dtype=bfloat16"):
        share_moved(half)
    monkeypatch.setattr("flexgym.config.judge._step_problems", lambda settings: ())
    lost = share_moved(half)
    expected = share_moved(single)
    found = share_moved(mixed("sft", checkpoint, files))
    assert lost < 0.1
    # The rest are embeddings of characters that no row has.
    assert expected > 0.9
    assert found == pytest.approx(expected, abs=0.02)


def test_an_adapter_is_of_single_precision_on_a_model_of_half(learner_pairs, checkpoint, files):
    config = changed(mixed("dpo", checkpoint, files, mode="lora"), judge={"dtype": "bfloat16"})
    algorithm, _ = steps(config, 1)
    dtypes = algorithm.on_learners(
        lambda learner: {
            parameter.requires_grad: parameter.dtype
            for name, parameter in learner.judge_module.model.named_parameters()
            if ".ref." not in name
        }
    )[0]
    algorithm.stop()
    assert dtypes == {True: torch.float32, False: torch.bfloat16}


@pytest.mark.slow
def test_held_out_rows_are_measured_with_the_arithmetic_of_training(learner_pairs, checkpoint, files, tmp_path: Path):
    """The same rows in one forward, before the first step and in it."""
    found = {}
    unseen = Path(str(files["sft"]).replace("sft", "sft_again"))
    unseen.write_text(files["sft"].read_text())
    for compute_dtype in (None, "bfloat16"):
        config = changed(
            mixed("sft", checkpoint, files),
            judge={"compute_dtype": compute_dtype},
            training={"batch_size": 12, "micro_batch_size": 12},
            held_out={"files": [str(unseen)]},
        )
        algorithm = config.build_algo()
        measured_before = algorithm.evaluate_held_out()["eval/loss"].value
        found[compute_dtype] = measured(algorithm)["loss"]
        algorithm.stop()
        assert measured_before == pytest.approx(found[compute_dtype], rel=1e-6)
    # Half precision has three digits; that they differ shows that it is used.
    assert found["bfloat16"] == pytest.approx(found[None], rel=1e-2)
    assert abs(found["bfloat16"] - found[None]) > 1e-5 * found[None]


@pytest.mark.parametrize(
    ("learners", "sharding"),
    [(0, "none"), pytest.param(2, "none", marks=slow), pytest.param(2, "fsdp", marks=slow)],
)
def test_a_judge_that_is_its_own_reference_has_no_margin(learners, sharding, learner_pairs, checkpoint, files):
    """The two compute alike to the last digit, in whatever precision their weights lie."""
    config = mixed("dpo", checkpoint, files, learners=learners, sharding=sharding)
    algorithm, (metrics,) = steps(config, 1)
    kept = algorithm.on_learners(lambda learner: next(learner.trainer.ref_model.parameters()).dtype)
    algorithm.stop()
    assert metrics["rewards/margins"] == 0.0
    assert set(kept) == {torch.bfloat16 if sharding == "fsdp" else torch.float32}


@pytest.mark.parametrize(
    ("learners", "sharding"),
    [pytest.param(0, "none", marks=slow), pytest.param(2, "fsdp", marks=slow)],
)
def test_checkpoints_hold_single_precision_and_go_on_bit_for_bit(
    learners, sharding, learner_pairs, checkpoint, files, tmp_path: Path
):
    config = mixed("sft", checkpoint, files, learners=learners, sharding=sharding)
    whole, _ = steps(config, 1)
    whole.save_to_path(str(tmp_path / "saved"))
    whole.save_judge(tmp_path / "judge")
    trained = weights(whole)
    resumed = config.copy(copy_frozen=False).build_algo()
    resumed.restore_from_path(str(tmp_path / "saved"))
    for _ in range(2):
        assert measured(whole)["gradient_norm"] == measured(resumed)["gradient_norm"]
    first, second = weights(whole), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    moments = resumed.on_learners(
        lambda learner: [
            state["exp_avg"].dtype for optimizer in learner._optimizer_parameters for state in optimizer.state.values()
        ]
    )[0]
    for algorithm in (whole, resumed):
        algorithm.stop()
    saved = load_file(tmp_path / "judge" / "model.safetensors")
    assert {value.dtype for value in (*saved.values(), *trained.values())} | set(moments) == {torch.float32}
    for dtype in ("float32", "bfloat16"):
        out = load_model(export_judge(tmp_path / "judge", checkpoint, tmp_path / dtype, dtype=dtype), dtype)
        head = out.state_dict()["lm_head.weight"]
        assert torch.equal(head, trained["model.lm_head.weight"].to(head.dtype))


@slow
@pytest.mark.parametrize(("kind", "mode"), [("sft", "full"), ("dpo", "lora"), ("dpo", "full")])
def test_learners_agree_whether_the_model_is_cut_or_not(kind, mode, learner_pairs, checkpoint, files):
    one, (expected,) = steps(mixed(kind, checkpoint, files, mode=mode), 1)
    one.stop()
    # Copies do the same sums; parts are rounded when they are put together, and so is the stream between blocks.
    for sharding, loss, norm in (("none", 1e-5, 1e-4), ("fsdp", 1e-2, 5e-2)):
        two, (found,) = steps(mixed(kind, checkpoint, files, mode=mode, learners=2, sharding=sharding), 1)
        dtypes = two.on_learners(
            lambda learner: {weight.dtype for weight in learner.judge_module.weights.trained().values()}
        )
        two.stop()
        assert found["loss"] == pytest.approx(expected["loss"], rel=loss)
        assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=norm)
        assert dtypes == [{torch.float32}] * 2


def test_memory_by_hand(checkpoint, files):
    """Bytes for each number of the model: weights, gradient, two of AdamW, the reference, and what autocast casts."""
    for kind, learners, sharding, expected in (
        ("sft", 0, "none", 4 + 4 + 8 + 2),
        ("sft", 2, "fsdp", (4 + 4 + 8) / 2),
        ("dpo", 0, "none", 4 + 4 + 8 + 4 + 2),
        ("dpo", 2, "fsdp", (4 + 4 + 8 + 2) / 2),
    ):
        config = mixed(kind, checkpoint, files, learners=learners, sharding=sharding)
        plan = make_plan(config.settings, config.stage)
        assert plan.gib_per_learner * 2**30 == pytest.approx(expected * plan.parameters)
    for kind, adapters in (("sft", 1), ("dpo", 2)):
        config = small_config(kind, checkpoint, files[kind], mode="lora", judge={"dtype": "bfloat16"})
        plan = make_plan(config.settings, config.stage)
        expected = 2 * plan.parameters + 4 * (adapters + 3) * plan.trained
        assert plan.gib_per_learner * 2**30 == pytest.approx(expected)


def test_settings_that_cannot_work_are_refused(checkpoint, files):
    for judge, trainer, error, message in (
        ({"compute_dtype": "bfloat61"}, {}, UnknownNameError, "Did you mean 'bfloat16'"),
        ({"dtype": "bfloat16", "compute_dtype": "float32"}, {}, ConfigError, r"set judge\.dtype=float32"),
        ({}, {"bf16": False}, ConfigError, r"training\.trainer\.bf16: is determined by judge\.compute_dtype"),
    ):
        with pytest.raises(error, match=message):
            small_config("sft", checkpoint, files["sft"], judge=judge, training={"trainer": trainer})


def test_rates_that_move_usual_weights_are_accepted(checkpoint, files):
    """By hand: 0.02 * 2**-7 / 2 is 7.8e-5, and a schedule is as good as its highest rate."""

    def check(rate, dtype):
        small_config("sft", checkpoint, files["sft"], mode="full", judge={"dtype": dtype}, training={"lr": rate})

    check(1e-4, "bfloat16")
    check([[0, 0.0], [10, 1e-4], [100, 0.0]], "bfloat16")
    check(0.0, "bfloat16")
    check(RATE, "float32")
    with pytest.raises(ConfigError, match=r"at least 7\.8e-05"):
        check([[0, 0.0], [10, RATE], [100, 0.0]], "bfloat16")
