"""A scorer behind HTTP for the reward ``Remote``, in one file that needs numpy and Pillow alone.

Copy it into the environment of your scorer (HPSv3, VideoAlign, GenEval, VisionReward ...), write a function

    def score(prompt: str, samples: numpy.ndarray, metadata: dict) -> list[float | None] | dict

and start ``python reward_server.py mymodule:score --port 8100``. ``samples`` is uint8 ``[n, H, W, 3]`` for images and
``[n, F, H, W, 3]`` for videos; ``metadata`` holds what the prompt brings along, and ``fps`` of videos. Return a number
for each sample, None for one without a score; or a dict with ``scores`` and optionally ``terms`` (lists by name) and
``errors``. A function that raises answers with status 422 and its message. Without a function the server scores
brightness, 0 to 1, to try the connection.

It listens on this machine alone unless ``--host`` says otherwise; put a proxy with TLS before it on a shared network.
"""

import argparse
import base64
import binascii
import hmac
import importlib
import io
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

MAX_BODY_BYTES = 256 * 2**20
MAX_PIXELS = 2**24  # of one frame: 4096 x 4096
MAX_SECONDS = 60  # that a client may take to send its request


def brightness(prompt, samples, metadata):
    """Mean value of each sample, 0 to 1."""
    return (samples.reshape(len(samples), -1).mean(axis=1) / 255).tolist()


def read_request(body):
    """Prompt, samples and metadata of a request; ValueError where it is not of the agreed form."""
    told = json.loads(body)
    if not isinstance(told, dict) or not isinstance(told.get("prompt"), str):
        raise ValueError("expected an object with a text 'prompt'")
    frames = told.get("samples")
    if not isinstance(frames, list) or not frames or not all(isinstance(one, list) and one for one in frames):
        raise ValueError("expected 'samples', a list of lists of base64 PNG files")
    samples = np.stack([np.stack([read_frame(frame) for frame in one]) for one in frames])
    metadata = told.get("metadata") if isinstance(told.get("metadata"), dict) else {}
    if told.get("kind") == "image":
        return told["prompt"], samples[:, 0], metadata
    return told["prompt"], samples, {**metadata, "fps": told.get("fps")}


def read_frame(text):
    """A base64 PNG as uint8 ``[H, W, 3]``."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"a frame of {image.width} x {image.height} is too large")
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, TypeError, binascii.Error) as error:
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


class Handler(BaseHTTPRequestHandler):
    """Answers ``POST`` with scores and ``GET`` with the scorer's name."""

    protocol_version = "HTTP/1.1"
    timeout = MAX_SECONDS

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
        else:
            body = self.rfile.read(int(length))
            self.close_connection = False
            self.answer(*self.scored(body))

    def allowed(self):
        """Whether the client knows the key, where there is one."""
        given = self.headers.get("Authorization", "").encode("latin-1", "replace")
        return not self.server.key or hmac.compare_digest(given, f"Bearer {self.server.key}".encode())

    def scored(self, body):
        """Status and answer."""
        try:
            prompt, samples, metadata = read_request(body)
        except (ValueError, RecursionError) as error:
            return 400, {"error": str(error)}
        try:
            with self.server.lock:  # most scorers are not made for several threads
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
    options = parser.parse_args()
    score = brightness
    if options.scorer:
        sys.path.insert(0, os.getcwd())
        module, _, name = options.scorer.partition(":")
        score = getattr(importlib.import_module(module), name)
    server = ThreadingHTTPServer((options.host, options.port), Handler)
    server.score, server.name, server.lock = score, options.scorer or "brightness", threading.Lock()
    server.key = os.environ.get("REWARD_SERVER_KEY", "")
    print(f"serving {server.name} on http://{options.host}:{server.server_address[1]}/score", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
