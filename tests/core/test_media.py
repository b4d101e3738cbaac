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
from flexgym.core.grids import BAD, GOOD, GridRow, draw_grid
from flexgym.core.media import encode_gif, encode_mp4, save_gif, save_png


def test_png_keeps_every_pixel(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    path = save_png(tmp_path / "new" / "grid.png", image)
    assert np.array_equal(np.asarray(Image.open(path)), image)
    with pytest.raises(ConfigError, match=r"image: expected uint8 \[H, W, 3\]"):
        save_png(tmp_path / "other.png", image[None])
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["grid.png"]


def test_gif_keeps_few_colors_exactly(tmp_path: Path) -> None:
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


def test_gif_keeps_256_colors_that_lie_next_to_each_other() -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    frames = np.concatenate([gray, gray[:, ::-1]])
    assert np.array_equal(decoded(encode_gif(frames)), frames)


def drifting_grid() -> np.ndarray:
    """Captions and frames that rest, around samples of far more than 256 colors that move."""
    ramp = np.linspace(0, 255, 96)
    level = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], 128.0), axis=-1)
    video = np.stack([np.roll(level, 9 * frame, axis=1) for frame in range(5)]).astype(np.uint8)
    rows = [
        GridRow("a red circle", video[None], labels=("0.25",), marks=(True,)),
        GridRow("an ink-blue square", 255 - video[None], marks=(False,)),
    ]
    return draw_grid(rows, title="iteration 20", columns=2, tile=96)


def test_one_color_is_one_color_in_all_frames_of_a_gif() -> None:
    frames = drifting_grid()
    film = decoded(encode_gif(frames)).reshape(-1, 3)
    colors, which = np.unique(frames.reshape(-1, 3), axis=0, return_inverse=True)
    assert len(colors) > 2000
    became = np.zeros_like(colors)
    became[which] = film
    assert np.array_equal(became[which], film)


def test_gif_of_many_colors_stays_near_and_its_page_does_not_change() -> None:
    frames = drifting_grid()
    film = decoded(encode_gif(frames))
    error = np.abs(film.astype(int) - frames)
    rests = (frames == frames[:1]).all(axis=(0, -1))
    assert 0.3 < rests.mean() < 0.9
    assert (film == film[:1]).all(axis=(0, -1))[rests].all()
    for color in ((255, 255, 255), (28, 32, 40), GOOD, BAD):  # paper, ink, frames
        shown = (frames == np.array(color, np.uint8)).all(-1)
        assert shown.any()
        assert (error[shown] == 0).all(), color
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


def test_mp4_plays_with_its_frames_and_rate() -> None:
    levels = (20, 120, 220)
    frames = np.stack([np.full((33, 47, 3), level, np.uint8) for level in levels])
    with av.open(io.BytesIO(encode_mp4(frames, fps=12.5))) as film:
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
