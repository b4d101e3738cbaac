from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from flexgym.core.errors import ConfigError
from flexgym.core.media import GridRow, draw_grid, encode_gif, encode_mp4, save_gif, save_mp4, save_png

RED, GREEN = (208, 58, 52), (22, 150, 84)


def solid(*colours: tuple[int, int, int], edge: int = 4) -> np.ndarray:
    return np.stack([np.full((edge, edge, 3), colour, np.uint8) for colour in colours])


def count(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((image == np.array(colour, np.uint8)).all(-1).sum())


def test_samples_are_enlarged_without_smoothing() -> None:
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    grid = draw_grid([GridRow("", samples)], tile=12)
    # margin 14, frame 3: the first sample starts at (17, 17); 12 // 5 = 2 pixels per pixel
    assert np.array_equal(grid[17:27, 17:25], samples[0].repeat(2, 0).repeat(2, 1))
    assert np.array_equal(grid[17:27, 17 + 8 + 6 + 10 :][:, :8], samples[1].repeat(2, 0).repeat(2, 1))


def test_marks_colour_the_frames() -> None:
    samples = solid((0, 0, 255), (0, 0, 255), (0, 0, 255))
    grid = draw_grid([GridRow("", samples, marks=(True, False, None))], tile=8)
    frame = 14 * 14 - 8 * 8
    assert count(grid, GREEN) == frame
    assert count(grid, RED) == frame
    assert count(grid, (0, 0, 255)) == 3 * 64


def test_captions_and_labels_take_room_and_ink() -> None:
    samples = solid((9, 9, 200), (9, 9, 200), edge=64)
    bare = draw_grid([GridRow("", samples)])
    labelled = draw_grid([GridRow("two blue squares", samples, labels=("0.25", "1.00"))], title="base")
    assert labelled.shape[1] == bare.shape[1]
    assert labelled.shape[0] > bare.shape[0] + 30
    assert (labelled < 100).all(-1).sum() > 50


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


def test_videos_become_frames_and_a_short_one_rests() -> None:
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
def test_bad_grids_are_refused(rows: list[GridRow], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        draw_grid(rows)


def test_no_columns_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 column, got 0"):
        draw_grid([GridRow("a", solid(RED))], columns=0)


def test_png_keeps_every_pixel(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    path = save_png(tmp_path / "new" / "grid.png", image)
    assert np.array_equal(np.asarray(Image.open(path)), image)
    with pytest.raises(ConfigError, match=r"image: expected uint8 \[H, W, 3\]"):
        save_png(tmp_path / "other.png", image[None])
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["grid.png"]


def test_gif_keeps_few_colours_exactly(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 6, (4, 8, 10, 3), dtype=np.uint8) * 40
    with Image.open(save_gif(tmp_path / "a.gif", frames, fps=10)) as film:
        assert film.n_frames == 4
        assert film.info["loop"] == 0
        for number in range(4):
            film.seek(number)
            assert film.info["duration"] == 100
            assert np.array_equal(np.asarray(film.convert("RGB")), frames[number])


def decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as film:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)])


def test_gif_keeps_256_colours_that_lie_next_to_each_other() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    frames = np.concatenate([grey, grey[:, ::-1]])
    assert np.array_equal(decoded(encode_gif(frames)), frames)


def drifting_grid() -> np.ndarray:
    """Captions and frames that rest, around samples of far more than 256 colours that move."""
    ramp = np.linspace(0, 255, 96)
    level = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], 128.0), axis=-1)
    video = np.stack([np.roll(level, 9 * frame, axis=1) for frame in range(5)]).astype(np.uint8)
    rows = [
        GridRow("a red circle", video[None], labels=("0.25",), marks=(True,)),
        GridRow("an ink-blue square", 255 - video[None], marks=(False,)),
    ]
    return draw_grid(rows, title="iteration 20", columns=2, tile=96)


def test_one_colour_is_one_colour_in_all_frames_of_a_gif() -> None:
    frames = drifting_grid()
    film = decoded(encode_gif(frames)).reshape(-1, 3)
    colours, which = np.unique(frames.reshape(-1, 3), axis=0, return_inverse=True)
    assert len(colours) > 2000
    became = np.zeros_like(colours)
    became[which] = film
    assert np.array_equal(became[which], film)


def test_gif_of_many_colours_stays_near_and_its_page_does_not_change() -> None:
    frames = drifting_grid()
    film = decoded(encode_gif(frames))
    error = np.abs(film.astype(int) - frames)
    rests = (frames == frames[:1]).all(axis=(0, -1))
    assert 0.3 < rests.mean() < 0.9
    assert (film == film[:1]).all(axis=(0, -1))[rests].all()
    for colour in ((255, 255, 255), (28, 32, 40), GREEN, RED):  # paper, ink, frames
        shown = (frames == np.array(colour, np.uint8)).all(-1)
        assert shown.any()
        assert (error[shown] == 0).all(), colour
    # 224 places for a square of 256 x 256 levels: 15 by 15 of them lie 17 apart, 4 from the nearest on average
    assert error.mean(axis=(0, -1))[~rests].mean() < 6
    assert error.max() < 30


@settings(max_examples=40)
@given(
    st.integers(1, 3),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([2, 40, 256]),
    st.integers(0, 99),
)
def test_any_gif_has_all_its_frames(count: int, height: int, width: int, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, levels, (count, height, width, 3), dtype=np.uint8)
    frames[:, 0, 0, 0] = np.arange(count)  # of equal frames Pillow keeps one
    film = decoded(encode_gif(frames))
    assert film.shape == frames.shape
    if len(np.unique(frames.reshape(-1, 3), axis=0)) <= 256:
        assert np.array_equal(film, frames)


def test_mp4_plays_with_its_frames_and_rate(tmp_path: Path) -> None:
    levels = (20, 120, 220)
    frames = np.stack([np.full((33, 47, 3), level, np.uint8) for level in levels])
    with av.open(str(save_mp4(tmp_path / "a.mp4", frames, fps=12.5))) as film:
        stream = film.streams.video[0]
        assert float(stream.average_rate) == 12.5
        assert (stream.height, stream.width) == (34, 48)
        decoded = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
    assert [round(float(frame.mean()), -1) for frame in decoded] == list(levels)


def test_bad_rates_are_refused() -> None:
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    for rate in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="fps"):
            encode_gif(frames, fps=rate)
        with pytest.raises(ConfigError, match="fps"):
            encode_mp4(frames, fps=rate)
