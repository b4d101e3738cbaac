from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexgym.judge import Assessment, JudgeFailure, parse_assessment
from flexgym.judge.parser import MAX_CHARACTERS

NAMES = ("A. Semantic Alignment & Accuracy", "B. Image Quality & Realism", "C. Aesthetics & Artistry")


def reply(**changes):
    """A clean reply as a dict; ``changes`` replace top-level entries."""
    dims = [
        {"name": name, "reason_1": "round", "reason_2": "not round", "score_1": 7, "score_2": 3}
        for name in ("Shape", "Colour", "Count")
    ]
    categories = [{"name": name, "dims": dims, "cat_reason": "rounder", "cat_winner": "Image 1"} for name in NAMES]
    return {"prompt": "a circle", "categories": categories, "reason": "rounder", "winner": "Image 1"} | changes


def without(key):
    return {name: value for name, value in reply().items() if name != key}


def with_category(**changes):
    categories = reply()["categories"]
    categories[1] = categories[1] | changes
    return reply(categories=categories)


def with_dim(**changes):
    dims = reply()["categories"][0]["dims"]
    return with_category(dims=[dims[0] | changes, *dims[1:]])


CLEAN = json.dumps(reply())
PRETTY = json.dumps(reply(), indent=2)

TOLERATED = {
    "clean": CLEAN,
    "indented": PRETTY,
    "fenced": f"```json\n{PRETTY}\n```",
    "fence never closed": f"```json\n{CLEAN}",
    "prose before": f"Here is my assessment: {CLEAN}",
    "prose after": f"{CLEAN}\nI hope that this helps.",
    "braces in the prose": f"For {{prompt}} I find: {CLEAN} {{end}}",
    "thoughts with a draft": f'<think>{{"winner": "Image 2"}} or not?</think>{CLEAN}',
    "trailing commas": CLEAN.replace("}]", "},]").replace('"winner": "Image 1"}', '"winner": "Image 1",}'),
    "single quotes": CLEAN.replace('"', "'"),
    "missing comma": PRETTY.replace('"rounder",', '"rounder"'),
    "comment": PRETTY.replace('"reason_1"', '// evidence\n"reason_1"', 1),
    "line break in a string": CLEAN.replace("not round", "not\nround"),
    "unquoted winner": CLEAN.replace('"winner": "Image 1"}', '"winner": Image 1}'),
    "upper case": CLEAN.upper(),
    "capitalised keys": CLEAN.replace('"winner"', '"Winner"').replace('"cat_winner"', '"Cat Winner"'),
    "lower-case label": CLEAN.replace("Image 1", "image 1"),
    "label without space": CLEAN.replace("Image 1", "Image1"),
    "label with punctuation": CLEAN.replace("Image 1", "**Image 1.**"),
    "label with article": CLEAN.replace("Image 1", "the image #1"),
    "scores as text": CLEAN.replace(": 7", ': "7"').replace(": 3", ': "3"'),
    "half points": CLEAN.replace(": 7", ": 7.5").replace(": 3", ": 2.5"),
    "list of one": f"[{CLEAN}]",
    "wrapped in an object": f'{{"assessment": {CLEAN}}}',
    "unknown keys": json.dumps(reply(confidence=0.9)),
    "no reasons": json.dumps(without("reason")),
    "byte order mark": f"\ufeff{CLEAN}",
    "personalised category": json.dumps(reply(categories=[*reply()["categories"], reply()["categories"][0]])),
}

REFUSED = {
    "nothing": ("", "empty"),
    "no reply": (None, "empty"),
    "white space": (" \n\t ", "empty"),
    "prose only": ("Image 1 is better.", "no_json"),
    "open brace": ("{", "no_json"),
    "null": ("null", "no_json"),
    "number": ("1", "no_json"),
    "text": ('"Image 1"', "no_json"),
    "empty list": ("[]", "no_json"),
    "list of labels": ('["Image 1", "Image 1"]', "no_json"),
    "deep nesting": ("[" * 50_000, "no_json"),
    "deep nesting of objects": ('{"a":' * 10_000 + "1" + "}" * 10_000, "no_json"),
    "loop of open objects": ('{"winner": "Image 1", "categories": [' + '{" ' * 10_000 + "}", "no_json"),
    "loop of quotation marks": (CLEAN[:-1] + ', "note": ' + '"b" "c' * 8_000 + "}", "no_json"),
    "too long": (CLEAN + " " * MAX_CHARACTERS, "oversized"),
    "empty object": ("{}", "no_json"),
    "winner echoed": (json.dumps(reply(winner="Image 1/2")), "echoed_label"),
    "winner echoed the other way": (json.dumps(reply(winner="Image 2/1")), "echoed_label"),
    "winner echoed with a bar": (json.dumps(reply(winner="video 1 | 2")), "echoed_label"),
    "category winner echoed": (json.dumps(with_category(cat_winner="Image 1/2")), "echoed_label"),
    "both": (json.dumps(reply(winner="Image 1 and Image 2")), "two_winners"),
    "both in a remark": (json.dumps(reply(winner="Image 1 (clearly better than image 2)")), "two_winners"),
    "both in short": (json.dumps(reply(winner="Image 1, 2")), "two_winners"),
    "both in a list": (json.dumps(reply(winner=["Image 1", "Image 2"])), "two_winners"),
    "both in a category": (json.dumps(with_category(cat_winner="Image 1 or 2")), "two_winners"),
    "tie": (json.dumps(reply(winner="Tie")), "no_winner"),
    "null winner": (json.dumps(reply(winner=None)), "no_winner"),
    "blank winner": (json.dumps(reply(winner="")), "no_winner"),
    "bare number": (json.dumps(reply(winner=1)), "no_winner"),
    "bare digit": (json.dumps(reply(winner="2")), "no_winner"),
    "third candidate": (json.dumps(reply(winner="Image 3")), "no_winner"),
    "twelfth candidate": (json.dumps(reply(winner="Image 12")), "no_winner"),
    "negated": (json.dumps(reply(winner="not Image 1")), "no_winner"),
    "winner as object": (json.dumps(reply(winner={"label": "Image 1"})), "no_winner"),
    "winner missing": (json.dumps(without("winner")), "no_winner"),
    "category winner missing": (CLEAN.replace('"cat_winner"', '"cat_champion"', 1), "no_winner"),
    "category tie": (json.dumps(with_category(cat_winner="draw")), "no_winner"),
    "cut before the winner": (CLEAN[: CLEAN.rindex('"winner"')], "no_winner"),
    "cut inside the winner": (CLEAN[:-2], "no_winner"),
    "cut in a fence": ("```json\n" + PRETTY[:1200], "no_winner"),
    "sum too low": (json.dumps(with_dim(score_1=5)), "score_sum"),
    "sum too high": (json.dumps(with_dim(score_2=9)), "score_sum"),
    "score missing": (CLEAN.replace('"score_2"', '"points"', 1), "schema"),
    "score too high": (json.dumps(with_dim(score_1=11, score_2=-1)), "schema"),
    "score as words": (json.dumps(with_dim(score_1="seven")), "schema"),
    "score as share": (json.dumps(with_dim(score_1="7/10")), "schema"),
    "score not a number": (CLEAN.replace(": 7", ": NaN"), "schema"),
    "endless digits": (CLEAN.replace(": 7", ": " + "7" * 5_000, 1), "schema"),
    "categories null": (json.dumps(reply(categories=None)), "schema"),
    "categories missing": (json.dumps(without("categories")), "schema"),
    "categories as words": (json.dumps(reply(categories=["A", "B", "C"])), "schema"),
    "categories as object": (json.dumps(reply(categories={"A": 1})), "schema"),
    "two categories": (json.dumps(reply(categories=reply()["categories"][:2])), "schema"),
    "category without criteria": (json.dumps(with_category(dims=[])), "schema"),
    "winner twice": (CLEAN.replace('"winner": "Image 1"', '"winner": "Image 1", "winner": "Image 2"'), "ambiguous"),
    "two objects": (f"{CLEAN}\n{CLEAN.replace('Image 1', 'Image 2')}", "ambiguous"),
    "list of two": (f"[{CLEAN}, {CLEAN}]", "ambiguous"),
    "template first": ('{"winner": "Image 1/2"} ' + CLEAN, "ambiguous"),
}


@pytest.mark.parametrize("text", TOLERATED.values(), ids=TOLERATED)
def test_form_is_tolerated(text):
    parsed = parse_assessment(text)
    assert isinstance(parsed, Assessment), parsed
    assert parsed.side == 0
    assert [anchor.side for anchor in parsed.anchors] == [0, 0, 0]
    assert parsed.categories[0].dims[0].score_1 in (7, 7.5)


@pytest.mark.parametrize(("text", "kind"), REFUSED.values(), ids=REFUSED)
def test_content_is_refused(text, kind):
    parsed = parse_assessment(text)
    assert isinstance(parsed, JudgeFailure), parsed
    assert parsed.kind == kind, parsed.detail
    assert parsed.detail


def test_failure_names_the_place():
    failure = parse_assessment(json.dumps(with_category(cat_winner="Image 1/2")))
    assert failure.detail.startswith("categories.1.cat_winner: ")


def test_the_gravest_of_several_rules_is_named():
    broken = with_dim(score_1=5) | {"winner": "Image 1/2"}
    assert parse_assessment(json.dumps(broken)).kind == "echoed_label"


def test_video_labels_and_second_side():
    parsed = parse_assessment(CLEAN.replace("Image 1", "video 2"))
    assert parsed.winner == "Video 2"
    assert parsed.side == 1


def test_quoted_winner_in_a_reason_is_not_a_second_winner():
    text = json.dumps(reply(reason='the key "winner": follows'))
    assert isinstance(parse_assessment(text), Assessment)


def test_dump_is_a_clean_reply():
    parsed = parse_assessment(CLEAN)
    assert parse_assessment(parsed.model_dump_json()) == parsed


@given(st.integers(0, len(CLEAN) - 1))
def test_a_truncated_reply_never_becomes_an_assessment(length):
    assert isinstance(parse_assessment(CLEAN[:length]), JudgeFailure)


@given(st.text(alphabet='{}[]":,\\ winerImage12\n', max_size=200))
def test_noise_never_raises(text):
    assert isinstance(parse_assessment(text), JudgeFailure)
