from __future__ import annotations

import numpy as np
import pytest

from flexgym.core.errors import ConfigError
from flexgym.core.grids import BAD, GOOD, PAPER, GridRow, draw_grid, draw_group

COLORS = [(200, 30, 30), (30, 160, 60), (40, 70, 200), (230, 200, 40)]
RED = (230, 10, 10)


def solid(*colors: tuple[int, int, int], edge: int = 4) -> np.ndarray:
    return np.stack([np.full((edge, edge, 3), color, np.uint8) for color in colors])


def count(image: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((image == np.array(color, np.uint8)).all(-1).sum())


def test_samples_are_enlarged_without_smoothing() -> None:
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    grid = draw_grid([GridRow("", samples)], tile=12)
    # margin 14, frame 3: the first sample starts at (17, 17); 12 // 5 = 2 pixels per pixel
    assert np.array_equal(grid[17:27, 17:25], samples[0].repeat(2, 0).repeat(2, 1))
    assert np.array_equal(grid[17:27, 17 + 8 + 6 + 10 :][:, :8], samples[1].repeat(2, 0).repeat(2, 1))


def test_marks_color_the_frames() -> None:
    samples = solid((0, 0, 255), (0, 0, 255), (0, 0, 255))
    grid = draw_grid([GridRow("", samples, marks=(True, False, None))], tile=8)
    frame = 14 * 14 - 8 * 8
    assert count(grid, GOOD) == frame
    assert count(grid, BAD) == frame
    assert count(grid, (0, 0, 255)) == 3 * 64


def test_captions_and_labels_take_room_and_ink() -> None:
    samples = solid((9, 9, 200), (9, 9, 200), edge=64)
    bare = draw_grid([GridRow("", samples)])
    labeled = draw_grid([GridRow("two blue squares", samples, labels=("0.25", "1.00"))], title="base")
    assert labeled.shape[1] == bare.shape[1]
    assert labeled.shape[0] > bare.shape[0] + 30
    assert (labeled < 100).all(-1).sum() > 50


def test_rows_can_stand_side_by_side() -> None:
    rows = [GridRow("one" if index else "a caption of two lines", solid(RED, edge=64)) for index in range(5)]
    grid = draw_grid(rows, columns=3)
    block, frame = 128 + 6, 128 + 6
    # two bands of three and two; captions of two lines and of one; between the bands one gap
    assert grid.shape == (28 + (2 + 1) * 22 + 2 * frame + 10, 28 + 3 * block + 2 * 18, 3)
    assert count(grid, RED) == 5 * 128 * 128
    assert count(grid[:, : 14 + block], RED) == 2 * 128 * 128


def test_a_long_caption_wraps_and_ends_in_dots_within_the_page() -> None:
    samples = solid((9, 9, 200), edge=64)
    short = draw_grid([GridRow("word", samples)])
    long = draw_grid([GridRow("word " * 200, samples)])
    unbroken = draw_grid([GridRow("w" * 400, samples)])
    assert long.shape[0] == short.shape[0] + 2 * 22
    for grid in (long, unbroken):
        assert grid.shape[1] == short.shape[1]
        assert (grid[:, -10:] == 255).all()


def test_large_samples_are_reduced() -> None:
    grid = draw_grid([GridRow("", np.zeros((1, 720, 1280, 3), np.uint8))])
    assert grid.shape[:2] == (288 + 6 + 28, 512 + 6 + 28)


def test_videos_become_frames_and_a_short_one_holds_its_last_frame() -> None:
    long = np.stack([np.full((4, 4, 3), 10 * frame, np.uint8) for frame in range(5)])[None]
    short = np.stack([np.full((4, 4, 3), 200 + frame, np.uint8) for frame in range(2)])[None]
    grid = draw_grid([GridRow("", long), GridRow("", short)], tile=4)
    assert grid.shape[0] == 5
    assert [count(frame, (40, 40, 40)) for frame in grid] == [0, 0, 0, 0, 16]
    assert [count(frame, (201, 201, 201)) for frame in grid] == [0, 16, 16, 16, 16]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "at least one row"),
        ([GridRow("a", np.zeros((2, 4, 4, 3), np.float32))], "got float32"),
        ([GridRow("a", np.zeros((4, 4, 3), np.uint8))], r"got uint8 \[4, 4, 3\]"),
        ([GridRow("a", solid(RED)), GridRow("b", solid(RED, edge=5))], "rows differ in form"),
        ([GridRow("a", solid(RED), labels=("x", "y"))], "expected 1 labels for 'a', got 2"),
        ([GridRow("a", solid(RED, RED), marks=(True,))], "expected 2 marks for 'a', got 1"),
    ],
)
def test_bad_grids_are_rejected(rows: list[GridRow], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        draw_grid(rows)


def test_no_columns_are_rejected() -> None:
    with pytest.raises(ConfigError, match="at least 1 column, got 0"):
        draw_grid([GridRow("a", solid(RED))], columns=0)


def group(number: int = 4, size: int = 32) -> np.ndarray:
    return solid(*(COLORS[index % 4] for index in range(number)), edge=size)


def test_small_images_of_a_group_are_enlarged_by_whole_pixels():
    image = draw_group(group(), "four squares")
    assert [count(image, color) for color in COLORS] == [128 * 128] * 4


def test_large_images_of_a_group_are_reduced():
    assert draw_group(group(2, 1024), "large").shape[1] < 900


@pytest.mark.parametrize(("number", "columns"), [(2, 2), (4, 2), (6, 3), (8, 4), (9, 3), (12, 4), (16, 4)])
def test_groups_have_no_empty_places(number, columns):
    assert draw_group(group(number), "x").shape[1] == 2 * 16 + columns * 128 + (columns - 1) * 12


def test_title_index_and_reward_are_written():
    bare, titled = (draw_group(group(), title) for title in ("", "a red cube"))
    scored = draw_group(group(), "a red cube", np.array([0.25, 0.5, np.nan, 0.125], np.float32))
    assert bare.shape == titled.shape == scored.shape
    assert (bare != titled).any(axis=-1)[: 16 + 56].sum() > 100
    assert (scored != titled).any()
    assert count(scored, GOOD) > 128 * 4 > count(titled, GOOD) == 0


def test_groups_with_other_prompts_have_one_size():
    long = draw_group(group(2), "a very long prompt " * 60)
    assert long.shape == draw_group(group(2), "x").shape
    assert tuple(long[0, 0]) == PAPER


def test_equal_or_missing_rewards_mark_nothing():
    for rewards in (np.full(4, 0.5, np.float32), np.full(4, np.nan, np.float32)):
        assert count(draw_group(group(), "x", rewards), GOOD) == 0


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (2, 3, 4, 4, 3), (4, 4, 3)])
def test_other_shapes_are_no_group(shape):
    with pytest.raises(ConfigError, match=r"group: expected samples uint8 \[G, H, W, 3\]"):
        draw_group(np.zeros(shape, np.uint8), "x")
