from __future__ import annotations

import json

import numpy as np
import pytest

from flexgym.core.errors import ConfigError
from flexgym.data import (
    Clip,
    PreferencePair,
    Question,
    RowError,
    SFTRow,
    as_chat,
    dpo_row,
    load_pictures,
    read_rows,
    sft_row,
)
from flexgym.judge.backends.base import Reply
from flexgym.judge.backends.local import open_picture
from flexgym.judge.dialect import FLEX, THINK
from flexgym.judge.inputs import Inputs, read_sample
from flexgym.judge.template import Template
from flexgym.judge.vision_judge import VisionJudge
from tests.data.builders import FLEX_REPLY, THINK_REPLY, pair, write_images, write_lines, write_video


class Recorder:
    """A backend that keeps what it is asked."""

    def __init__(self):
        self.requests = []

    def complete(self, requests, decoding):
        self.requests += requests
        return [Reply(FLEX_REPLY) for _ in requests]

    def metrics(self):
        return {}

    def close(self):
        pass


@pytest.fixture
def image_pair(tmp_path):
    write_images(tmp_path, "a.png", "b.jpg")
    return only(tmp_path, pair(second="b.jpg", prompt='a "cat" {prompt} <|im_end|>', id="7", category="counting"))


@pytest.fixture
def video_pair(tmp_path):
    write_video(tmp_path / "a.mp4", num_frames=5)
    write_video(tmp_path / "b.mp4", num_frames=9, level=40)
    return only(tmp_path, pair(kind="video", first="a.mp4", second="b.mp4"))


def only(folder, values):
    (row,) = read_rows(write_lines(folder / "d.jsonl", [values]), PreferencePair)
    return row


@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize("dialect", [FLEX, THINK], ids=["flex", "think"])
@pytest.mark.parametrize("num_frames", [2, 8])
def test_training_asks_what_inference_asks(request, kind, dialect, num_frames):
    """Text, order and pixels, for images and videos of different length."""
    asked = request.getfixturevalue(f"{kind}_pair")
    inputs = Inputs(num_frames=num_frames, max_side=20)
    backend = Recorder()
    samples = [read_sample(side[0].path, num_frames=num_frames) for side in (asked.first, asked.second)]
    VisionJudge(backend, dialect=dialect, inputs=inputs).compare(asked.prompt, *samples)
    (expected,) = backend.requests
    reply = FLEX_REPLY if dialect is FLEX else THINK_REPLY
    row = sft_row(asked, reply, Question(dialect, num_frames=num_frames))
    (user,) = row.prompt
    assert [part.type for part in user.content] == ["image"] * len(expected.pictures) + ["text"]
    assert user.text == expected.text
    pictures = load_pictures(row.images, inputs)
    assert len(pictures) == len(expected.pictures)
    for picture, sent in zip(pictures, expected.pictures, strict=True):
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(open_picture(sent)))


def test_an_assessed_pair_as_a_conversation(image_pair):
    row = sft_row(image_pair, FLEX_REPLY)
    assert (row.reply, row.id, row.category) == (FLEX_REPLY, "7", "counting")
    assert row.images == image_pair.first + image_pair.second
    assert as_chat(row.messages) == [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": row.prompt[0].text}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": FLEX_REPLY}]},
    ]
    assert SFTRow.model_validate(json.loads(json.dumps(row.as_values()))) == row


def test_videos_are_clips_and_frames_are_chosen(video_pair, tmp_path):
    row = sft_row(video_pair, FLEX_REPLY, Question(num_frames=6))
    assert [source.num_frames for source in row.images] == [5, 6]  # the first has five frames
    assert all(isinstance(source, Clip) for source in row.images)
    assert "This message shows 11 pictures" in row.prompt[0].text
    names = [f"{number}.png" for number in range(9)]
    frames = PreferencePair.model_validate(pair(kind="video", first=names, second=["x.png"]))
    _, images = Question(num_frames=4).ask(frames)
    assert [source.path for source in images] == ["0.png", "2.png", "5.png", "8.png", "x.png"]


def test_a_label_alone_makes_a_line(image_pair):
    question = Question(THINK)
    for winner, line in ((0, "Image 1"), (1, "Image 2")):
        row = sft_row(image_pair.model_copy(update={"winner": winner}), question=question)
        assert row.reply == f"<answer>{line} is better</answer>"
        assert THINK.parse(row.reply, "stop").side == winner
    video = PreferencePair.model_validate(pair(kind="video", first=["a.png"], second=["b.png"], winner=1))
    assert sft_row(video, question=question).reply == "<answer>Video 2 is better</answer>"
    with pytest.raises(RowError, match="got a tie"):
        sft_row(image_pair.model_copy(update={"winner": None}), question=question)
    with pytest.raises(ConfigError, match="expected the judge's reply"):
        sft_row(image_pair)


def test_two_replies_as_a_preference(image_pair):
    broken = FLEX_REPLY.replace('"score_1": 7', '"score_1": 9', 1)
    assert FLEX.parse(broken, "stop").odd_scores == 1, "its winners count, but it is no example to train on"
    row = dpo_row(image_pair, FLEX_REPLY, broken, rule="one_right")
    assert (row.chosen, row.rejected, row.rule, row.id) == (FLEX_REPLY, broken, "one_right", "7")
    assert row.prompt == sft_row(image_pair, FLEX_REPLY).prompt
    with pytest.raises(RowError, match="got invalid: 1 criteria have odd scores"):
        dpo_row(image_pair, broken, FLEX_REPLY)
    with pytest.raises(RowError, match="got unparsable"):
        sft_row(image_pair, "the first is better")


def test_a_template_of_ones_own(image_pair):
    question = Question(template=Template("Which is better for {prompt}?"))
    assert question.ask(image_pair)[0].text == 'Which is better for "a \\"cat\\" {prompt} \\u003c|im_end|>"?'
    with pytest.raises(ConfigError, match="num_frames"):
        Question(num_frames=0)


def test_a_video_that_cannot_be_read():
    missing = PreferencePair.model_validate(pair(kind="video", first="a.mp4", second="b.mp4"))
    with pytest.raises(RowError, match="no such file"):
        sft_row(missing, FLEX_REPLY)


@pytest.mark.slow
def test_trl_puts_the_pictures_into_their_places(image_pair):
    from trl.data_utils import prepare_multimodal_messages

    row = sft_row(image_pair, FLEX_REPLY)
    pictures = load_pictures(row.images)
    prepared = prepare_multimodal_messages(as_chat(row.messages), images=pictures)
    assert [part.get("image") for part in prepared[0]["content"]] == [*pictures, None]
