"""Small data files and media, made where they are needed."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from flexgym.core.media import encode_mp4
from flexgym.data import ReadOptions

QUICK = ReadOptions(check="none")
"""For tests of rows whose media do not exist."""

FLEX_REPLY = json.dumps(
    {
        "prompt": "a cat",
        "categories": [
            {
                "name": name,
                "dims": [{"name": "d", "reason_1": "r", "reason_2": "s", "score_1": 7, "score_2": 3}],
                "cat_reason": "c",
                "cat_winner": "Image 1",
            }
            for name in (
                "A. Semantic Alignment & Accuracy",
                "B. Image Quality & Realism",
                "C. Aesthetics & Artistry",
            )
        ],
        "reason": "r",
        "winner": "Image 1",
    }
)

THINK_REPLY = (
    "<think>\n1. Semantic consistency:\n Image 1 (8/10) - a;\n Image 2 (4/10) - b\n</think>\n"
    "<answer>Image 1 is better</answer>"
)


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def image_bytes(seed=0, size=(24, 16), kind="JPEG"):
    buffer = io.BytesIO()
    Image.fromarray(noise(seed, size[1], size[0], 3)).save(buffer, kind)
    return buffer.getvalue()


def write_images(folder, *names):
    """A different image under every name, JPEG or PNG by its ending."""
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(seed, kind="PNG" if name.endswith(".png") else "JPEG"))


def write_video(path, num_frames=5, level=0):
    """Gray frames, each brighter than the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [np.full((32, 32, 3), level + 20 * number, np.uint8) for number in range(num_frames)]
    path.write_bytes(encode_mp4(np.stack(frames)))


def write_lines(path, rows):
    """Write rows as JSON Lines; text and bytes are written unchanged."""
    with path.open("wb") as file:
        for row in rows:
            if isinstance(row, str):
                row = row.encode()
            file.write((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n")
    return path


def write_parquet(path, rows, **settings):
    pq.write_table(pa.Table.from_pylist(rows), path, **settings)
    return path


def pair(**changes):
    row = {"prompt": "a cat", "kind": "image", "first": "a.png", "second": "b.png", "winner": 0} | changes
    return {key: value for key, value in row.items() if value != "DROP"}


def sft(**changes):
    messages = [{"role": "user", "content": "which?"}, {"role": "assistant", "content": "the first"}]
    return {"messages": messages, "images": ["a.png", "b.png"]} | changes


def dpo(**changes):
    prompt = [{"role": "user", "content": "which?"}]
    return {"prompt": prompt, "chosen": "the first", "rejected": "the second", "images": ["a.png", "b.png"]} | changes
