from __future__ import annotations

import json
import re
from datetime import timedelta
from importlib import resources
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flexgym.judge import Assessment, JudgeFailure, parse_assessment

TABLE = yaml.safe_load(Path(__file__).with_name("malformed_replies.yaml").read_text(encoding="utf-8"))
ROWS = {row["name"]: row for row in TABLE["rows"]}
EDITS = {"first", "more", "winner", "replace", "everywhere", "until", "text", "loop", "finish_reason"}
ANSWERS = {"expect", "left_out", "odd", "detail"}
# Generous, as it guards against minutes, not against milliseconds.
IN_TIME = settings(deadline=timedelta(seconds=20))


def written(row):
    """The reply that a row of the table describes."""
    text = TABLE["reply"].replace("<<first>>", row.get("first", "")).replace("<<more>>", row.get("more", ""))
    text = text.replace("<<winner>>", row.get("winner", '"Image 1"'))
    for old, new in row.get("replace", {}).items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    for old, new in row.get("everywhere", {}).items():
        assert old in text
        text = text.replace(old, new)
    if "until" in row:
        text = text[: text.index(row["until"]) + len(row["until"])]
    piece, times = row.get("loop", ("", 0))
    return row.get("text", "<<reply>>").replace("<<reply>>", text).replace("<<loop>>", piece * times)


def sides(outcome):
    """The numbers of the winners in the order overall, A, B, C; None for a failure."""
    if isinstance(outcome, JudgeFailure):
        return None
    return "".join(str(1 + part.side) for part in (outcome, *outcome.anchors))


def swapped(digits):
    return digits.translate(str.maketrans("12", "21"))


CLEAN = written({})


def test_the_table_is_well_formed():
    assert len(ROWS) == len(TABLE["rows"])
    assert all(set(row) <= EDITS | ANSWERS | {"name", "authors"} for row in TABLE["rows"])


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_table(row):
    outcome = parse_assessment(written(row), row.get("finish_reason", "stop"))
    if isinstance(outcome, JudgeFailure):
        assert outcome.kind == row["expect"], outcome
        assert row.get("detail", "") in outcome.detail
        assert 0 < len(outcome.detail) <= 200
        assert outcome.detail.isprintable()
    else:
        assert sides(outcome) == row["expect"], outcome
        assert outcome.left_out == row.get("left_out", 0)
        odd = [dim.problem for category in outcome.categories for dim in category.odd_dims]
        assert len(odd) == outcome.odd_scores == row.get("odd", 0), odd
        if odd:
            assert row.get("detail", "") in odd[0]
        else:
            assert parse_assessment(outcome.model_dump_json()) == outcome.model_copy(update={"left_out": 0})


@pytest.mark.parametrize("media", ["image", "video"])
def test_our_own_template_is_known_when_it_comes_back(media):
    template = resources.files("flexgym.judge").joinpath("templates", f"{media}.txt").read_text(encoding="utf-8")
    outcome = parse_assessment(template)
    assert isinstance(outcome, JudgeFailure)
    assert outcome.kind == "echoed_template"


def test_no_reply_is_an_empty_one():
    assert parse_assessment(None) == parse_assessment("") == JudgeFailure("unparsable", "the reply contains no text")


@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_cut_anywhere_a_reply_is_truncated(finish_reason):
    object_end = CLEAN.rindex("}")
    for length in range(1, object_end + 1):
        outcome = parse_assessment(CLEAN[:length], finish_reason)
        assert isinstance(outcome, JudgeFailure), length
        assert outcome.kind == "truncated", length


# What a judge may put in its strings, and what must not matter there.
WORDS = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ['{"winner": "Image 2"}', "'winner': 'Image 1'", "</think>", "```", "{}", "Image 1/2", 'a "5" circle', "\\", "//"]
)
PLAIN_WORDS = st.text(st.sampled_from("abcxyz ,.é红"), max_size=20)
ANCHORS = ("A. Semantic Alignment & Accuracy", "B. Image Quality & Realism", "C. Aesthetics & Artistry")


@st.composite
def replies(draw, words=WORDS):
    """A valid reply as a dict, with the digits of its winners."""
    media = draw(st.sampled_from(["Image", "Video"]))
    label = st.sampled_from([f"{media} 1", f"{media} 2"])

    def category(name):
        scores = draw(st.lists(st.integers(0, 10), min_size=1, max_size=2))
        dims = [
            {"name": draw(words), "reason_1": draw(words), "reason_2": draw(words), "score_1": s, "score_2": 10 - s}
            for s in scores
        ]
        return {"name": name, "dims": dims, "cat_reason": draw(words), "cat_winner": draw(label)}

    categories = [category(name) for name in ANCHORS]
    digits = [entry["cat_winner"][-1] for entry in categories]
    if draw(st.booleans()):
        categories.insert(draw(st.integers(0, 3)), category("D. Counting"))
    winner = draw(label)
    data = {"prompt": draw(words), "categories": categories, "reason": draw(words), "winner": winner}
    return data, "".join([winner[-1], *digits])


LAYOUTS = st.fixed_dictionaries({"indent": st.sampled_from([None, 2]), "ensure_ascii": st.booleans()})
BEFORE = st.sampled_from(
    ["", "```json\n", "Here it is: ", "<think>Image 2? {no}</think>\n", "\ufeff", "[", "For {x}: "]
)
AFTER = st.sampled_from(["", "\n```", "\nI hope that this helps.", "<|im_end|>", "  \n"])


def in_case(data, case):
    """The reply with its keys and labels in another case."""
    if isinstance(data, list):
        return [in_case(value, case) for value in data]
    if isinstance(data, dict):
        return {
            case(key): case(value) if key in ("winner", "cat_winner") else in_case(value, case)
            for key, value in data.items()
        }
    return data


@IN_TIME
@given(replies(), LAYOUTS, BEFORE, AFTER, st.sampled_from([str.upper, str.lower, str.title]))
def test_surroundings_and_case_change_nothing(reply, layout, before, after, case):
    data, expected = reply
    outcome = parse_assessment(before + json.dumps(in_case(data, case), **layout) + after)
    assert sides(outcome) == expected, outcome
    assert outcome.prompt == data["prompt"]
    assert outcome.reason == data["reason"]


@IN_TIME
@given(replies(PLAIN_WORDS), BEFORE, AFTER)
def test_trailing_commas_change_nothing(reply, before, after):
    data, expected = reply
    text = re.sub(r"(?<=[^,{\[])\n( *[}\]])", r",\n\1", json.dumps(data, indent=2))
    assert sides(parse_assessment(before + text + after)) == expected


@IN_TIME
@given(replies())
def test_a_repair_never_changes_a_winner(reply):
    data, expected = reply
    text = re.sub(r"(?<=[^,{\[])\n( *[}\]])", r",\n\1", json.dumps(data, indent=2))
    assert sides(parse_assessment(text)) in (expected, None)


@given(replies(), LAYOUTS)
def test_swapping_labels_swaps_sides(reply, layout):
    data, expected = reply
    outcome = parse_assessment(json.dumps(data, **layout))
    data["winner"] = swapped(data["winner"])
    for category in data["categories"]:
        category["cat_winner"] = swapped(category["cat_winner"])
        for dim in category["dims"]:
            dim["score_1"], dim["score_2"] = dim["score_2"], dim["score_1"]
    other = parse_assessment(json.dumps(data, **layout))
    assert sides(outcome) == expected
    assert sides(other) == swapped(expected)
    margins = [category.score_margin for category in outcome.categories]
    assert [category.score_margin for category in other.categories] == [-margin for margin in margins]
    assert other.agreement == outcome.agreement


@IN_TIME
@given(st.data(), replies(), LAYOUTS, BEFORE, AFTER, st.sampled_from(["stop", "length"]))
def test_cut_off_a_reply_keeps_its_verdict_or_has_none(data, reply, layout, before, after, finish_reason):
    content, expected = reply
    keys = data.draw(st.permutations(list(content)))
    text = before + json.dumps({key: content[key] for key in keys}, **layout) + after
    cut = text[: data.draw(st.integers(0, len(text)))]
    assert sides(parse_assessment(cut, finish_reason)) in (expected, None)


@IN_TIME
@given(st.data(), replies(PLAIN_WORDS))
def test_a_missing_piece_never_changes_the_winner(data, reply):
    content, expected = reply
    text = json.dumps(content)
    start = data.draw(st.integers(0, len(text) - 1))
    rest = text[:start] + text[start + data.draw(st.integers(1, 40)) :]
    assert (sides(parse_assessment(rest)) or expected)[0] == expected[0]


PIECES = ('{"', "}", "[", "]", '"', "'", ":", ",", "\\", "winner", "categories", "Image 1", "//", "<think>", "\u201c")
NOISE = st.text() | st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=60).map("".join)


@IN_TIME
@given(NOISE, st.sampled_from(["stop", "length", "content_filter", ""]))
def test_noise_never_raises(text, finish_reason):
    assert isinstance(parse_assessment(text, finish_reason), JudgeFailure)


@pytest.mark.slow
@IN_TIME
@given(NOISE, st.integers(0, len(CLEAN)), st.integers(1, 2000))
def test_noise_within_a_reply_never_raises(noise, place, times):
    outcome = parse_assessment(CLEAN[:place] + noise * times + CLEAN[place:])
    assert isinstance(outcome, Assessment | JudgeFailure)
