"""A chat server on loopback that misbehaves by a script, in a thread or (``python -m``) in a process of its own.

What it does to a request depends on the seed, on the request's identity (``pair-17`` in its text) and on how often that
one came before, so it does not depend on the order in which requests arrive.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import json
import random
import re
import sys
import threading
from dataclasses import dataclass

NAMES = ("A. Semantic Alignment & Accuracy", "B. Image Quality & Realism", "C. Aesthetics & Artistry")
_IDENTITY = re.compile(rb"pair-\d+")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Script:
    """Shares of requests that meet each fault; the rest gets a good answer."""

    drop: float = 0.0  # the connection is cut before an answer
    busy: float = 0.0  # 429 with Retry-After
    broken: float = 0.0  # 500
    stall: float = 0.0  # no answer, ever
    truncated: float = 0.0  # the connection is cut within the body
    garbage: float = 0.0  # 200 with something that is no chat completion
    cut_off: float = 0.0  # finish_reason "length"
    rejected: float = 0.0  # 400
    reset: float = 0.0  # the connection is reset before an answer
    unavailable: float = 0.0  # 503 with Retry-After
    slow: float = 0.0  # a good answer that drips, so that later ones overtake it
    duplicate: float = 0.0  # a good answer that is sent twice
    foreign: float = 0.0  # a good answer with an unasked answer to somebody else before its end of connection
    garbled: float = 0.0  # bytes that are no HTTP
    seed: int = 0
    retry_after: str = "0"
    delay_s: float = 0.0
    drip_s: float = 0.02
    die_every: int = 0  # after so many requests all connections are cut and the port is closed for a while
    down_s: float = 0.5


FAULTS = ("drop", "busy", "broken", "stall", "truncated", "garbage", "cut_off", "rejected",
          "reset", "unavailable", "slow", "duplicate", "foreign", "garbled")  # fmt: skip
GOOD = ("good", "slow", "duplicate", "foreign")


def assessment(identity, serial, winner="Image 1"):
    """A clean reply that carries whose it is (``prompt``) and the number of this good answer (``reason``)."""
    dims = [{"name": name, "reason_1": "", "reason_2": "", "score_1": 7, "score_2": 3} for name in ("a", "b", "c")]
    categories = [{"name": name, "dims": dims, "cat_reason": "", "cat_winner": winner} for name in NAMES]
    return json.dumps({"prompt": identity, "categories": categories, "reason": str(serial), "winner": winner})


def identity_of(body):
    found = _IDENTITY.search(body)
    return found[0].decode() if found else "nobody"


class ScriptedServer:
    """``with ScriptedServer(Script(...)) as server: ... server.url``.

    Args:
        answer: ``(parsed body, identity, serial) -> text``; by default `assessment`, without parsing the body.
        models: what ``/v1/models`` lists.
        api_key: demanded when given.
        record: keep the parsed bodies in `bodies`.
    """

    def __init__(self, script=None, *, answer=None, models=("judge",), api_key=None, record=False):
        self.script = script or Script()
        self.answer, self.models, self.api_key, self.record = answer, models, api_key, record
        self.port = 0
        self.chats = self.good = self.deaths = self.in_flight = self.peak = 0
        self.fates = {}  # identity -> what was done to its latest request
        self.bodies = []
        self._seen = collections.Counter()
        self._writers = set()
        self._listening = None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Listen, on the port of the last time."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    def stop(self):
        """Go as a killed process goes: all connections cut, the port closed."""
        asyncio.run_coroutine_threadsafe(self._vanish(), self._loop).result()

    async def _listen(self):
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=2**22, backlog=512)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def _vanish(self):
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        for writer in list(self._writers):
            writer.transport.abort()

    async def _die(self):
        self.deaths += 1
        await self._vanish()
        await asyncio.sleep(self.script.down_s)
        await self._listen()

    async def _serve(self, reader, writer):
        self._writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1])) if length else b""
                if not await self._react(head, body, reader, writer):
                    break
                await writer.drain()
        self._writers.discard(writer)
        writer.close()

    async def _react(self, head, body, reader, writer):
        """Answer one request; False ends the connection."""
        if self.api_key and f"bearer {self.api_key}".encode() not in head.lower():
            _respond(writer, 401, b'{"error": "who are you"}')
        elif head.startswith(b"GET /v1/models "):
            _respond(writer, 200, json.dumps({"data": [{"id": name} for name in self.models]}).encode())
        elif head.startswith(b"POST /v1/chat/completions "):
            self.in_flight += 1
            self.peak = max(self.peak, self.in_flight)
            try:
                return await self._chat(body, reader, writer)
            finally:
                self.in_flight -= 1
        else:
            _respond(writer, 404, b'{"error": "no such place"}')
        return True

    async def _chat(self, body, reader, writer):
        identity = identity_of(body)
        self.chats += 1
        if self.script.die_every and self.chats % self.script.die_every == 0:
            self._death = asyncio.ensure_future(self._die())
            return False
        if self.script.delay_s:
            await asyncio.sleep(self.script.delay_s)
        if self.record:
            self.bodies.append(json.loads(body))
        fault = self._fault(identity)
        self.fates[identity] = fault
        return await self._misbehave(fault, body, reader, writer)

    def _fault(self, identity):
        attempt = self._seen[identity]
        self._seen[identity] += 1
        shares = [getattr(self.script, fault) for fault in FAULTS]
        draw = random.Random(f"{self.script.seed}/{identity}/{attempt}")
        return draw.choices([*FAULTS, "good"], [*shares, 1.0 - sum(shares)])[0]

    async def _misbehave(self, fault, body, reader, writer):
        if fault == "drop":
            return False
        if fault == "stall":
            await reader.read(1)  # until the other side hangs up
            return False
        if fault == "busy":
            _respond(writer, 429, b'{"error": "slow down"}', f"Retry-After: {self.script.retry_after}\r\n")
        elif fault == "broken":
            _respond(writer, 500, b"out of memory")
        elif fault == "rejected":
            _respond(writer, 400, b'{"error": {"message": "The image cannot be read."}}')
        elif fault == "garbage":
            _respond(writer, 200, b'{"choices": [{"message": "\xff')
        elif fault == "truncated":
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{"choices": [')
            return False
        elif fault == "reset":
            writer.transport.abort()
            return False
        elif fault == "unavailable":
            _respond(writer, 503, b'{"error": "loading"}', f"Retry-After: {self.script.retry_after}\r\n")
        elif fault == "garbled":
            writer.write(b"\x00\xffHTTP 200 fine\r\n\r\n")
            return False
        elif fault == "slow":
            await self._drip(_response(200, self._completion(body, fault)), writer)
        else:
            answer = _response(200, self._completion(body, fault))
            foreign = _response(200, _chat_completion(assessment("pair-of-nobody", "0")))
            writer.write(answer + {"duplicate": answer, "foreign": foreign}.get(fault, b""))
        return True

    async def _drip(self, answer, writer):
        step = -(-len(answer) // 5)
        for start in range(0, len(answer), step):
            writer.write(answer[start : start + step])
            await writer.drain()
            await asyncio.sleep(self.script.drip_s)

    def _completion(self, body, fault):
        identity = identity_of(body)
        if fault in GOOD:
            self.good += 1
        text = self.answer(json.loads(body), identity, self.good) if self.answer else assessment(identity, self.good)
        cut = fault == "cut_off"
        return _chat_completion(text[: len(text) // 2] if cut else text, "length" if cut else "stop")


def _chat_completion(text, finish_reason="stop"):
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 40}}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()


def _response(status, body, more=""):
    head = f"HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def _respond(writer, status, body, more=""):
    writer.write(_response(status, body, more))


def main():
    """Serve until the standard input ends; the port goes out first, at the end what was counted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("script", type=json.loads)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    server = ScriptedServer(Script(**options.script))
    server.port = options.port
    with server:
        sys.stdout.write(f"{server.port}\n")
        sys.stdout.flush()
        sys.stdin.read()
        counted = {"good": server.good, "chats": server.chats, "deaths": server.deaths, "fates": server.fates}
        sys.stdout.write(json.dumps(counted) + "\n")


def script_json(script):
    return json.dumps(dataclasses.asdict(script))


if __name__ == "__main__":
    main()
