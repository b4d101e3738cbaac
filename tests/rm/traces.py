"""Pairs to ask about, and replies of every kind."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from flexgym.data import PreferencePair
from flexgym.judge.backends.server import ServerBackend
from flexgym.rm.replies import ModelTeacher, oracle_text
from flexgym.shapes.captions import parse_caption
from flexgym.shapes.oracle import read_facts
from flexgym.shapes.sampling import draw_caption, draw_clip, draw_scene, draw_spec, wrong_spec
from flexgym.shapes.scenes import render, render_video
from tests.data.builders import write_images, write_lines
from tests.judge.backends.scripted_server import assessment


def write_pairs(folder, winners):
    """A file of pairs with the captions ``pair-0``, ``pair-1`` ... and these winners."""
    rows = []
    for number, winner in enumerate(winners):
        images = [f"{number}a.png", f"{number}b.png"]
        write_images(folder, *images)
        rows.append({"prompt": f"pair-{number}", "kind": "image", "winner": winner, "id": number})
        rows[-1] |= dict(zip(("first", "second"), images, strict=True))
    return write_lines(folder / "pairs.jsonl", rows)


def number_of(identity):
    return int(identity.removeprefix("pair-"))


def told(side, note="", *, sums=(10,) * 4):
    """An assessment with a personalized category; ``sums`` are what the scores of the four categories add up to."""
    data = json.loads(assessment("", 0, f"Image {side + 1}"))
    data["categories"].append(json.loads(json.dumps(data["categories"][0])) | {"name": "D. Counting"})
    for category, total in zip(data["categories"], sums, strict=True):
        for dim in category["dims"]:
            dim["score_2"] = total - dim["score_1"]
    return json.dumps(data | {"reason": note})


def server_teacher(server, name="judge"):
    return ModelTeacher(ServerBackend(server.url, max_attempts=1), name, one_by_one=True)


def rendered_pair(folder, seed, kind="image"):
    """A pair of the small world whose first candidate shows its caption and whose second does not, as PNG files."""
    rng = np.random.default_rng(seed)
    while True:
        spec = draw_spec(rng, kind, "training")
        caption = draw_caption(rng, spec)
        shown = [_render(rng, each, kind) for each in (spec, wrong_spec(rng, spec))]
        shares = [read_facts(caption, sample).share for sample in shown]
        if shares[0] == 1.0 > shares[1]:
            break
    sides = [[f"{seed}-{side}-{n}.png" for n in range(len(shown[side]) if kind == "video" else 1)] for side in (0, 1)]
    for names, sample in zip(sides, shown, strict=True):
        for name, frame in zip(names, sample if kind == "video" else [sample], strict=True):
            Image.fromarray(frame).save(folder / name)
    category = parse_caption(caption).category
    row = {"prompt": caption, "kind": kind, "winner": 0, "id": seed, "category": category}
    return row | {"first": sides[0], "second": sides[1]}


def _render(rng, spec, kind):
    return render(draw_scene(rng, spec)) if kind == "image" else render_video(draw_clip(rng, spec))


def placed(row, folder):
    """A row as a pair with absolute paths."""
    return PreferencePair.model_validate(row).with_files(
        lambda file: file.model_copy(update={"path": str(folder / file.path)})
    )


def truth_of(row, folder):
    """What the oracle says about a row, as JSON."""
    return json.loads(oracle_text(placed(row, folder)))
