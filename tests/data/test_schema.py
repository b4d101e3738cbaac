from __future__ import annotations

import json
import re

import pytest
from pydantic import ValidationError

from flexgym.data import Clip, DataError, DPORow, MediaFile, PreferencePair, SFTRow, read_rows
from flexgym.data.files import MAX_PICTURES
from flexgym.data.problems import row_error
from tests.data.builders import QUICK, dpo, image_bytes, pair, sft, write_lines

USER = {"role": "user", "content": "which?"}
ASSISTANT = {"role": "assistant", "content": "the first"}
PLACE = {"type": "image"}


def text(value):
    return {"type": "text", "text": value}


def problem(schema, values):
    with pytest.raises(ValidationError) as caught:
        schema.model_validate(values)
    found = row_error(caught.value)
    return found.kind, str(found)


@pytest.mark.parametrize(
    ("values", "kind", "reason"),
    [
        (pair(winner="DROP"), "missing_key", "the key 'winner' is missing"),
        (pair(prompt="DROP", kind="DROP"), "missing_key", "the key 'prompt' is missing"),
        (pair(first=None), "one_side", "'first' is missing"),
        (pair(second=""), "one_side", "'second' is missing"),
        (pair(second=[]), "one_side", "'second' is missing"),
        (pair(second="DROP", winner="x"), "one_side", "'second' is missing"),
        (pair(first="DROP", second="DROP"), "missing_key", "the key 'first' is missing"),
        (pair(winner=2), "invalid", "winner: Input should be 0 or 1, got 2"),
        (pair(winner="0"), "wrong_type", 'or null for a tie, got "0"'),
        (pair(winner=True), "wrong_type", "or null for a tie, got true"),
        (pair(winner=0.5), "wrong_type", "or null for a tie, got 0.5"),
        (pair(winner=float("nan")), "wrong_type", "or null for a tie"),
        (pair(prompt=7), "wrong_type", "prompt: Input should be a valid string, got 7"),
        (pair(prompt=" \n"), "invalid", "only whitespace"),
        (pair(prompt="x" * 20_001), "too_long", "prompt: String should have at most 20000 characters"),
        (pair(kind="audio"), "invalid", "kind: Input should be 'image' or 'video'"),
        (pair(first=["a.png", "c.png"]), "invalid", "first: expected one image"),
        (pair(second="b.mp4"), "invalid", "second: expected one image"),
        (pair(kind="video", second=["a.mp4", "b.png"]), "invalid", "one video file or a list of frames"),
        (pair(second="a.png"), "invalid", "got the same one twice"),
        (pair(first=7), "wrong_type", "first.0: expected the path of a file or its bytes, got 7"),
        (pair(first={"bytes": "abc", "path": "a.png"}), "wrong_type", "should be a valid bytes"),
        (pair(first={"bytes": None, "path": None}), "invalid", "its bytes, got neither"),
        (pair(first="a\x00.png"), "invalid", "without control characters"),
        (pair(first="\udcff.png"), "invalid", "first.0.path"),
        (pair(prompt="half a pair \ud83d"), "invalid", "prompt: Input should be a valid string"),
        (pair(first="x" * 5000), "too_long", "first.0.path: String should have at most 4096 characters"),
        (pair(aspects={"quality": 3}), "invalid", "aspects.quality: Input should be 0 or 1"),
        (pair(aspects=[1]), "wrong_type", "aspects"),
        (pair(confidence=1.5), "invalid", "confidence: Input should be less than or equal to 1"),
        (pair(confidence=float("nan")), "invalid", "confidence"),
        (pair(id=["x"]), "wrong_type", "id: Input should be a valid string"),
    ],
)
def test_pairs_that_break_a_rule(values, kind, reason):
    found = problem(PreferencePair, values)
    assert found[0] == kind
    assert reason in found[1]


@pytest.mark.parametrize(
    ("values", "kind", "reason"),
    [
        (sft(images=[]), "invalid", "images: Tuple should have at least 1 item"),
        (sft(images="a.png"), "wrong_type", "images"),
        (sft(images=["a.mp4", "b.png"]), "invalid", '{"video": path, "num_frames": 8}'),
        (sft(images=[{"video": "a.png", "num_frames": 2}]), "invalid", "expected a video file"),
        (sft(images=[{"video": "a.mp4", "num_frames": 0}]), "invalid", "num_frames"),
        (sft(images=[{"video": "a.mp4"}]), "missing_key", "num_frames' is missing"),
        (sft(images=[{"video": "a.mp4", "num_frames": 33}, {"video": "b.mp4", "num_frames": 32}]), "too_long", "64"),
        (sft(images=["a.png"] * 65), "too_long", "images"),
        (sft(messages=[]), "invalid", "messages"),
        (sft(messages="hello"), "wrong_type", "messages"),
        (sft(messages=[USER]), "invalid", "assistant at the end, got user"),
        (sft(messages=[ASSISTANT]), "invalid", "got assistant"),
        (sft(messages=[USER, USER, ASSISTANT]), "invalid", "in turns"),
        (sft(messages=[USER, {"role": "system", "content": "x"}, ASSISTANT]), "invalid", "in turns"),
        (sft(messages=[USER, {"role": "tool", "content": "x"}]), "invalid", "messages.1.role"),
        (sft(messages=[USER, {"role": "assistant", "content": " "}]), "invalid", "only whitespace"),
        (sft(messages=[USER, {"role": "assistant", "content": "x" * 65_537}]), "too_long", "at most 65536"),
        (sft(messages=[USER, {"role": "assistant", "content": [PLACE, text("x")]}]), "invalid", "got one in assistant"),
        (sft(messages=[{"role": "user", "content": [PLACE]}, ASSISTANT]), "invalid", "1 placeholders for 2 images"),
        (sft(messages=[{"role": "user", "content": [{"type": "text"}]}, ASSISTANT]), "invalid", "type 'text'"),
        (sft(messages=[{"role": "user", "content": [{"type": "audio"}]}, ASSISTANT]), "invalid", "type"),
    ],
)
def test_conversations_that_break_a_rule(values, kind, reason):
    found = problem(SFTRow, values)
    assert found[0] == kind
    assert reason in found[1]


@pytest.mark.parametrize(
    ("values", "kind", "reason"),
    [
        (dpo(rejected="the first"), "invalid", "two different replies"),
        (dpo(chosen=""), "invalid", "only whitespace"),
        (dpo(chosen=[{"role": "user", "content": "x"}]), "wrong_type", "one assistant message"),
        (dpo(chosen=[ASSISTANT, ASSISTANT]), "wrong_type", "one assistant message"),
        (dpo(chosen=3), "wrong_type", "chosen"),
        (dpo(prompt=[USER, ASSISTANT]), "invalid", "user at the end"),
        ({key: value for key, value in dpo().items() if key != "rejected"}, "missing_key", "'rejected' is missing"),
    ],
)
def test_preferences_that_break_a_rule(values, kind, reason):
    found = problem(DPORow, values)
    assert found[0] == kind
    assert reason in found[1]


def test_what_a_pair_holds():
    row = PreferencePair.model_validate(
        pair(kind="video", first=["a.png", "c.png"], second="b.mp4", winner=None, id=7, surplus=1)
    )
    assert [file.path for file in row.first] == ["a.png", "c.png"]
    assert row.second[0].is_video
    assert row.winner is None
    assert row.id == "7"
    assert PreferencePair.model_validate(pair(winner=1.0)).winner == 1
    assert row.media == row.first + row.second


def test_the_labels_follow_when_sides_are_exchanged():
    row = PreferencePair.model_validate(pair(aspects={"quality": 1, "motion": None}, confidence=0.8))
    other = row.swapped()
    assert (other.first, other.second, other.winner) == (row.second, row.first, 1)
    assert other.aspects == {"quality": 0, "motion": None}
    assert other.confidence == 0.8
    assert other.swapped() == row
    assert PreferencePair.model_validate(pair(winner=None)).swapped().winner is None


def test_pictures_without_a_place_stand_in_front():
    row = SFTRow.model_validate(sft(messages=[{"role": "system", "content": "be brief"}, USER, ASSISTANT]))
    assert [part.type for part in row.messages[1].content] == ["image", "image", "text"]
    assert [message.num_pictures for message in row.messages] == [0, 2, 0]
    assert row.reply == "the first"
    assert [message.role for message in row.prompt] == ["system", "user"]


def test_places_stay_where_they_are():
    content = [text("left"), PLACE, text("right"), PLACE]
    row = SFTRow.model_validate(sft(messages=[{"role": "user", "content": content}, ASSISTANT]))
    assert [part.text for part in row.messages[0].content] == ["left", None, "right", None]


def test_a_clip_takes_as_many_places_as_it_has_frames():
    row = DPORow.model_validate(dpo(images=["a.png", {"video": "b.mp4", "num_frames": 3}]))
    assert row.prompt[0].num_pictures == 4
    assert row.images[1] == Clip(video=MediaFile(path="b.mp4"), num_frames=3)
    longest = [{"video": "b.mp4", "num_frames": MAX_PICTURES}]
    assert DPORow.model_validate(dpo(images=longest)).prompt[0].num_pictures == MAX_PICTURES


def test_replies_as_trl_writes_them():
    row = DPORow.model_validate(dpo(chosen=[ASSISTANT], rejected=[{"role": "assistant", "content": [text("no")]}]))
    assert (row.chosen, row.rejected) == ("the first", "no")


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        (PreferencePair, pair(winner=None, aspects={"x": None, "y": 1}, category="counting")),
        (PreferencePair, pair(kind="video", first=["a.png", "b.png"], second="c.mp4")),
        (SFTRow, sft(images=["a.png", {"video": "b.mp4", "num_frames": 2}])),
        (DPORow, dpo(rule="one_right", source="s")),
    ],
)
def test_values_are_json_from_which_the_row_comes_back(schema, values):
    row = schema.model_validate(values)
    assert schema.model_validate(json.loads(json.dumps(row.as_values()))) == row
    assert set(row.as_values()) == set(values)


@pytest.mark.parametrize(
    ("file", "suffix", "is_video"),
    [
        (MediaFile(path="A.JPG"), ".jpg", False),
        (MediaFile(path="no_ending"), "", False),
        (MediaFile(path="x/b.WebM"), ".webm", True),
        (MediaFile(data=image_bytes()), ".jpg", False),
        (MediaFile(data=image_bytes(kind="PNG"), path="wrong.mp4"), ".png", False),
        (MediaFile(data=image_bytes(kind="WEBP")), ".webp", False),
        (MediaFile(data=b"\x00\x00\x00\x20ftypisom"), ".mp4", True),
        (MediaFile(data=b"unknown", path="x.avi"), ".avi", True),
    ],
)
def test_what_a_file_is(file, suffix, is_video):
    assert (file.suffix, file.is_video) == (suffix, is_video)


def test_rows_are_frozen():
    row = PreferencePair.model_validate(pair())
    with pytest.raises(ValidationError, match="frozen"):
        row.winner = 1


def user(content):
    return [{"role": "user", "content": content}, ASSISTANT]


def parts(row):
    """The parts of the messages of the user, images as None."""
    return [part.text for message in row.messages if message.role == "user" for part in message.content]


CLIP = {"video": "b.mp4", "num_frames": 3}


@pytest.mark.parametrize(
    ("content", "images", "expected"),
    [
        (
            "First: <image> Second: <image> Which?",
            ["a.png", "b.png"],
            ["First: ", None, " Second: ", None, " Which?"],
        ),
        ("<image><image>\nWhich?", ["a.png", "b.png"], [None, None, "\nWhich?"]),
        ([text("One <image>"), text("Two <image>")], ["a.png", "b.png"], ["One ", None, "Two ", None]),
        ("See <image>, then <video>.", ["a.png", CLIP], ["See ", None, ", then ", *[None] * 3, "."]),
        ("Frames: <image> <image> <image>", [CLIP], ["Frames: ", None, " ", None, " ", None]),
        ("no <image > nor <Image>", ["a.png"], [None, "no <image > nor <Image>"]),
    ],
)
def test_words_for_images_are_placed(content, images, expected):
    assert parts(SFTRow.model_validate(sft(images=images, messages=user(content)))) == expected
    prompt = DPORow.model_validate(dpo(images=images, prompt=user(content)[:1])).prompt
    assert [part.text for part in prompt[0].content] == expected


def test_words_are_placed_over_all_turns_of_the_user_and_are_words_in_those_of_the_assistant():
    turns = [*user("<image> one?"), *user("<image> two?")]
    turns[1] = {"role": "assistant", "content": "in <image> 1"}
    row = SFTRow.model_validate(sft(messages=turns))
    assert parts(row) == [None, " one?", None, " two?"]
    assert row.messages[1].text == "in <image> 1"


@pytest.mark.parametrize(
    ("messages", "images", "reason"),
    [
        (user("<image>"), ["a.png", "b.png"], "got 1 placeholders for 2 images"),
        (user("<image> <image> <image>"), ["a.png", "b.png"], "got 3 placeholders for 2 images"),
        (user("<video>"), ["a.png"], "1 images and 0 videos, or in another order: <video>"),
        (user("<video> <image>"), ["a.png", CLIP], "another order: <video> <image>"),
        (user([PLACE, text("<image>"), PLACE]), ["a.png", "b.png"], "as parts or as words, got 2 parts and <image>"),
        ([{"role": "system", "content": "<image>"}, *user("x")], ["a.png"], "only in user messages, got one in system"),
    ],
)
def test_words_for_images_that_cannot_be_placed(messages, images, reason, tmp_path):
    write_lines(tmp_path / "rows.jsonl", [sft(messages=messages, images=images)])
    with pytest.raises(DataError, match=re.escape(reason)) as caught:
        list(read_rows(tmp_path / "rows.jsonl", SFTRow, options=QUICK))
    assert f"{tmp_path / 'rows.jsonl'}, line 1" in str(caught.value)


@pytest.mark.parametrize("key", ["image", "image_url", "video", "url", "path"])
def test_files_named_in_a_message_are_not_dropped(key):
    content = [{"type": "image", key: "c.png"}, {"type": "image", key: None}, text("x")]
    assert "got one in a message under" in problem(SFTRow, sft(messages=user(content)))[1]
    content[0][key] = None
    assert SFTRow.model_validate(sft(messages=user(content))).messages[0].num_pictures == 2


def test_videos_beside_the_images_are_not_dropped():
    assert "videos among the images" in problem(SFTRow, sft(videos=["a.mp4"]))[1]
    assert SFTRow.model_validate(sft(videos=[]))


def test_half_a_surrogate_pair_is_bad_and_can_be_printed(tmp_path):
    line = json.dumps(sft(messages=user("x \ud83d")))
    write_lines(tmp_path / "rows.jsonl", [line])
    with pytest.raises(DataError, match="half of a surrogate pair, which is no character") as caught:
        list(read_rows(tmp_path / "rows.jsonl", SFTRow, options=QUICK))
    str(caught.value).encode()
