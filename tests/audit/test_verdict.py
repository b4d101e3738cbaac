import ast
import itertools
from pathlib import Path

import numpy as np
import pytest

import flexgym.audit
from flexgym.audit import audit, shown
from tests.audit.drawings import drawing, moving, video

RED, BLUE = ("red", "circle", 8, 16, 4.5), ("blue", "square", 24, 16, 4.2)
PAIR = "a red circle and a blue square"


def failed(caption, sample):
    return [name for name, held in audit(caption, sample).constraints.items() if not held]


def test_a_verdict_names_what_is_missing():
    verdict = audit(PAIR, drawing(RED, BLUE))
    assert verdict.satisfied
    assert verdict.score == 1.0
    verdict = audit(PAIR, drawing(RED))
    assert verdict.constraints == {"a red circle": True, "a blue square": False, "nothing else": False}
    assert not verdict.satisfied
    assert verdict.score == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("caption", "things", "off"),
    [
        (PAIR, [RED, BLUE, ("green", "ring", 16, 27, 3.4)], ["nothing else"]),
        (PAIR, [RED, ("green", "square", 24, 16, 4.2)], ["a blue square"]),
        (PAIR, [RED, ("blue", "cross", 24, 16, 4.2)], ["a blue square"]),
        ("a circle and a square", [RED, BLUE], []),
        ("two red circles", [RED, ("red", "circle", 24, 16, 4.5)], []),
        ("three red circles", [RED, ("red", "circle", 24, 16, 4.5)], ["three red circle", "nothing else"]),
        ("a red circle and no blue square", [RED], []),
        ("a red circle without a blue square", [RED, BLUE], ["nothing else", "no blue square"]),
        ("a red circle left of a blue square", [RED, BLUE], []),
        ("a blue square to the right of a red circle", [RED, BLUE], []),
        ("a red circle above a blue square", [RED, BLUE], ["above"]),
        ("a blue square with a red circle to the left of it", [RED, BLUE], []),
        ("a small red circle", [("red", "circle", 16, 16, 3.7)], []),
        ("a small red circle", [("red", "circle", 16, 16, 5.5)], ["a small red circle"]),
        ("a large red circle", [("red", "circle", 16, 16, 8.0)], []),
        ("a red circle", [("red", "circle", 16, 16, 8.0)], []),
    ],
)
def test_images(caption, things, off):
    assert failed(caption, drawing(*things)) == off


def test_between_depends_on_the_order_of_the_things():
    image = drawing(("red", "circle", 5, 6, 3.2), ("blue", "square", 16, 17, 3), ("black", "ring", 27, 27, 3.5))
    assert failed("a blue square between a red circle and a black ring", image) == []
    assert failed("a red circle between a blue square and a black ring", image) == ["between"]


LEFT = video(*([thing] for thing in moving("red", "circle", start=(23, 16), end=(9, 16))))
SLOW = video(*([thing] for thing in moving("red", "circle", start=(20, 16), end=(12, 16))))
TURN = moving("blue", "square", start=(24, 24), end=(24, 24))
STANDING = video(*zip(moving("red", "circle", start=(23, 8), end=(9, 8)), TURN, strict=True))
PASSING = video(*zip(moving("red", "circle", start=(7, 8), end=(26, 8)), [(*BLUE[:2], 16, 24, 4)] * 9, strict=True))
ORDER = video(*([RED] if frame < 4 else [RED, BLUE] for frame in range(9)))
GROWING = video(*([("red", "ring", 16, 16, 4.0 + frame / 2)] for frame in range(9)))
BOUNCING = video(*([("red", "bar", 16, 24 - 16 * (frame / 4 - 1) ** 2, 6)] for frame in range(9)))


@pytest.mark.parametrize(
    ("caption", "sample", "off"),
    [
        ("a red circle moving left", LEFT, []),
        ("a red circle moving left", LEFT[::-1], ["left"]),
        ("a red circle moving up", LEFT, ["up"]),
        ("a circle moving left slowly", LEFT, ["slowly"]),
        ("a circle moving left slowly", SLOW, []),
        ("a red circle moving left", SLOW, []),
        ("a red circle moving left while a blue square stands still", STANDING, []),
        ("a blue square moving left while a red circle stands still", STANDING, ["left", "standing still"]),
        ("a red circle moving left", STANDING, ["nothing else"]),
        ("a red circle passing a blue square", PASSING, []),
        ("a blue square passing a red circle", PASSING, ["passing", "standing still"]),
        ("a red circle passing a blue square", STANDING, ["passing"]),
        ("a red circle appears before a blue square", ORDER, []),
        ("a blue square appears before a red circle", ORDER, ["before"]),
        ("a red circle appears before a blue square", ORDER[[8] * 9], ["before"]),
        ("a red ring growing", GROWING, []),
        ("a red ring shrinking", GROWING, ["shrinking"]),
        ("a red ring shrinking", GROWING[::-1], []),
        ("a red bar bouncing", BOUNCING, []),
        ("a red bar bouncing", BOUNCING[[0] * 9], ["bouncing"]),
        ("a red circle moving left", LEFT[[0, 2, 4, 6, 8, 6, 4, 2, 0]], ["left"]),
        ("a red circle moving left", np.concatenate([LEFT[[0, 3, 6, 8]], video(*[[]] * 5)]), ["constant"]),
    ],
)
def test_videos(caption, sample, off):
    assert failed(caption, sample) == off


def test_a_thing_that_changes_its_color_is_not_constant():
    frames = moving("red", "circle", start=(23, 16), end=(9, 16))
    other = moving("purple", "circle", start=(23, 16), end=(9, 16))
    sample = video(*([thing] for thing in (*frames[:5], *other[5:])))
    assert failed("a red circle moving left", sample) == ["constant"]


@pytest.mark.parametrize(
    ("sample", "names"),
    [
        (drawing(RED, BLUE), {"blue square + red circle"}),
        (
            drawing(RED, BLUE, ("red", "circle", 16, 5, 3.5), ("green", "cross", 16, 27, 3.5)),
            {"blue square + red circle", "blue square + green cross", "green cross + red circle"},
        ),
        (drawing(RED, ("red", "circle", 24, 16, 4)), {"2 x red circle"}),
        (drawing(("red", "circle", 16, 16, 3.7)), {"small red circle"}),
        (drawing(("red", "circle", 16, 16, 8)), {"large red circle"}),
        (drawing(("red", "circle", 16, 16, 5.5)), set()),
        (drawing(), set()),
        (LEFT, {"left: red circle"}),
        (SLOW, {"left slowly: red circle"}),
        (GROWING, {"growing: red ring"}),
        (BOUNCING, {"bouncing: red bar"}),
        (PASSING, {"blue square + red circle"}),
        (ORDER, {"blue square + red circle"}),
        (LEFT[[0] * 9], set()),
    ],
)
def test_names_of_what_is_shown(sample, names):
    assert shown(sample) == names


def test_a_sample_of_the_other_modality_or_type_is_rejected():
    with pytest.raises(ValueError, match="expected a video for a caption of a motion, got 1 frames"):
        audit("a red circle moving left", drawing(RED))
    with pytest.raises(ValueError, match="expected an image for a caption without a motion, got 9 frames"):
        audit(PAIR, LEFT)
    with pytest.raises(ValueError, match=r"expected uint8 \[H, W, 3\].*got float64 \[32, 32, 3\]"):
        shown(np.zeros((32, 32, 3)))


def test_no_module_imports_what_it_verifies():
    for path in Path(flexgym.audit.__file__).parent.glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        imported = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        imported += list(
            itertools.chain(*([name.name for name in node.names] for node in nodes if isinstance(node, ast.Import)))
        )
        assert {name.split(".")[1] for name in imported if name.startswith("flexgym.")} <= {"audit", "core", "types"}
