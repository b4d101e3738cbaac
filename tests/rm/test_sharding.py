"""A model sharded over two learners trains, saves and exports like an unsharded one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import DTensor

from flexgym.core.errors import CheckpointError, ConfigError, UnknownNameError
from flexgym.rm.plan import make_plan
from flexgym.rm.processor import load_model
from flexgym.rm.saving import export_judge
from tests.rm.small import LORA, changed, measured, small_config, steps, weights, write_rows

slow = pytest.mark.slow


def sharded(config):
    return changed(
        config,
        judge={"sharding": "fsdp"},
        training={"gradient_checkpointing": True},  # which puts blocks together once more
        resources={"num_learners": 2},
    )


def sizes(learner):
    """Numbers of the model that a learner holds, and those of all; likewise of the reference and optimizer."""
    found = {}
    parts = {"model": list(learner.judge_module.model.parameters())}
    if getattr(learner.trainer, "ref_model", None) is not None:
        parts["reference"] = list(learner.trainer.ref_model.parameters())
    states = [state for optimizer in learner._optimizer_parameters for state in optimizer.state.values()]
    parts["optimizer"] = [state["exp_avg"] for state in states]
    for name, values in parts.items():
        assert all(isinstance(value, DTensor) for value in values)
        found[name] = sum(value.to_local().numel() for value in values), sum(value.numel() for value in values)
    return found


@slow
@pytest.mark.parametrize(("kind", "mode"), [("sft", "lora"), ("sft", "full"), ("dpo", "lora"), ("dpo", "full")])
def test_two_learners_with_parts_take_the_steps_of_one_with_all(
    kind, mode, learner_pairs, checkpoint, files, tmp_path: Path
):
    held_out = {"files": [str(write_rows(tmp_path / "unseen", count=5)[kind])]}
    config = small_config(kind, checkpoint, files[kind], mode=mode, held_out=held_out)
    one, expected = steps(config, 2)
    two, found = steps(sharded(config), 2)
    for name in ("loss", "gradient_norm", "eval/loss"):
        assert found[0][name] == pytest.approx(expected[0][name], rel=1e-5)
    own, other = weights(one), weights(two)
    assert own.keys() == other.keys()
    assert max(float((own[name] - other[name]).abs().max()) for name in own) < 1e-3
    held = two.on_learners(sizes)
    assert ("reference" in held[0]) == (kind == "dpo" and mode == "full")
    for name, (_, total) in held[0].items():
        parts = [learner[name][0] for learner in held]
        assert sum(parts) == total
        assert max(parts) < 0.6 * total
    for algorithm in (one, two):
        algorithm.stop()


def refusal(learner):
    """What a learner says that is asked alone."""
    with pytest.raises(CheckpointError) as caught:
        learner.get_state()
    return str(caught.value)


@slow
@pytest.mark.parametrize(("kind", "mode"), [("sft", "full"), ("dpo", "lora")])
def test_a_checkpoint_goes_on_bit_for_bit_and_exports(kind, mode, learner_pairs, checkpoint, files, tmp_path: Path):
    config = sharded(small_config(kind, checkpoint, files[kind], mode=mode))
    whole, _ = steps(config, 2)
    whole.save_to_path(str(tmp_path / "saved"))
    whole.save_judge(tmp_path / "judge")
    trained = weights(whole)
    assert all("gather_state" in told for told in whole.on_learners(refusal))
    later = [measured(whole) for _ in range(2)]
    resumed = config.copy(copy_frozen=False).build_algo()
    resumed.restore_from_path(str(tmp_path / "saved"))
    again = weights(resumed)
    assert all(torch.equal(trained[name], again[name]) for name in trained)
    for before in later:
        after = measured(resumed)
        assert all(before[name] == after[name] for name in before if not name.startswith("time/"))
    first, second = weights(whole), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for algorithm in (whole, resumed):
        algorithm.stop()
    check_export(export_judge(tmp_path / "judge", checkpoint, tmp_path / "out", dtype="float32"), checkpoint, trained)


def check_export(folder, checkpoint, trained):
    """The exported weights are those that were trained, or the old ones and what the adapter adds."""
    exported, expected = load_model(folder, "float32").state_dict(), load_model(checkpoint, "float32").state_dict()
    assert exported.keys() == expected.keys()
    for name, value in trained.items():
        if "lora_A" in name:
            target = name.removeprefix("model.base_model.model.").replace("lora_A.default.", "")
            added = trained[name.replace("lora_A", "lora_B")] @ value
            assert added.abs().max() > 0
            expected[target] = expected[target] + LORA["lora_alpha"] / LORA["r"] * added
        elif "lora_B" not in name:
            expected[name.removeprefix("model.")] = value
    for name, value in expected.items():
        torch.testing.assert_close(exported[name], value)


@slow
def test_a_checkpoint_of_parts_goes_on_with_one_learner(learner_pairs, checkpoint, files, tmp_path: Path):
    config = small_config("sft", checkpoint, files["sft"], mode="full")
    parts, _ = steps(sharded(config), 1)
    parts.save_to_path(str(tmp_path / "saved"))
    one = config.build_algo()
    one.restore_from_path(str(tmp_path / "saved"))
    expected, found = measured(parts), measured(one)
    assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-5)
    own, other = weights(one), weights(parts)
    assert max(float((own[name] - other[name]).abs().max()) for name in own) < 1e-3
    for algorithm in (one, parts):
        algorithm.stop()


@slow
def test_an_adapter_of_single_precision_on_a_model_of_half(learner_pairs, checkpoint, files):
    """What the shipped recipe of stage two trains."""
    config = small_config("dpo", checkpoint, files["dpo"], judge={"dtype": "bfloat16"})
    one, expected = steps(config, 1)
    two, found = steps(sharded(config), 1)
    assert found[0]["loss"] == pytest.approx(expected[0]["loss"], rel=1e-2)
    assert found[0]["gradient_norm"] == pytest.approx(expected[0]["gradient_norm"], rel=5e-2)
    for algorithm in (one, two):
        algorithm.stop()


def test_memory_is_divided_by_the_learners(checkpoint, files):
    config = small_config("dpo", checkpoint, files["dpo"], mode="full")
    whole = make_plan(config.settings, config.stage).gib_per_learner
    assert make_plan(sharded(config).settings, config.stage).gib_per_learner == pytest.approx(whole / 2)


def test_settings_that_cannot_work_are_refused(checkpoint, files):
    with pytest.raises(UnknownNameError, match="Did you mean 'fsdp'"):
        small_config("sft", checkpoint, files["sft"], judge={"sharding": "fsdp2"})
    with pytest.raises(ConfigError, match="num_learners of at least 2"):
        small_config("sft", checkpoint, files["sft"], judge={"sharding": "fsdp"})
