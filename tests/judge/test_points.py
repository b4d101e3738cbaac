from __future__ import annotations

import io
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flexgym.core.errors import RewardError
from flexgym.judge import JudgeFailure
from flexgym.judge import points as module
from flexgym.judge.backends.base import Decoding, Reply
from flexgym.judge.inputs import Inputs
from flexgym.judge.points import FORMS, PointwiseJudge, parse_points
from flexgym.judge.reply import MAX_CHARACTERS
from flexgym.judge.template import Template, built_in_template
from flexgym.types import Prompt, SampleGroup

AXES = FORMS["axes"].image
VIDEO_AXES = FORMS["axes"].video
FINAL = FORMS["final_score"].image
VIDEO_FINAL = FORMS["final_score"].video

CLEAN = "Alignment Score (1-5): 2.6947\nCoherence Score (1-5): 2.3715\nStyle Score (1-5): 2.8025"
SCORES = {"alignment": 2.6947, "coherence": 2.3715, "style": 2.8025}
VIDEO_FINAL_REPLY = """\
visual quality: 4
temporal consistency: 4
dynamic degree: 3
text-to-video alignment: 1
factual consistency: 2
Final Score: 6"""


def found(outcome):
    return outcome.kind if isinstance(outcome, JudgeFailure) else outcome


@pytest.mark.parametrize(
    ("sheet", "reply", "expected"),
    [
        (AXES, CLEAN, SCORES),
        (
            VIDEO_AXES,
            "Alignment Score (1-5): 5\nPhysics Score (1-5): 1\nStyle Score (1-5): 3.0",
            {"alignment": 5.0, "physics": 1.0, "style": 3.0},
        ),
        (FINAL, "cube (object): 1\nred (colour): 0\non a sphere (relation): 1\nFinal Score: 3.5", {"final_score": 3.5}),
        (VIDEO_FINAL, VIDEO_FINAL_REPLY, {"final_score": 6.0}),
        (VIDEO_FINAL, "Final Score: 10", {"final_score": 10.0}),
    ],
)
def test_clean_replies(sheet, reply, expected):
    assert parse_points(reply, sheet=sheet) == expected
    assert parse_points(reply + "\n", "length", sheet=sheet) == expected


# How the line about style may be written, and what is read: 2.8, or the kind of failure.
STYLES = [
    "Style Score (1-5): 2.8",
    "style score (1-5): 2.8",
    "STYLE SCORE(1-5):2.8",
    "**Style Score (1-5):** 2.8",
    "**Style Score (1-5): 2.8**",
    "- **Style Score** (1\u20135): `2.8`",
    "  Style   Score  ( 1 - 5 )  :   2.8",
    "Style_Score = 2.8",
    "Style-Score\uff1a2.8",
    '"Style Score": 2.8,',
    "Style Score (1-5): 2.8/5",
    "Style Score (1-5): **2.8** / 5",
    "Style Score: 2.8 out of 5",
    "Style Score (out of 5): 2.8",
    "Style Score (1 to 5, higher is better): 2.8.",
    "Style Score (1-5): 2.8, as the light is flat",
    "Style Score (1-5): 2.8 (calm)",
    "Style Score (1-5):\n2.8",
    "Style Score (1-5): +2.800",
    "Style Score (1-5): \uff12.\uff18",
    "Style Score (1-5): \u0662.\u0668",
    "Style Score (1-5): 2.8 (out of 5)",
    "Style Score (1-5): 2.8 - the light is flat",
    "Style Score (1-5): 2.8\u3002",
    "Style Score (1-5): 2.8 | the light is flat",
    "Style Score (1-5): 2.8 \u2b50",
    "I find the style score (1-5): 2.8 for it.",
    "Style Score (1-5): 2.8\n- 3 birds are missing",
    "Style Score (1-5): 2.8\nStyle Score: 2.80",
    "The style score is low.\nStyle Score (1-5): 2.8",
]
BROKEN = [
    ("Style Score (1-5): X", "echoed_template"),
    ("Style Score (1-5): <x>", "echoed_template"),
    ("Style Score (1-5): X\nStyle Score (1-5): 2.8", "echoed_template"),
    ("Style Score (1-5): 2.8\nStyle Score (1-5): 2.9", "contradictory"),
    ("Style Score (1-5): 2.8. On a second look, style score: 3", "contradictory"),
    ("", "invalid"),
    ("Style: 2.8", "invalid"),
    ("Style Score is 2.8", "invalid"),
    ("Lifestyle Score: 2.8", "invalid"),
    ("Style Score (1-5): high", "invalid"),
    ("Style Score (1-5): N/A", "invalid"),
    ("Style Score (1-5): NaN", "invalid"),
    ("Style Score (1-5): inf", "invalid"),
    ("Style Score (1-5): 1e0", "invalid"),
    ("Style Score (1-5): 2,8", "invalid"),
    ("Style Score (1-5): 2.8.1", "invalid"),
    *(
        (f"Style Score (1-5): {number}", "invalid")
        for number in (
            "2\uff0e8",
            "2\u066b8",
            "2\u00b78",
            "2\u02d98",
            "2\u066c8",
            "2'8",
            "2\u00bd",
            "2 \u00bd",
            "2 1/2",
            "2\u00b2",
            "2e0",
            "2_8",
            "2 8",
            "2\u00a08",
            "2\u200b8",
            "2. 8",
            "2, 8",
            "2;8",
            "2:8",
            "2 and a half",
            "2 point eight",
            "2\u20443",
            "2 \u2044 3",
            "2 x 2",
            "2+",
            "2 \u00b1 1",
            "2 (out of 10)",
            "\u00bd",
            "\u2463",
            "\u56db",
            "2\u0668",
            "2\u30028",
            "2~3",
        )
    ),
    ("Style Score (1-5): 2-3", "invalid"),
    ("Style Score (1-5): 2 to 3", "invalid"),
    ("Style Score (1-5): 2 or 3", "invalid"),
    ("Style Score (1-5): 28%", "invalid"),
    ("Style Score (1-5): 2.8/10", "invalid"),
    ("Style Score (1-5): 2.8 out of 10", "invalid"),
    ("Style Score (1-10): 2.8", "invalid"),
    ("Style Score (1-5): 0.9", "invalid"),
    ("Style Score (1-5): 5.1", "invalid"),
    ("Style Score (1-5): 0", "invalid"),
    ("Style Score (1-5): -2.8", "invalid"),
    ("Style Score (1-5): " + "9" * 60, "invalid"),
    ("Style Score (1-5): good\nStyle Score (1-5): 2.8", "invalid"),
    ("Style Score (1-5):", "truncated"),
    ("Style Score (1-5): \n", "truncated"),
]
OTHERS = "Alignment Score (1-5): 4\nCoherence Score (1-5): 3\n"


@pytest.mark.parametrize("line", STYLES)
def test_form_does_not_matter(line):
    expected = {"alignment": 4.0, "coherence": 3.0, "style": 2.8}
    assert parse_points(OTHERS + line, sheet=AXES) == expected
    assert parse_points(f"{line}\n{OTHERS}", sheet=AXES) == expected
    assert parse_points(f"<think>Style Score: 1</think>\n{OTHERS}{line}\n<|im_end|>", sheet=AXES) == expected


@pytest.mark.parametrize(("line", "kind"), BROKEN)
def test_content_does(line, kind):
    outcome = parse_points(OTHERS + line, sheet=AXES)
    assert found(outcome) == kind, outcome
    assert 0 < len(outcome.detail) <= 200
    assert outcome.detail.isprintable()
    assert "Style Score" in outcome.detail


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (None, "unparsable"),
        ("", "unparsable"),
        ("A nice picture, 4 of 5.", "unparsable"),
        ("<think>Alignment Score: 3</think>", "unparsable"),
        ("I'm sorry, I can't rate people.", "refused"),
        ("抱歉", "refused"),
        ("<think>" + CLEAN, "truncated"),
        (CLEAN + " " * MAX_CHARACTERS, "unparsable"),
    ],
)
def test_replies_without_scores(reply, kind):
    assert found(parse_points(reply, sheet=AXES)) == kind


def test_scales_of_the_final_score():
    assert found(parse_points("Final Score: 6", sheet=FINAL)) == "invalid"
    assert found(parse_points("Final Score: 0", sheet=VIDEO_FINAL)) == "invalid"
    assert found(parse_points("Final Score: 6/5", sheet=VIDEO_FINAL)) == "invalid"
    assert parse_points("Final Score: 6/10", sheet=VIDEO_FINAL) == {"final_score": 6.0}
    # A caption that speaks of a final score cannot pass for it.
    caption = 'sign that says "Final Score: 5" (text): 0\n'
    assert found(parse_points(caption + "Final Score: 1.5", sheet=FINAL)) == "contradictory"


def test_cut_off_a_reply_has_its_scores_or_none():
    for length in range(len(CLEAN) + 1):
        outcome = parse_points(CLEAN[:length], "length", sheet=AXES)
        assert found(outcome) == "truncated", length
    assert parse_points(CLEAN + "\nThe light", "length", sheet=AXES) == SCORES
    assert parse_points(CLEAN + "\n", sheet=AXES) == SCORES


@pytest.mark.parametrize("sheet", [AXES, VIDEO_AXES, FINAL, VIDEO_FINAL])
def test_our_own_templates_are_known_when_they_come_back(sheet):
    text = built_in_template(sheet.template).fill("a fox", "image", (1,))
    assert found(parse_points(text, sheet=sheet)) == "echoed_template"
    filled = parse_points(text.replace(": X", ": 3"), sheet=sheet)
    assert filled == {axis.name: 3.0 for axis in sheet.axes}


@pytest.mark.parametrize(
    "piece",
    ["Style Score (1-5): ", "Style Score (1-5): 3\n", "Style Score ", "Style ", " ", "*", "(", "3", "3.", "3/5 ", "\n"],
)
def test_a_reply_in_a_loop_is_read_in_no_time(piece):
    started = time.perf_counter()
    for before in ("", OTHERS, OTHERS + "Style Score (1-5): 3", "Style Score: "):
        text = before + piece * (MAX_CHARACTERS // len(piece))
        assert isinstance(parse_points(text[:MAX_CHARACTERS], "length", sheet=AXES), dict | JudgeFailure)
    assert time.perf_counter() - started < 10  # generous: it guards against minutes


PIECES = ["Alignment", "Coherence", "Style", "Final", " Score", "(1-5)", ": ", "3.5", "X", "/5", "\n", "**", "<think>",
          "</think>", "\u0663", "\ud83d"]  # fmt: skip
NOISE = st.text() | st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=40).map("".join)
SHEETS = st.sampled_from([AXES, VIDEO_AXES, FINAL, VIDEO_FINAL])


@given(NOISE, SHEETS, st.sampled_from(["stop", "length", "content_filter", ""]))
def test_noise_never_raises(text, sheet, finish_reason):
    check(parse_points(text, finish_reason, sheet=sheet), sheet)


@given(NOISE, st.integers(0, len(CLEAN)), st.sampled_from(["stop", "length"]))
def test_noise_within_a_reply_never_raises(noise, place, finish_reason):
    check(parse_points(CLEAN[:place] + noise + CLEAN[place:], finish_reason, sheet=AXES), AXES)


def check(outcome, sheet):
    assert isinstance(outcome, dict | JudgeFailure)
    if isinstance(outcome, dict):
        assert list(outcome) == [axis.name for axis in sheet.axes]
        assert all(axis.lowest <= outcome[axis.name] <= axis.highest for axis in sheet.axes)


@given(st.tuples(*[st.floats(1, 5)] * 3), st.permutations(["Alignment", "Coherence", "Style"]))
def test_what_is_written_is_read(values, names):
    text = "\n".join(f"{name} Score (1-5): {value:.4f}" for name, value in zip(names, values, strict=True))
    outcome = parse_points(text, sheet=AXES)
    for name, value in zip(names, values, strict=True):
        assert math.isclose(outcome[name.lower()], value, abs_tol=5.1e-5)


class Eyes:
    """A backend that scores images by their brightness, 1 to 5, and drops a reply when asked to."""

    def __init__(self, *, lose=0):
        self.calls, self.lose = [], lose

    def complete(self, requests, decoding):
        self.calls.append((list(requests), decoding))
        return [self._reply(request) for request in requests][self.lose :]

    @staticmethod
    def _reply(request):
        means = [np.asarray(Image.open(io.BytesIO(picture.data))).mean() for picture in request.pictures]
        if means[0] > 250:
            return JudgeFailure("timed_out", "too bright to look at")
        score = f"{1 + 4 * np.mean(means) / 250:.2f}"
        names = ("Alignment", "Physics" if "one video" in request.text else "Coherence", "Style")
        return Reply("\n".join(f"{name} Score (1-5): {score}" for name in names))


def group(*levels, caption="a grey wall", frames=None):
    shape = (8, 8, 3) if frames is None else (frames, 8, 8, 3)
    return SampleGroup(Prompt(caption), np.stack([np.full(shape, level, np.uint8) for level in levels]))


def test_all_groups_are_asked_about_in_one_call(monkeypatch):
    encoded = []
    encode = module.encode_sample
    monkeypatch.setattr(module, "encode_sample", lambda sample, inputs: encoded.append(1) or encode(sample, inputs))
    backend = Eyes()
    judge = PointwiseJudge(backend, FORMS["axes"], inputs=Inputs(format="png"))
    images, videos = judge.assess([group(0, 125, 255), group(250, 0, caption='a "wall"', frames=9)])
    assert [found(outcome) for outcome in images] == [
        {"alignment": 1.0, "coherence": 1.0, "style": 1.0},
        {"alignment": 3.0, "coherence": 3.0, "style": 3.0},
        "timed_out",
    ]
    assert videos == [{"alignment": value, "physics": value, "style": value} for value in (5.0, 1.0)]
    [(requests, decoding)] = backend.calls
    assert len(encoded) == len(requests) == 5
    assert [len(request.pictures) for request in requests] == [1, 1, 1, 8, 8]
    assert ["video" in request.text for request in requests] == [False, False, False, True, True]
    assert '"a grey wall"' in requests[0].text
    assert '"a \\"wall\\""' in requests[3].text
    assert "The 8 pictures of this message are its frames" in requests[3].text
    assert decoding == Decoding()


def test_a_wording_of_ones_own():
    backend = Eyes()
    judge = PointwiseJudge(
        backend, FORMS["axes"], template=Template("{pictures} Rate it for {prompt}."), decoding=Decoding(max_tokens=9)
    )
    judge.assess([group(1), group(1, frames=1)])
    [(requests, decoding)] = backend.calls
    assert [request.text for request in requests] == [
        'It is the picture of this message. Rate it for "a grey wall".',
        'The picture of this message is its only frame. Rate it for "a grey wall".',
    ]
    assert decoding.max_tokens == 9


def test_a_backend_that_loses_replies_is_found_out():
    with pytest.raises(RewardError, match="2 requests, 1 replies"):
        PointwiseJudge(Eyes(lose=1), FORMS["axes"]).assess([group(1, 2)])


def test_nothing_to_judge():
    assert PointwiseJudge(Eyes(), FORMS["axes"]).assess([]) == []
