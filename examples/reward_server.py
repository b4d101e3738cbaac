"""A scorer behind HTTP for the reward ``Remote``, in one file that needs numpy and Pillow alone.

Copy it into the environment of your scorer (HPSv3, VideoAlign, GenEval, VisionReward ...), write a function

    def score(prompt: str, samples: numpy.ndarray, metadata: dict) -> list[float | None] | dict

and start ``python reward_server.py mymodule:score --port 8100``. ``samples`` is uint8 ``[n, H, W, 3]`` for images and
``[n, F, H, W, 3]`` for videos; ``metadata`` holds what the prompt brings along, and ``fps`` of videos. Return a number
for each sample, None for one without a score; or a dict with ``scores`` and optionally ``terms`` (lists by name) and
``errors``. A function that raises answers with status 422 and its message. Without a function the server scores
brightness, 0 to 1, to try the connection.

It listens on this machine alone unless ``--host`` says otherwise; put a proxy with TLS before it on a shared network.
Requests are bounded: bytes and pixels (``--max-pixels``) of each, bytes of all that arrive at a time, and seconds that
one may take to arrive. What exceeds them is rejected before it is decoded.
"""

import argparse
import base64
import binascii
import contextlib
import hmac
import importlib
import io
import json
import os
import socket
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

MAX_BODY_BYTES = 256 * 2**20  # of one request, and of all that are arriving
MAX_PIXELS = 2**26  # of all frames of a request, 3 bytes each
MAX_FRAMES = 4096
MAX_DEPTH = 32
MAX_SECONDS = 60  # that a client may take to send its request


def brightness(prompt, samples, metadata):
    """Mean value of each sample, 0 to 1."""
    return (samples.reshape(len(samples), -1).mean(axis=1) / 255).tolist()


def read_request(body, max_pixels=MAX_PIXELS):
    """Prompt, samples and metadata of a request; ValueError where it is not of the agreed form or too large."""
    told = read_json(body)
    if not isinstance(told, dict) or not isinstance(told.get("prompt"), str):
        raise ValueError("expected an object with a text 'prompt'")
    frames = told.get("samples")
    if not isinstance(frames, list) or not frames or not all(isinstance(one, list) and one for one in frames):
        raise ValueError("expected 'samples', a list of lists of base64 PNG files")
    samples = read_samples(frames, max_pixels)
    metadata = told.get("metadata") if isinstance(told.get("metadata"), dict) else {}
    if told.get("kind") == "image":
        return told["prompt"], samples[:, 0], metadata
    return told["prompt"], samples, {**metadata, "fps": told.get("fps")}


def read_json(body):
    """A JSON document; ValueError where it is none, or nested too deep."""
    try:
        value = json.loads(body)
    except RecursionError:
        raise ValueError(f"expected at most {MAX_DEPTH} levels of nesting") from None
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for each in level if isinstance(each, (dict, list)) for inner in parts(each)]
    if any(isinstance(each, (dict, list)) for each in level):
        raise ValueError(f"expected at most {MAX_DEPTH} levels of nesting")
    return value


def parts(value):
    """What a list or an object holds."""
    return value.values() if isinstance(value, dict) else value


def read_samples(frames, max_pixels):
    """Frames as uint8 ``[n, F, H, W, 3]``; the headers of all are read before the first is decoded."""
    count, length = len(frames), len(frames[0])
    if count * length > MAX_FRAMES:
        raise ValueError(f"expected at most {MAX_FRAMES} frames, got {count * length}")
    if any(len(one) != length for one in frames):
        raise ValueError("expected the same number of frames in all samples")
    width, height = frame_size(frames[0][0])
    if count * length * width * height > max_pixels:
        size = f"{count} samples of {length} frames of {width} x {height} pixels"
        raise ValueError(f"expected at most {max_pixels} pixels, got {size}; --max-pixels raises the limit")
    if any(frame_size(frame) != (width, height) for one in frames for frame in one):
        raise ValueError(f"expected frames of the same size, {width} x {height}")
    samples = np.empty((count, length, height, width, 3), np.uint8)
    for index, one in enumerate(frames):
        for at, frame in enumerate(one):
            samples[index, at] = opened(frame, lambda image: np.asarray(image.convert("RGB")))
    return samples


def frame_size(frame):
    """Width and height of a base64 PNG, from its header."""
    return opened(frame, lambda image: image.size)


def opened(frame, use):
    """What ``use`` makes of a base64 PNG."""
    try:
        data = base64.b64decode(frame, validate=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the pixels are counted here
            with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                return use(image)
    except (OSError, SyntaxError, TypeError, binascii.Error, Image.DecompressionBombError) as error:
        raise ValueError(f"a frame is no base64 PNG: {error}") from None


def as_reply(scores):
    """What a function returned, as the JSON of a reply."""
    told = scores if isinstance(scores, dict) else {"scores": scores}
    return {
        "scores": [finite(score) for score in told["scores"]],
        "terms": {str(name): [finite(value) for value in values] for name, values in told.get("terms", {}).items()},
        "errors": list(told.get("errors", [])),
    }


def finite(value):
    """A number, or None for none: JSON knows neither NaN nor infinity."""
    return float(value) if value is not None and np.isfinite(value) else None


class Budget:
    """A number that requests share."""

    def __init__(self, total):
        self.left, self.lock = total, threading.Lock()

    def take(self, amount):
        """Take an amount; False where less is left."""
        with self.lock:
            if amount > self.left:
                return False
            self.left -= amount
            return True

    def give_back(self, amount):
        """Give an amount back."""
        with self.lock:
            self.left += amount


class Handler(BaseHTTPRequestHandler):
    """Answers ``POST`` with scores and ``GET`` with the scorer's name."""

    protocol_version = "HTTP/1.1"
    timeout = MAX_SECONDS

    def handle_one_request(self):
        """Handle a request, which must have arrived in time as a whole, however slowly its bytes come."""
        self.deadline = threading.Timer(self.server.seconds, self.hang_up)
        self.deadline.daemon = True
        self.deadline.start()
        try:
            super().handle_one_request()
        finally:
            self.deadline.cancel()

    def hang_up(self):
        """Cut the connection; what waits for its bytes then ends."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self):
        """Say that the server is there."""
        self.answer(200, {"scorer": self.server.name})

    def do_POST(self):
        """Score a group."""
        length = self.headers.get("Content-Length", "")
        self.close_connection = True  # whatever is not read must not be taken for the next request
        if not self.allowed():
            self.answer(401, {"error": "expected the server's key as a bearer token"})
        elif not (length.isascii() and length.isdigit()):
            self.answer(411, {"error": "expected Content-Length"})
        elif int(length) > MAX_BODY_BYTES:
            self.answer(413, {"error": f"expected at most {MAX_BODY_BYTES} bytes"})
        elif not self.server.arriving.take(int(length)):
            self.answer(503, {"error": "too many bytes are arriving"})
        else:
            try:
                body = self.rfile.read(int(length))
                self.deadline.cancel()
                if len(body) == int(length):
                    self.close_connection = False
                    self.answer(*self.scored(body))
            finally:
                self.server.arriving.give_back(int(length))

    def allowed(self):
        """Whether the client knows the key, where there is one."""
        given = self.headers.get("Authorization", "").encode("latin-1", "replace")
        return not self.server.key or hmac.compare_digest(given, f"Bearer {self.server.key}".encode())

    def scored(self, body):
        """Status and answer."""
        try:
            with self.server.lock:  # most scorers are not made for several threads; one request is decoded at a time
                try:
                    prompt, samples, metadata = read_request(body, self.server.max_pixels)
                except ValueError as error:
                    return 400, {"error": str(error)[:500]}
                return 200, as_reply(self.server.score(prompt, samples, metadata))
        except Exception as error:  # noqa: BLE001  (a scorer may raise anything)
            return 422, {"error": f"{type(error).__name__}: {error}"[:500]}

    def answer(self, status, told):
        """Send JSON."""
        data = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format, *arguments):
        """Keep quiet about requests."""


def main():
    """Load the function and serve it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scorer", nargs="?", default="", help="mymodule:function; brightness by default")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8100, help="0 takes a free one")
    parser.add_argument("--max-pixels", type=int, default=MAX_PIXELS, help="of all frames of a request")
    parser.add_argument("--max-seconds", type=float, default=MAX_SECONDS, help="that a request may take to arrive")
    options = parser.parse_args()
    score = brightness
    if options.scorer:
        sys.path.insert(0, os.getcwd())
        module, _, name = options.scorer.partition(":")
        score = getattr(importlib.import_module(module), name)
    server = ThreadingHTTPServer((options.host, options.port), Handler)
    server.score, server.name, server.lock = score, options.scorer or "brightness", threading.Lock()
    server.arriving = Budget(MAX_BODY_BYTES)
    server.max_pixels, server.seconds = options.max_pixels, options.max_seconds
    server.key = os.environ.get("REWARD_SERVER_KEY", "")
    print(f"serving {server.name} on http://{options.host}:{server.server_address[1]}/score", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
