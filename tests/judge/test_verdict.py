from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from flexgym.commands.judge_report import calibration_report, outcome_report
from flexgym.flow import blended_advantages, group_advantages
from flexgym.judge import (
    JudgeFailure,
    Pair,
    Tournament,
    Verdict,
    VerdictDimension,
    agreement_summary,
    all_pairs,
    judge_groups,
    pair_shares,
    pair_wins,
    parse_verdict,
    tournament_scores,
)
from flexgym.judge.calibration import calibrate
from flexgym.judge.dialect import THINK
from flexgym.judge.noise import NoisyJudge
from flexgym.judge.reply import MAX_CHARACTERS
from tests.judge.simulated import simulated_groups
from tests.judge.simulated import verdict as assessment

THOUGHTS = """\
1. Semantic consistency:
    Image 1 (9/10) - a red cube on a sphere;
    Image 2 (7/10) - the cube is pink
2. Aesthetics:
    Image 1 (8/10) - warm light;
    Image 2 (8/10) - calm colours
3. Authenticity:
    Image 1 (8/10) - sharp edges;
    Image 2 (5/10) - the sphere melts
4. Colour accuracy:
    Image 1 (6.5/10) - red;
    Image 2 (2/10) - pink
Total score:
Image 1: 9+8+8+6.5=31.5
Image 2: 7+8+5+2=22
"""
ANSWER = "<answer>Image 1 is better</answer>"
CLEAN = f"<think>\n{THOUGHTS}</think>\n{ANSWER}"
FAILED = JudgeFailure("truncated", "cut")


def told(winner, *scores, left_out=0):
    """A verdict with one dimension for each pair of scores."""
    dims = tuple(VerdictDimension(f"d{place}", *pair) for place, pair in enumerate(scores))
    return Verdict(f"Image {winner}", dims, left_out)


def test_a_clean_reply():
    outcome = parse_verdict(CLEAN)
    assert outcome == Verdict(
        "Image 1",
        (
            VerdictDimension("Semantic consistency", 9, 7, "a red cube on a sphere", "the cube is pink"),
            VerdictDimension("Aesthetics", 8, 8, "warm light", "calm colours"),
            VerdictDimension("Authenticity", 8, 5, "sharp edges", "the sphere melts"),
            VerdictDimension("Colour accuracy", 6.5, 2, "red", "pink"),
        ),
    )
    assert (outcome.side, outcome.score_margin, outcome.anchors) == (0, 9.5, ())


# The reply, and what is expected: the number of the winner, or the kind of failure.
ANSWERS = [
    ("<answer>Image 1 is better</answer>", 1),
    ("<answer>Image 2 is better</answer>", 2),
    ("<answer>Video 2 is better</answer>", 2),
    ("<ANSWER> image 2  IS  BETTER. </Answer>", 2),
    ("< answer >**Image 1** is better< /answer >", 1),
    ("<answer>\nImage 1 is the better image\n</answer>", 1),
    ('<answer>"Image_2" is better one</answer>', 2),
    ("<answer>Image 2</answer>", 2),
    ("<answer>image2 is better</answer>", 2),
    ("So Image 1 wins.\n<answer>Image 2 is better</answer>\nIndeed, Image 1 is worse.<|im_end|>", 2),
    ("<answer>Image 1 is better</answer>\n<answer>image 1 is better.</answer>", 1),
    ("<answer><answer>Image 1 is better</answer></answer>", 1),
    ("<answer>Image 1 is better</answer>\n<answer>", 1),
    ("<answer>Image 1 is better</answer><answer>Image 2 is better</answer>", "contradictory"),
    ("<answer>Image 1 is better</answer>, no: <answer>Video 2 is better</answer>", "contradictory"),
    ("<answer>Image 1 and Image 2 are better</answer>", "contradictory"),
    ("<answer>Image 1 is better, Image 2 is better</answer>", "contradictory"),
    ("<answer>Image 1 is better than Image 2</answer>", "contradictory"),
    ("<answer>Image 1/2 is better</answer>", "echoed_template"),
    ("<answer>Image 1/Image 2 is better</answer>", "echoed_template"),
    ("<answer>Video 1|2 is better</answer>", "echoed_template"),
    ("<answer></answer>", "invalid"),
    ("<answer>Both are equal</answer>", "invalid"),
    ("<answer>Image 1 is not better</answer>", "invalid"),
    ("<answer>Neither is better</answer>", "invalid"),
    ("<answer>Image 3 is better</answer>", "invalid"),
    ("<answer>1 is better</answer>", "invalid"),
    ("<answer>I think that Image 1 is better</answer>", "invalid"),
    ("<answer>" + "Image 1 is better" * 20 + "</answer>", "invalid"),
    ("<answer>Image 1 is better</answer><answer>hm</answer>", "invalid"),
    ("<answer>I'm sorry, I cannot compare these.</answer>", "refused"),
    ("<answer>Image 1 is better", "truncated"),
    ("<answer>", "truncated"),
    ("Image 1 is better", "unparsable"),
    ("</answer>Image 1 is better<answer", "unparsable"),
    ("</answer>", "unparsable"),
    ('{"winner": "Image 1"}', "unparsable"),
    ("", "unparsable"),
    ("  \n", "unparsable"),
    ("I'm sorry, I can't help with that.", "refused"),
    ("As an AI, I will not compare people.", "refused"),
]


def found(outcome):
    return outcome.kind if isinstance(outcome, JudgeFailure) else outcome.side + 1


@pytest.mark.parametrize("thoughts", ["", "<think>\n" + THOUGHTS + "</think>\n", "My thoughts are these.\n</think>\n"])
@pytest.mark.parametrize(("answer", "expected"), ANSWERS)
def test_answers(thoughts, answer, expected):
    outcome = parse_verdict(thoughts + answer)
    assert found(outcome) == expected, outcome
    if isinstance(outcome, JudgeFailure):
        assert 0 < len(outcome.detail) <= 200
        assert outcome.detail.isprintable()
    else:
        assert len(outcome.dims) == (4 if "Semantic" in thoughts else 0)


def test_an_answer_within_thoughts_is_no_answer():
    draft = "<think>Perhaps <answer>Image 2 is better</answer>? No.</think>"
    assert found(parse_verdict(f"{draft}\n{ANSWER}")) == 1
    assert found(parse_verdict(draft)) == "unparsable"
    assert found(parse_verdict(f"<think>I would say {ANSWER}")) == "truncated"
    # A caption that holds the closing tag does not end thoughts that have no opening tag.
    caption = 'The caption "</think> <answer>" is odd.'
    assert found(parse_verdict(f"{caption}\n</think>\n{ANSWER}")) == 1


@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_cut_anywhere_a_reply_is_no_verdict(finish_reason):
    for length in range(len(CLEAN)):
        outcome = parse_verdict(CLEAN[:length], finish_reason)
        assert isinstance(outcome, JudgeFailure), length
        assert outcome.kind == "truncated" or (finish_reason == "stop" and outcome.kind == "unparsable"), length


def test_a_verdict_that_was_whole_when_the_reply_was_cut_off_is_kept():
    assert parse_verdict(CLEAN + "\nTo sum it up, Ima", "length") == parse_verdict(CLEAN)


@pytest.mark.parametrize(
    ("block", "scores"),
    [
        ("1. Light:\n    Image 1 (9/10) - a;\n    Image 2 (4/10) - b", (9, 4)),
        ("**1. Light:**\n- **Image 1** (9/10): a\n- **Image 2** (4/10): b", (9, 4)),
        ("### 1) Light\nVideo 1: 9 / 10 \u2013 a\nVideo 2: 4/10", (9, 4)),
        ("1. Light: image 1 (9/10) - a; image 2 (4/10) - b", (9, 4)),
        ("1. Light:\nImage 2 (4/10) - b\nImage 1 (9/10) - a", (9, 4)),
        ("1. Light:\nImage 1 (0/10) - a\nImage 2 (10/10) - b", (0, 10)),
        ("1. Light:\nImage 1 (9/10) - above Image 2 (4/10)\nImage 2 (4/10) - b", (9, 4)),
        ("1. Light:\nImage 1 (9/10) - a\nImage 2 (4/5) - b", None),
        ("1. Light:\nImage 1 (9/10) - a\nImage 2 (11/10) - b", None),
        ("1. Light:\nImage 1 (9/10) - a\nImage 2 (4/100) - b", None),
        ("1. Light:\nImage 1 (9/10) - a", None),
        ("1. Light:\nImage 1 (9/10) - a\nImage 2 (4/10) - b\nImage 1 (8/10) - c", None),
        ("1. Light:\nImage 1 (X/10) - a\nImage 2 (X/10) - b", None),
        ("1. Light:", None),
    ],
)
def test_dimensions(block, scores):
    second = "2. Sound:\n    Image 1 (1/10) - c;\n    Image 2 (2/10) - d"
    outcome = parse_verdict(f"<think>{block}\n{second}\nTotal score:\nImage 1: 10\n</think>{ANSWER}")
    light = [] if scores is None else [("Light", *scores)]
    assert [(dim.name, dim.score_1, dim.score_2) for dim in outcome.dims] == [*light, ("Sound", 1, 2)]
    assert outcome.left_out == (scores is None)
    assert (outcome.dims[-1].reason_1, outcome.dims[-1].reason_2) == ("c", "d")


@pytest.mark.parametrize("name", ["Colour accuracy", "[Colour accuracy]", "**Colour accuracy**", "Image composition"])
def test_an_additional_dimension_without_a_number_is_its_own(name):
    """The published template gives none to dimensions that the judge adds."""
    block = "{}:\n    Image 1 (7/10) - a;\n    Image 2 (8/10) - b\n"
    thoughts = THOUGHTS[: THOUGHTS.index("4. ")] + block.format(name) + block.format("[Mood]")
    outcome = parse_verdict(f"<think>\n{thoughts}Total score:\nImage 1: 9+8+8+7+7=39\n</think>\n{ANSWER}")
    assert [dim.name for dim in outcome.dims[:3]] == ["Semantic consistency", "Aesthetics", "Authenticity"]
    assert [dim.name for dim in outcome.dims[3:]] == [name.strip("[]*"), "Mood"]
    assert [(dim.score_1, dim.score_2, dim.reason_1) for dim in outcome.dims[3:]] == [(7, 8, "a")] * 2
    assert outcome.left_out == 0


def test_a_heading_within_a_dimension_is_part_of_it():
    outcome = parse_verdict(f"<think>1. Light:\nComparison:\nImage 1 (9/10) - a\nImage 2 (4/10) - b</think>{ANSWER}")
    assert [(dim.name, dim.score_1, dim.score_2) for dim in outcome.dims] == [("Light", 9, 4)]


@pytest.mark.parametrize(
    ("score", "value"),
    [
        ("4.5/10", 4.5),
        ("\uff14.\uff15/10", 4.5),
        ("4\uff0e5/10", None),
        ("4\u066b5/10", None),
        ("4,5/10", None),
        ("4\u00bd/10", None),
        ("4e0/10", None),
        ("4.5/10.5", None),
        ("4.5/100", None),
        ("4.5/10,5", None),
        ("-4.5/10", None),
        ("4/5/10", None),
        ("4-5/10", None),
    ],
)
def test_a_score_is_read_right_or_not_at_all(score, value):
    outcome = parse_verdict(f"<think>1. Light:\nImage 1 ({score}) - a\nImage 2 (4/10) - b</think>{ANSWER}")
    assert [dim.score_1 for dim in outcome.dims] == ([] if value is None else [value])
    assert outcome.left_out == (value is None)


def test_a_label_and_its_score_need_something_between_them():
    outcome = parse_verdict(f"<think>1. Light:\nImage 19/10 - a\nImage 2 (4/10) - b</think>{ANSWER}")
    assert (outcome.dims, outcome.left_out) == ((), 1)


def test_dimensions_without_thoughts_stand_before_the_answer():
    assert parse_verdict(THOUGHTS + ANSWER).dims == parse_verdict(CLEAN).dims
    assert parse_verdict(ANSWER + THOUGHTS).dims == ()


@pytest.mark.parametrize("kind", ["image", "video"])
def test_our_own_template_is_known_when_it_comes_back(kind):
    outcome = parse_verdict(THINK.template(kind).fill("a fox", kind, (1, 1)))
    assert found(outcome) == "echoed_template"


@pytest.mark.parametrize("kind", ["Image", "Video"])
def test_the_template_asks_for_what_is_parsed(kind):
    text = THINK.template(kind.lower()).text
    form = text[text.index("<think>") :].replace("1/2 is", "2 is").replace("(X/10)", "(3/10)")
    outcome = parse_verdict(form)
    assert outcome.winner == f"{kind} 2"
    assert [dim.name for dim in outcome.dims] == ["Semantic consistency"]
    second = "Aesthetics" if kind == "Image" else "Temporal coherence"
    assert all(f"- {name}:" in text for name in ("Semantic consistency", second, "Authenticity"))
    assert ("Video 1" if kind == "Image" else "Image 1") not in text


@pytest.mark.parametrize(
    "piece",
    [
        "<answer>",
        "</answer>",
        "<answer>Image 1 is better</answer>",
        "1. a:\nImage 1 (1/10)",
        "1.",
        " ",
        "*",
        "< ",
        "Image ",
    ]
    + ["<think>", "</think>", "</think> ", "total ", "(1/10) ", "Image 1 (", "\n1. " + "x" * 90],
)
def test_a_reply_in_a_loop_is_read_in_no_time(piece):
    text = "<think></think>" + piece * (MAX_CHARACTERS // len(piece) - 20)
    started = time.perf_counter()
    for reply in (text, piece + text, text + ANSWER, text + "</think>" + ANSWER):
        assert isinstance(parse_verdict(reply[:MAX_CHARACTERS], "length"), Verdict | JudgeFailure)
    assert time.perf_counter() - started < 10  # generous: it guards against minutes


def test_no_honest_reply_is_that_long():
    assert found(parse_verdict(CLEAN + " " * MAX_CHARACTERS)) == "unparsable"
    assert parse_verdict(None) == parse_verdict("") == JudgeFailure("unparsable", "the reply contains no text")


PIECES = ["<think>", "</think>", "<answer>", "</answer>", "Image 1", "Image 2", " is better", "Image 1/2", "(9/10)",
          "\n", "1. a:", "Total score:", "\ud83d", "sorry", "X"]  # fmt: skip
NOISE = st.text() | st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=40).map("".join)


@given(NOISE, st.sampled_from(["stop", "length", "content_filter", ""]))
def test_noise_never_raises(text, finish_reason):
    outcome = parse_verdict(text, finish_reason)
    assert isinstance(outcome, Verdict | JudgeFailure)
    if isinstance(outcome, Verdict):
        assert "<answer>" in text.lower()
        assert all(0 <= score <= 10 for dim in outcome.dims for score in (dim.score_1, dim.score_2))


@given(NOISE, st.integers(0, len(CLEAN)))
def test_noise_within_a_reply_never_turns_it_round_in_silence(noise, place):
    outcome = parse_verdict(CLEAN[:place] + noise + CLEAN[place:])
    assert isinstance(outcome, Verdict | JudgeFailure)
    if "Image 2" not in noise and "Image 1" not in noise and not any(digit in noise for digit in "0123456789"):
        assert isinstance(outcome, JudgeFailure) or outcome.side == 0


def test_totals_and_winner():
    assert told(1, (9, 7), (3, 4)).consistent
    assert not told(2, (9, 7), (3, 4)).consistent
    assert told(2, (9, 7), (3, 5)).score_side is None
    assert told(2, (9, 7), (3, 5)).consistent
    assert told(1).consistent


def test_wins_and_shares_by_hand():
    outcomes = [told(1, (9, 3), (5, 5)), told(2, (0, 0), (0, 8)), told(1), FAILED, assessment(2, 1, 2, 1)]
    nan = np.nan
    np.testing.assert_array_equal(
        pair_wins(outcomes),
        [[1, nan, nan, nan], [0, nan, nan, nan], [1, nan, nan, nan], [nan] * 4, [0, 1, 0, 1]],
    )
    # 9/12 and 1/2; 0 of 0 is even, and 0/8; nothing to share
    np.testing.assert_array_equal(pair_shares(outcomes)[:4, 0], [0.625, 0.25, nan, nan])
    assert np.isnan(pair_shares(outcomes)[:4, 1:]).all()


class Worth:
    """Gives verdicts by the worth of simulated samples; one of many fails."""

    def __init__(self, *, fail=0):
        self.fail = fail

    def assess(self, pairs):
        return [FAILED if place < self.fail else self._one(pair) for place, pair in enumerate(pairs)]

    @staticmethod
    def _one(pair):
        first, second = pair.prompt.metadata["worths"][[pair.first, pair.second]]
        lead = float(np.clip(first - second, -5, 5))
        return told(1 if lead > 0 else 2, (5 + lead, 5 - lead), (5, 5))


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("variant", ["paper", "authors_code"])
@pytest.mark.parametrize("fail", [0, 9])
def test_without_categories_the_advantage_is_that_of_the_answers_alone(alpha, variant, fail):
    settings = Tournament(alpha=alpha, variant=variant, min_comparisons=1)
    scores = judge_groups(Worth(fail=fail), simulated_groups(4, 6, seed=0)[0], tournament=settings)
    terms = {name: np.stack([score.terms[name] for score in scores]) for name in scores[0].weights}
    np.testing.assert_array_equal(terms["dim"], terms["overall"])
    overall = np.stack([score.rewards for score in scores])
    np.testing.assert_allclose(overall, terms["overall"], rtol=1e-6)
    blended = blended_advantages(terms, scores[0].weights)
    np.testing.assert_allclose(blended, group_advantages(terms["overall"]), rtol=1e-5, atol=1e-6)
    assert np.abs(blended).max() > 0.5
    assert np.isnan(terms["overall"]).sum() == 0 or fail


def test_a_group_without_any_reply_is_unscored():
    scores = tournament_scores(all_pairs(3), [FAILED] * 3, 3)
    assert np.isnan([scores.rewards, *scores.terms.values()]).all()


def test_margins_use_the_scores():
    groups, (worths,) = simulated_groups(1, 6, seed=1)
    (scores,) = judge_groups(Worth(), groups, tournament=Tournament(aggregation="margin"))
    # A sample's share is 1/2 + lead/20 on average over its opponents, so that shares are linear in the worth.
    expected = 0.5 + (worths - (worths.sum() - worths) / 5) / 20
    np.testing.assert_allclose(scores.rewards, expected, rtol=1e-5)


def test_summary():
    outcomes = [told(1, (9, 7)), told(2, (9, 7), left_out=2), told(2), FAILED]
    summary = agreement_summary(outcomes)
    assert summary["consistent_totals"] == 0.5
    assert summary["left_out_dimensions"] == pytest.approx(2 / 3)
    assert summary["first_position_rate"] == pytest.approx(1 / 3)
    assert summary["failure_share/truncated"] == 0.25
    assert np.isnan(summary["consistent_categories"])
    mixed = agreement_summary([*outcomes, assessment(1, 1, 1, 1)])
    assert mixed["first_position_rate"] == 0.5
    assert mixed["majority_agrees"] == 1.0


def pairs_of(groups):
    return [Pair(group, *pair) for group in groups for pair in all_pairs(len(group)).tolist()]


def test_noise_turns_verdicts_and_their_scores():
    pairs = pairs_of(simulated_groups(40, 12, seed=0)[0])
    noisy = NoisyJudge(Worth(fail=1), accuracy=0.8, first_position_rate=0.5).assess(pairs)
    assert noisy[0] == FAILED
    right = pair_wins(noisy)[1:, 0] == pair_wins(Worth().assess(pairs))[1:, 0]
    assert right.mean() == pytest.approx(0.8, abs=0.025)  # of 2639: standard error 0.008
    assert all(0 <= score <= 10 for it in noisy[1:] for dim in it.dims for score in (dim.score_1, dim.score_2))
    clipped = [
        it for it in noisy[1:] if {0.0, 10.0} & {score for dim in it.dims for score in (dim.score_1, dim.score_2)}
    ]
    assert all(it.consistent for it in noisy[1:] if it not in clipped)
    assert len(clipped) < len(noisy) / 4


def test_noise_of_a_verdict_without_scores_is_all_there_is():
    class Silent:
        def assess(self, pairs):
            return [told(1)] * len(pairs)

    wins = pair_wins(
        NoisyJudge(Silent(), first_position_rate=0.69).assess(pairs_of(simulated_groups(1, 80, seed=0)[0]))
    )
    assert wins[:, 0].mean() == pytest.approx(0.69, abs=0.03)  # of 3160: standard error 0.008


def shown(renderable):
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(renderable)
    return console.export_text()


def test_calibration_and_its_report():
    groups, worths = simulated_groups(3, 6, seed=2)
    report = calibrate(Worth(), groups, truth=worths)
    assert report.first_position_rate == 0.5
    assert report.flip_rate == 0.0
    assert report.cheapest().cosine > 0.9
    text = shown(calibration_report(report))
    assert "consistent totals" in text
    assert "consistent categories" not in text


def test_a_verdict_as_a_person_reads_it():
    text = shown(outcome_report("a [bold]cube[/bold]", parse_verdict(CLEAN)))
    for piece in ("a [bold]cube[/bold]", "Winner: Image 1", "Colour accuracy", "6.5", "the sphere melts"):
        assert piece in text
    assert "contradicted by its scores" not in text
    assert "contradicted by its scores" in shown(outcome_report("x", told(2, (9, 7))))
