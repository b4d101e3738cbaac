"""Rewards in pure Python score in a process of their own, with the same results."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import psutil
import pytest

from flexgym import rewards
from flexgym.core.errors import ConfigError
from flexgym.reward import FailedSamples
from flexgym.testing.groups import shape_groups
from flexgym.types import Prompt, SampleGroup
from tests.reward.odd import Odd, OddChild
from tests.reward.test_base import group


@pytest.fixture
def odd():
    reward = Odd()
    yield reward
    reward.close()


def scored(reward, *groups):
    return reward.submit(groups).result(timeout=60)


def workers():
    return [each for each in psutil.Process().children() if "flexgym.reward.process" in " ".join(each.cmdline())]


@pytest.mark.parametrize("name", ["ShapesOracle", "ShapesVerifier"])
def test_scores_are_those_of_a_thread_to_the_bit(name):
    groups = [*shape_groups("image"), group(1, 2, text="no caption")]
    here, there = rewards.make(name, own_process=False), rewards.make(name)
    found, expected = scored(there, *groups), scored(here, *groups)
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine.rewards, theirs.rewards)
        for term in theirs.terms:
            np.testing.assert_array_equal(mine.terms[term], theirs.terms[term])
        assert (mine.failures, mine.assessments) == (theirs.failures, theirs.assessments)
    kept = [[(each.reward, each.failure) for each in it.failed.latest()] for it in (here, there)]
    assert kept[0] == kept[1]
    assert len(workers()) == 1
    there.close()
    assert not workers()
    here.close()


def test_the_process_stays_and_is_another_one(odd, caplog):
    first, second = scored(odd, group(1)), scored(odd, group(2))
    assert first[0].rewards == second[0].rewards == workers()[0].pid % 2**20 != os.getpid() % 2**20
    assert [record.getMessage() for record in caplog.records] == ["looks at bright"] * 2
    odd.close()
    assert not workers()
    assert scored(odd, group(1))[0].rewards == workers()[0].pid % 2**20


def test_what_the_reward_raises_comes_back(odd, tmp_path):
    odd.keep_failed(FailedSamples(tmp_path / "failed"))
    lost, kept = scored(odd, group(1, 2, text="raise"), group(3))
    assert np.isnan(lost.rewards).all()
    assert np.isfinite(kept.rewards).all()
    assert lost.failures == {"odd": 2}
    assert {each.failure.detail for each in odd.failed.latest()} == {
        "AttributeError: 'numpy.ndarray' object has no attribute 'no_such_attribute'"
    }
    assert len(list((tmp_path / "failed").glob("*.png"))) == 2
    with pytest.raises(ConfigError, match="no palette") as raised:
        scored(odd, group(1, text="stop"))
    assert "in score\n" in raised.value.__notes__[0]


def test_a_killed_process_is_started_again_once(odd, tmp_path):
    once = SampleGroup(Prompt("die once", {"mark": str(tmp_path / "mark")}), group(1).samples)
    assert np.isfinite(scored(odd, once)[0].rewards)
    assert np.isnan(scored(odd, group(1, text="die"))[0].rewards)
    assert "ended twice, the second time with exit status -9" in odd.failed.latest()[-1].failure.detail
    assert np.isfinite(scored(odd, group(1))[0].rewards)
    assert len(workers()) == 1


def test_a_call_that_hangs_ends_with_the_reward(odd):
    scored(odd, group(1))
    odd.deadline_s = 0.2
    assert np.isnan(scored(odd, group(1, text="sleep"))[0].rewards)
    odd.close()
    assert not workers()


def test_subclasses_are_asked_again():
    assert Odd.own_process
    assert not OddChild.own_process
    reward = OddChild()
    assert scored(reward, group(1))[0].rewards == os.getpid() % 2**20
    reward.close()


def test_what_cannot_be_copied_scores_in_a_thread(caplog):
    reward = Odd()
    reward.held = lambda: None
    assert scored(reward, group(1))[0].rewards == os.getpid() % 2**20
    assert "odd scores in a thread" in caplog.text
    reward.close()


PROGRAM = """
    import os, sys
    import numpy as np
    from flexgym.reward import PointwiseReward
    from flexgym.types import Prompt, SampleGroup
    from own import Whose

    class Here(PointwiseReward):
        own_process = True

        def score_samples(self, prompt, samples):
            return [os.getpid() % 2**20]

    groups = [SampleGroup(Prompt("a"), np.zeros((1, 4, 4, 3), np.uint8))]
    for reward in (Whose(), Here(), Here()):
        [scores] = reward.submit(groups).result()
        print(reward.name, int(scores.rewards[0]) == os.getpid() % 2**20, flush=True)
    kept = Whose()
    print(int(kept.submit(groups).result()[0].rewards[0]), flush=True)
    sys.stdin.readline()
"""


def test_programs_without_a_module_and_modules_in_the_working_folder(tmp_path):
    """The program comes from standard input, as a notebook: its own rewards stay, and those of modules are found."""
    (tmp_path / "own.py").write_text(
        "import os\nfrom flexgym.reward import PointwiseReward\n\n\nclass Whose(PointwiseReward):\n"
        "    own_process = True\n\n    def score_samples(self, prompt, samples):\n"
        "        return [os.getpid() % 2**20]\n"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    lines = [program.stdout.readline().split() for _ in range(4)]
    assert lines[:3] == [["whose", "False"], ["here", "True"], ["here", "True"]]
    children = psutil.Process(program.pid).children()
    assert int(lines[3][0]) in {child.pid % 2**20 for child in children}
    program.kill()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    said = program.communicate()[1]
    assert said.count("here scores in a thread") == 2
    assert "whose scores" not in said
