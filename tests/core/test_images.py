from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flexgym.core.images import ImageReader, fitted, fitted_size
from tests.core.media_samples import encoded, named_quarters, noise, quarters


class RejectedError(Exception):
    def __init__(self, fault: str, message: str) -> None:
        super().__init__(message)
        self.fault = fault


READER = ImageReader(error=RejectedError)
READS = (ImageReader.load, ImageReader.check)


def noisy(size: tuple[int, int] = (40, 30), kind: str = "PNG", **options: object) -> bytes:
    return encoded(Image.fromarray(noise(size[1], size[0], 3)), kind, **options)


def fault(read: object, reader: ImageReader, source: object, match: str) -> str:
    with pytest.raises(RejectedError, match=match) as caught:
        read(reader, source)  # type: ignore[operator]
    return caught.value.fault


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_files_and_bytes_give_the_same_pixels(tmp_path: Path, kind: str) -> None:
    data = noisy(kind=kind)
    (tmp_path / "a").write_bytes(data)
    images = [READER.load(source) for source in (data, tmp_path / "a", str(tmp_path / "a"))]
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    for image in images:
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), expected)


def test_the_orientation_of_a_camera_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert READER.load(noisy((40, 30), exif=exif)).size == (30, 40)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("read", READS)
def test_a_truncated_file_is_unreadable(tmp_path: Path, kind: str, read: object) -> None:
    data = noisy((200, 150), kind)
    for length in (len(data) - 200, len(data) // 2, 10, 0):
        (tmp_path / "cut").write_bytes(data[:length])
        assert fault(read, READER, tmp_path / "cut", "cut: cannot be read as an image") == "unreadable"


def test_a_header_is_checked_without_the_pixels_behind_it() -> None:
    data = noisy((200, 150))
    READER.stored_size(data[: len(data) // 2])
    with pytest.raises(RejectedError, match="at most 29999 pixels, got 200 x 150"):
        ImageReader(error=RejectedError, max_pixels=29999).stored_size(data[: len(data) // 2])


@pytest.mark.parametrize("read", [*READS, ImageReader.stored_size])
def test_bounds(read: object) -> None:
    data = noisy((40, 30))
    size = len(data)
    for reader, match in (
        (ImageReader(error=RejectedError, max_bytes=size - 1), f"at most {size - 1} bytes, got {size}"),
        (ImageReader(error=RejectedError, max_pixels=1199), "at most 1199 pixels, got 40 x 30"),
        (ImageReader(error=RejectedError, max_aspect=1), "at most a factor of 1, got 40 x 30"),
    ):
        assert fault(read, reader, data, match) == "too_large"
    read(ImageReader(error=RejectedError, max_bytes=size, max_pixels=1200, max_aspect=2), data)  # type: ignore[operator]


@pytest.mark.parametrize("read", [*READS, ImageReader.stored_size])
def test_a_decompression_bomb_is_not_unpacked(read: object) -> None:
    data = bytearray(noisy())
    data[16:24] = struct.pack(">II", 60_000, 30_000)  # the header promises 1.8 billion pixels
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(RejectedError, match="exceeds limit|at most"):
        read(READER, bytes(data))  # type: ignore[operator]


@pytest.mark.parametrize("read", [*READS, ImageReader.stored_size])
def test_files_that_are_not_there_or_not_regular(tmp_path: Path, read: object) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none.png", tmp_path, tmp_path / "pipe"):
        assert fault(read, READER, path, "there is no such file$") == "missing"
    assert fault(read, READER, "https://a.b/c.png", "download the image") == "missing"


def test_other_formats_are_unreadable(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.tiff")
    (tmp_path / "a.png").write_text("<svg/>")
    for name in ("a.tiff", "a.png"):
        assert fault(ImageReader.load, READER, tmp_path / name, "BMP, JPEG, PNG or WebP") == "unreadable"


def test_messages_use_the_name_they_are_given() -> None:
    with pytest.raises(RejectedError, match="^row 3: cannot"):
        READER.load(b"rubbish", "row 3")
    with pytest.raises(RejectedError, match="^an image of 7 bytes: cannot"):
        READER.load(b"rubbish")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_all_orientations(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(quarters()), kind, exif=exif)
    expected = {1: "RGBW", 2: "GRWB", 3: "WBGR", 4: "BWRG", 5: "RBGW", 6: "BRWG", 7: "WGBR", 8: "GWRB"}[orientation]
    image = READER.load(data)
    assert named_quarters(np.asarray(image)) == expected
    assert READER.size(data) == image.size == ((48, 64) if orientation > 4 else (64, 48))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("read", [*READS, ImageReader.stored_size, ImageReader.size])
def test_an_animation_is_no_image(kind: str, read: object) -> None:
    frames = [Image.fromarray(noise(6, 9, 3, seed=seed)) for seed in (0, 1)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    assert fault(read, READER, data, "expected one image, got an animation of 2 frames") == "unreadable"


def test_a_photo_with_a_second_view_is_its_first() -> None:
    frames = [Image.fromarray(np.full((16, 16, 3), level, np.uint8)) for level in (40, 200)]
    image = READER.load(encoded(frames[0], "MPO", save_all=True, append_images=frames[1:]))
    assert image.getpixel((8, 8)) == pytest.approx((40, 40, 40), abs=2)


@settings(max_examples=40)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 200))
def test_sizes_are_those_of_pillow(width: int, height: int, max_side: int) -> None:
    image = Image.new("L", (width, height))
    image.thumbnail((max_side, max_side))
    assert fitted_size((width, height), max_side) == image.size


@pytest.mark.parametrize("size", [(90, 160), (1500, 40), (33, 33)])
def test_images_are_reduced_as_pillow_does(size: tuple[int, int]) -> None:
    image = Image.fromarray(noise(*size, 3))
    thumbnail = image.copy()
    thumbnail.thumbnail((64, 64), Image.Resampling.LANCZOS)
    reduced = fitted(image, fitted_size(image.size, 64))
    assert np.array_equal(np.asarray(reduced), np.asarray(thumbnail))
