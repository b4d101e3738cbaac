from __future__ import annotations

import asyncio

from flexgym.judge.backends import picture_ids
from flexgym.judge.backends.base import Picture
from flexgym.judge.backends.picture_ids import HeldPictures

A, B, C = (Picture(b"", "image/png", name) for name in "abc")


class Sender:
    """Takes a moment for each picture, and fails for the first so many."""

    def __init__(self, refused=0):
        self.sent, self.refused = [], refused

    async def __call__(self, picture):
        self.sent.append(picture.id)
        await asyncio.sleep(0.01)
        self.refused -= 1
        return self.refused < 0


def together(held, send, *requests):
    async def run():
        return await asyncio.gather(*(held.upload(pictures, send) for pictures in requests))

    return asyncio.run(run())


def test_requests_under_way_at_once_send_a_picture_once():
    send = Sender()
    assert together(HeldPictures(), send, (A, B), (A, C), (B, C)) == [{"a", "b"}, {"a", "c"}, {"b", "c"}]
    assert sorted(send.sent) == ["a", "b", "c"]


def test_when_sending_fails_the_next_request_sends():
    send = Sender(refused=1)
    assert together(HeldPictures(), send, (A,), (A,), (A,)) == [set(), {"a"}, {"a"}]
    assert send.sent == ["a", "a"]


def test_what_was_dropped_is_sent_again():
    held, send = HeldPictures(), Sender()
    together(held, send, (A, B))
    held.forget({"a", "unknown"})
    together(held, send, (A, B))
    held.clear()
    together(held, send, (B,))
    assert send.sent == ["a", "b", "a", "b"]


def test_the_oldest_are_forgotten_first(monkeypatch):
    monkeypatch.setattr(picture_ids, "_IDS_KEPT", 2)
    held, send = HeldPictures(), Sender()
    for picture in (A, B, A, C, A, B):  # A stays in use, so C pushes B out
        together(held, send, (picture,))
    assert send.sent == ["a", "b", "c", "b"]
