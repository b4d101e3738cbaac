from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexgym.judge import JudgeFailure, Verdict
from flexgym.judge.aggregation import pair_shares, pair_wins
from flexgym.judge.dialect import PAIR_SCORE, RANK
from flexgym.judge.failures import check_failure_share
from flexgym.judge.pair_parser import parse_pair_scores, parse_rank
from flexgym.judge.reply import MAX_CHARACTERS
from flexgym.judge.statement import read_winner
from flexgym.judge.verdict import VerdictDimension

SCORES = """\
Alignment Score:
 Image 1: 0.7
 Image 2: 0.3

Coherence Score:
 Image 1: 0.4
 Image 2: 0.6

Style Score:
 Image 1: 0.55
 Image 2: 0.45
"""


def found(outcome):
    return outcome.kind if isinstance(outcome, JudgeFailure) else outcome.side + 1


# A sentence, and the number of the winner it states, or why it is no winner.
SENTENCES = [
    ("Image 2 is better", 2),
    ("The better one is Image 1.", 1),
    ("The better image is **Image 2**.", 2),
    ("Image 1 is the better one", 1),
    ("image_2 is clearly the better image overall!", 2),
    ("Image 1 is the winner.", 1),
    ("Video 2 wins.", 2),
    ("Winner: Video 1", 1),
    ("The overall winner is Image 2", 2),
    ("I prefer Image 1.", 1),
    ("Overall, Image 2 is better.", 2),
    ("Final answer: Image 2 is slightly better", 2),
    ("Edited image 1 is better", 1),
    ("Image 1 is preferred", 1),
    ("Image 1 is not better", "no_winner"),
    ("Image 1 is no better", "no_winner"),
    ("Image 1 isn't better", "no_winner"),
    ("Image 1 is worse", "no_winner"),
    ("Image 1 loses", "no_winner"),
    ("The worse one is Image 1", "no_winner"),
    ("The loser is Image 1", "no_winner"),
    ("Not Image 1", "no_winner"),
    ("Image 1 is better?", "no_winner"),
    ("Is Image 1 better", "no_winner"),
    ("Image 1 would be better if it were sharper", "no_winner"),
    ("Image 1 is better in style", "no_winner"),
    ("Image 1 is better, but", "no_winner"),
    ("Image 1 is far from better", "no_winner"),
    ("It is false that Image 1 is better", "no_winner"),
    ("Image 3 is better", "no_winner"),
    ("Image 12 is better", "no_winner"),
    ("The first image is better", "no_winner"),
    ("Image 1 is better, Image 2 is better", "contradictory"),
    ("Image 1 or Image 2 is better", "contradictory"),
    ("Image 1/2 is better", "echoed_template"),
    ("Image 1 is better" + " overall" * 40, "no_winner"),
]


@pytest.mark.parametrize(("sentence", "expected"), SENTENCES)
def test_sentences(sentence, expected):
    if isinstance(expected, int):
        assert read_winner(sentence)[-1] == str(expected)
        assert found(parse_rank(f"The caption asks for a cube.\n{sentence}\n")) == expected
        return
    with pytest.raises(ValueError, match=r"\w") as caught:
        read_winner(sentence)
    assert caught.value.type == expected
    assert isinstance(parse_rank(sentence), JudgeFailure)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Image 1 is better.", 1),
        ("Image 2 is better than Image 1.", 2),
        ("Video 1 is better than Video 2.", 1),
        ("'Video 2 is better,'", 2),
        ("<answer>Image 2 is better</answer><|im_end|>", 2),
        ("<think>Image 1 is better.</think>Image 2 is better.", 2),
        ("Image 1 is sharper. Image 2 has more colors. Image 2 is better.", 2),
        ("Image 1 is better. It shows what was asked for.", 1),
        ("Both images are equally good.", "tie"),
        ("Both videos are equally good.", "tie"),
        ("Image 1 is better. Both images are equally good.", "contradictory"),
        ("Image 1 is better.\nImage 2 is better.", "contradictory"),
        ("Image 1 is better than Image 1.", "unparsable"),
        ("Image 1/2 is better.", "echoed_template"),
        ("Image 1 is sharper.", "unparsable"),
        ("I'm sorry, I can't compare these.", "refused"),
        ("", "unparsable"),
        (None, "unparsable"),
        ("<think>Image 1 is better.", "truncated"),
    ],
)
def test_ranks(reply, expected):
    assert found(parse_rank(reply)) == expected


def test_ranks_that_are_cut_off():
    assert found(parse_rank("Image 1 is better", "length")) == "truncated"
    assert found(parse_rank("Image 1 is better. The", "length")) == 1


def test_clean_scores():
    outcome = parse_pair_scores(SCORES)
    assert outcome == Verdict(
        "Image 1",
        (VerdictDimension("alignment", 7, 3), VerdictDimension("coherence", 4, 6), VerdictDimension("style", 5.5, 4.5)),
    )
    assert parse_pair_scores(SCORES, "length") == outcome
    assert outcome.consistent
    assert found(parse_pair_scores(SCORES.replace("Image", "Video"))) == 1
    swapped = SCORES.replace("Image 1", "Image 3").replace("Image 2", "Image 1").replace("Image 3", "Image 2")
    assert found(parse_pair_scores(swapped)) == 2


# What replaces " Image 1: 0.55\n Image 2: 0.45", and the scores of style that are read (None: set aside), or a failure.
STYLES = [
    ("Image 1: 0.55, Image 2: 0.45", (5.5, 4.5)),
    ("**Image 1**: 0.55 - warm light\n**Image 2**: 0.45 - flat", (5.5, 4.5)),
    ("- Image 1 = `0.55`\n- Image 2 = `0.45`", (5.5, 4.5)),
    ("Image 2: 0.45\nImage 1: 0.55", (5.5, 4.5)),
    ("Image 1: 0.67\nImage 2: 0.34", (6.7, 3.4)),
    ("Image 1: 1\nImage 2: 0", (10, 0)),
    ("Image 1: 0.55/1\nImage 2: 0.45/1", (5.5, 4.5)),
    ("Image 1: 0.55\nImage 2: 0.55", None),
    ("Image 1: 55\nImage 2: 45", None),
    ("Image 1: 1.2\nImage 2: -0.2", None),
    ("Image 1: 0,55\nImage 2: 0,45", None),
    ("Image 1: 0\uff0e55\nImage 2: 0.45", None),
    ("Image 1: 0\u066b55\nImage 2: 0.45", None),
    ("Image 1: \u00bd\nImage 2: \u00bd", None),
    ("Image 1: 1e0\nImage 2: 0", None),
    ("Image 1: 0.55/10\nImage 2: 0.45/10", None),
    ("Image 1: high\nImage 2: low", None),
    ("Image 1: 0.55", None),
    ("", None),
    ("Image 1: X\nImage 2: Y", "echoed_template"),
    ("Image 1: 0.55\nImage 2: 0.45\nImage 1: 0.6", "contradictory"),
]


@pytest.mark.parametrize(("lines", "expected"), STYLES)
def test_scores(lines, expected):
    outcome = parse_pair_scores(SCORES.replace(" Image 1: 0.55\n Image 2: 0.45", lines))
    if isinstance(expected, str):
        assert found(outcome) == expected
        return
    assert found(outcome) == 1
    style = [(dim.score_1, dim.score_2) for dim in outcome.dims if dim.name == "style"]
    assert style == ([] if expected is None else [pytest.approx(expected)])
    assert outcome.left_out == (expected is None)


def test_replies_without_scores():
    assert found(parse_pair_scores("Image 1 is better.")) == "unparsable"
    assert found(parse_pair_scores("")) == "unparsable"
    assert found(parse_pair_scores("I'm sorry, I can't rate people.")) == "refused"
    assert found(parse_pair_scores(SCORES[: SCORES.index("Style")])) == "invalid"
    assert found(parse_pair_scores(SCORES.replace("0.", "0,"))) == "invalid"
    even = SCORES.replace("0.7", "0.5").replace("0.3", "0.5").replace("0.55", "0.6").replace("0.45", "0.4")
    assert found(parse_pair_scores(even)) == "tie"


def test_cut_off_a_reply_has_all_its_scores_or_none():
    for length in range(len(SCORES)):
        assert found(parse_pair_scores(SCORES[:length], "length")) == "truncated", length


@pytest.mark.parametrize("modality", ["image", "video"])
@pytest.mark.parametrize("dialect", [RANK, PAIR_SCORE])
def test_our_own_templates_are_known_when_they_come_back(dialect, modality):
    text = dialect.template(modality).fill("a fox", modality, (1, 1))
    assert found(dialect.parse(text, "stop")) == "echoed_template"
    filled = text.replace("1/2 is", "2 is").replace("1: X", "1: 0.3").replace("2: Y", "2: 0.7")
    assert found(dialect.parse(filled, "stop")) == 2
    assert ("Video 1" if modality == "image" else "Image 1") not in text


def test_ties_count_half_and_are_no_failures():
    tie = JudgeFailure("tie", "equally good")
    np.testing.assert_array_equal(pair_wins([tie, Verdict("Image 1")])[:, 0], [0.5, 1.0])
    np.testing.assert_array_equal(pair_shares([tie])[:, 0], [0.5])
    assert np.isnan(pair_wins([tie])[0, 1:]).all()
    check_failure_share([tie] * 20, 0.0)


@pytest.mark.parametrize(
    "piece", ["Image 1 is better. ", "Image ", "is ", "Style Score: ", "Image 1: ", "0.5", " ", "*"]
)
@pytest.mark.parametrize("parse", [parse_rank, parse_pair_scores])
def test_a_reply_in_a_loop_is_read_in_no_time(parse, piece):
    started = time.perf_counter()
    for before in ("", SCORES, "Style Score: Image 1: "):
        text = before + piece * (MAX_CHARACTERS // len(piece))
        assert isinstance(parse(text[:MAX_CHARACTERS], "length"), Verdict | JudgeFailure)
    assert time.perf_counter() - started < 10  # generous: it guards against minutes


PIECES = ["Alignment Score", "Style Score", ": ", "Image 1", "Image 2", " is better", "than", ".", "0.5", "\n", "X"]
NOISE = st.text() | st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=40).map("".join)


@given(NOISE, st.sampled_from(["stop", "length"]))
def test_noise_never_raises(text, finish_reason):
    for parse in (parse_rank, parse_pair_scores):
        assert isinstance(parse(text, finish_reason), Verdict | JudgeFailure)
    outcome = parse_pair_scores(SCORES + text, finish_reason)
    assert isinstance(outcome, JudgeFailure) or all(0 <= dim.score_1 <= 10 for dim in outcome.dims)
