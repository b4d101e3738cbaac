"""Videos are read upright, in square pixels and in their own colors, within bounds, or rejected with a sentence."""

from __future__ import annotations

import contextlib
import gc
import io
import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from flexgym.core.videos import VideoReader
from tests.core.media_samples import (
    VIDEO_CODECS,
    Pixels,
    damaged,
    flat_video,
    named_quarters,
    noise,
    quarters,
    turned,
    video,
    video_files,
)


class RejectedError(Exception):
    def __init__(self, fault: str, message: str) -> None:
        super().__init__(message)
        self.fault = fault


READER = VideoReader(error=RejectedError)


def load(data: bytes, count: int = 3, reader: VideoReader = READER, **options: int) -> Pixels:
    return reader.load(data, choose=lambda available: np.arange(min(available, count)), **options)


def rejected(data: bytes, match: str, fault: str = "unreadable", reader: VideoReader = READER) -> None:
    with pytest.raises(RejectedError, match=match) as caught:
        load(data, reader=reader)
    assert caught.value.fault == fault


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Five frames of four colors, 64 x 48."""
    return video(tmp_path_factory.mktemp("plain"), np.stack([quarters()] * 5))


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return video_files(tmp_path_factory.mktemp("containers"))


def test_frames_by_path_and_by_bytes(plain: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(plain)
    for source in (plain, tmp_path / "a.mp4", str(tmp_path / "a.mp4")):
        assert READER.examine(source) == (5, (64, 48))
        assert READER.size(source) == (64, 48)
        frames = READER.load(source, choose=lambda count: np.array([0, count - 1]))
        assert frames.shape == (2, 48, 64, 3)
        assert named_quarters(frames[1]) == "RGBW"


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), "RGBW"),
        ((0, 1, -1, 0), "BRWG"),  # a telephone held upright: turned by 90 degrees clockwise
        ((-1, 0, 0, -1), "WBGR"),
        ((0, -1, 1, 0), "GWRB"),
        ((-1, 0, 0, 1), "GRWB"),
        ((1, 0, 0, -1), "BWRG"),
        ((0, 1, 1, 0), "RBGW"),
        ((0, -1, -1, 0), "WGBR"),
    ],
)
def test_turned_and_mirrored_videos(plain: bytes, matrix: tuple[int, int, int, int], expected: str) -> None:
    data = turned(plain, matrix)
    frames = load(data)
    assert named_quarters(frames[0]) == expected
    assert READER.size(data) == frames.shape[2:0:-1] == ((64, 48) if matrix[0] else (48, 64))
    assert load(data, max_side=16).shape[1:3] == ((12, 16) if matrix[0] else (16, 12))


def test_other_angles_are_rejected(plain: bytes) -> None:
    rejected(turned(plain, (1, 1, -1, 1)), "no multiple of 90 degrees")


@pytest.mark.parametrize(
    ("aspect", "expected"), [(Fraction(16, 15), (68, 48)), (Fraction(8, 9), (57, 48)), (Fraction(4), (256, 48))]
)
def test_pixels_that_are_not_square(aspect: Fraction, expected: tuple[int, int], tmp_path: Path) -> None:
    def stretch(stream: object) -> None:
        stream.codec_context.sample_aspect_ratio = aspect  # type: ignore[attr-defined]

    data = video(tmp_path, np.stack([quarters()] * 2), setup=stretch)
    assert READER.size(data) == expected
    frames = load(data)
    assert frames.shape[2:0:-1] == expected
    assert named_quarters(frames[0]) == "RGBW"
    assert load(turned(data, (0, 1, -1, 0))).shape[1:3] == expected
    rejected(data, "at most 3000 pixels", "too_large", replace(READER, max_pixels=3000))


COEFFICIENTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", COEFFICIENTS)
def test_colors_follow_matrix_range_and_depth(matrix: int, full: bool, pixels: str, tmp_path: Path) -> None:
    for levels in ((110, 90, 170), (235, 128, 128), (60, 100, 140)):
        frames = load(flat_video(tmp_path, levels, matrix=matrix, full=full, pixels=pixels))
        y, cb, cr = (
            (value - base) / span
            for value, base, span in zip(
                levels, (0, 128, 128) if full else (16, 128, 128), (255,) * 3 if full else (219, 224, 224), strict=True
            )
        )
        red, blue = COEFFICIENTS[matrix]
        r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
        g = (y - red * r - blue * b) / (1 - red - blue)
        np.testing.assert_allclose(frames[0, 30, 30], np.clip(np.round(255 * np.array([r, g, b])), 0, 255), atol=2)


@pytest.mark.parametrize(("name", "value"), [("color_trc", 16), ("color_trc", 18), ("color_primaries", 9)])
def test_hdr_and_wide_gamuts_are_rejected(name: str, value: int, tmp_path: Path) -> None:
    data = video(tmp_path, noise(2, 32, 32, 3), setup=lambda stream: setattr(stream.codec_context, name, value))
    rejected(data, "convert it to SDR in BT.709")


def test_transparent_frames_are_white() -> None:
    buffer = io.BytesIO()
    frames = [Image.new("RGBA", (16, 16), (255, 0, 0, 0)), Image.new("RGBA", (16, 16), (0, 0, 255, 255))]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=100, disposal=2)
    shown = load(buffer.getvalue())
    assert shown[:, 8, 8].tolist() == [[255, 255, 255], [0, 0, 255]]


@pytest.mark.parametrize("kind", [*VIDEO_CODECS, "gif"])
def test_a_video_that_is_cut_short(containers: dict[str, bytes], kind: str) -> None:
    """Of most, ffmpeg reads the first frames as if they were all."""
    data = containers[kind]
    assert len(load(data, 99)) == 6
    for share in (0.9, 0.7, 0.4, 0.1, 0.01, 0):
        rejected(data[: int(len(data) * share)], "cannot be read as video")


def test_the_end_of_an_mp4_is_missed_to_the_byte(containers: dict[str, bytes]) -> None:
    for kind in ("mp4", "matroska", "webm", "gif"):
        rejected(containers[kind][:-1], "the end of the file is missing")


def test_a_video_without_a_known_codec(plain: bytes) -> None:
    rejected(plain.replace(b"avc1", b"zzzz"), "codec is unknown")


def test_a_file_without_a_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 44100
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    rejected((tmp_path / "a.mp4").read_bytes(), "without a video stream")


@pytest.mark.parametrize("data", [b"", b"rubbish" * 99, b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + b";"])
def test_a_video_without_frames(data: bytes) -> None:
    rejected(data, "without frames|cannot be read as video")


def test_bounds(plain: bytes) -> None:
    for bound, match in (
        ({"max_frames": 4}, "at most 4 frames"),
        ({"max_pixels": 3071}, "at most 3071 pixels, got 64 x 48"),
        ({"max_decoded": 5 * 3072 - 1}, "pixels over all frames; cut"),
        ({"max_kept": 3 * 3072 - 1}, "over all frames that are kept, got 3 frames of 64 x 48"),
        ({"max_bytes": len(plain) - 1}, "bytes, got"),
    ):
        rejected(plain, match, "too_large", replace(READER, **bound))
    exact = replace(
        READER, max_frames=5, max_pixels=3072, max_decoded=5 * 3072, max_kept=3 * 3072, max_bytes=len(plain)
    )
    assert len(load(plain, reader=exact)) == 3
    assert load(plain, reader=replace(READER, max_kept=3 * 192), max_side=16).shape == (3, 12, 16, 3)


def test_decoded_frames_are_released(tmp_path: Path) -> None:
    """PyAV's side data and their frame refer to each other: asked for each frame, all stayed in memory."""
    data = video(tmp_path, noise(12, 32, 32, 3))
    gc.collect()
    gc.disable()
    try:
        READER.examine(data)
        assert sum(isinstance(found, av.VideoFrame) for found in gc.get_objects()) <= 1
    finally:
        gc.enable()


def test_damaged_videos_are_read_or_rejected(containers: dict[str, bytes]) -> None:
    rng = np.random.default_rng(1)
    for data in containers.values():
        for _ in range(4):
            with contextlib.suppress(RejectedError):
                load(damaged(data, rng), reader=replace(READER, max_pixels=2**20))


def test_tkhd_is_where_the_tests_change_it(plain: bytes) -> None:
    at = plain.index(b"tkhd") + 44
    assert struct.unpack(">9i", plain[at : at + 36]) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
