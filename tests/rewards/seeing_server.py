"""A chat server on loopback whose answers depend on how bright the images of a request are."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from flexgym.types import Prompt, SampleGroup
from tests.judge.backends.scripted_server import ScriptedServer


def seeing_server(say, *, record=False):
    """A server that answers by ``say(brightness of each picture, text)``."""

    def answer(body, identity, serial):
        *pictures, text = body["messages"][0]["content"]
        urls = [picture["image_url"]["url"] for picture in pictures]
        means = [np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))).mean() for url in urls]
        return say(np.array(means), text["text"])

    return ScriptedServer(answer=answer, record=record)


def gray_group(*levels, caption="a grey wall", frames=None):
    """Gray images, or videos of so many frames each."""
    shape = (16, 16, 3) if frames is None else (frames, 16, 16, 3)
    return SampleGroup(Prompt(caption), np.stack([np.full(shape, level, np.uint8) for level in levels]))
