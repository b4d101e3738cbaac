"""Which errors of Ray and RLlib count as a lost process, and in which words they are reported."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray import exceptions

from flexgym.core.errors import ConfigError, ProcessLostError, RewardError
from flexgym.rllib import losses
from flexgym.rllib.losses import describe_loss, reports_losses

DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: FlowLearner
\tactor_id: 00ff
\tpid: 4242
\tnamespace: a
\tip: 10.0.0.5
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR."""


LEARNERS = {"learner 1 of 2": SimpleNamespace(_actor_id=SimpleNamespace(hex=lambda: "00ff"))}


def died(text: str = DIED, **more) -> exceptions.RayActorError:
    return exceptions.RayActorError("00ff", text, **more)


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.fixture(autouse=True)
def everyone_lives(monkeypatch):
    monkeypatch.setattr(losses, "lost_workers", lambda workers: [])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (died(), "learner 1 of 2 (process 4242 on 10.0.0.5): it was killed or crashed, often for lack of memory"),
        (died("The task was killed due to the node running low on memory."), "ran low on memory"),
        (died("The actor is dead because its owner has died."), "the part of Ray on this machine was lost"),
        (died("The actor 00ff is unavailable: RpcError."), "it does not answer any more"),
        (raised_from(RuntimeError("Training has failed after 0 attempts"), died()), "learner 1 of 2 (process 4242"),
        (exceptions.WorkerCrashedError(), "a process of Ray: The worker died unexpectedly"),
        (exceptions.LocalRayletDiedError(), "local raylet died"),
    ],
)
def test_losses(error, words):
    assert words in (describe_loss(error, LEARNERS) or "")


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("no such generator"),
        raised_from(RewardError("out of order"), died()),
        died("The actor died because of an error raised in its creation task", actor_init_failed=True),
        exceptions.RayTaskError("apply", "ValueError: 3", ValueError("3")),
        ValueError("a bug"),
        RuntimeError("a bug"),
    ],
)
def test_errors_of_the_program_are_no_losses(error):
    assert describe_loss(error, LEARNERS) is None


def test_what_fails_in_others_because_one_is_lost_is_a_loss(monkeypatch):
    monkeypatch.setattr(losses, "lost_workers", list)
    error = exceptions.RayTaskError("apply", "RuntimeError: Connection closed by peer", RuntimeError("closed"))
    words = describe_loss(error, LEARNERS)
    assert words == "learner 1 of 2, after which the others failed: RuntimeError: Connection closed by peer"


def test_a_method_reports_losses_and_passes_other_errors_on():
    class Trainable:
        failure = ""

        def workers(self):
            return LEARNERS

        @reports_losses
        def step(self, error):
            raise error

    trainable = Trainable()
    with pytest.raises(ValueError, match="a bug"):
        trainable.step(ValueError("a bug"))
    assert trainable.failure == ""
    with pytest.raises(ProcessLostError, match="learner 1 of 2"):
        trainable.step(died())
    assert trainable.failure == "lost"
    with pytest.raises(KeyboardInterrupt):
        trainable.step(KeyboardInterrupt())
    assert trainable.failure == "interrupted"
