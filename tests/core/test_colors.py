"""Images of every bit depth, mode and color space become 8-bit sRGB, or are rejected with a sentence."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from flexgym.core.images import ImageReader
from tests.core.media_samples import chunk, encoded, noise, png


class RejectedError(Exception):
    pass


READER = ImageReader(error=lambda _, message: RejectedError(message))
NOISE = Image.fromarray(noise(6, 9, 3))


def first_pixel(data: bytes) -> tuple[int, ...]:
    READER.check(data)
    image = READER.load(data)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))  # type: ignore[return-value]


def gray16(value: int, *more: int) -> bytes:
    return struct.pack(f">{1 + len(more)}H", value, *more)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(16, 0, gray16(30_000)), (117, 117, 117)),  # Pillow alone: white
        (png(16, 0, gray16(255)), (0, 0, 0)),
        (png(16, 0, gray16(30_000), chunks=chunk(b"tRNS", gray16(30_000))), (255, 255, 255)),
        (png(16, 4, gray16(30_000, 0)), (255, 255, 255)),
        (png(16, 2, gray16(65_535, 32_768, 257)), (255, 128, 1)),
        (png(16, 6, gray16(65_535, 0, 0, 0)), (255, 255, 255)),
        (png(8, 0, b"\x80\x80", chunks=chunk(b"gAMA", struct.pack(">I", 100_000))), (186, 186, 186)),
        (png(8, 0, b"\x80\x80", chunks=chunk(b"gAMA", struct.pack(">I", 45_455))), (128, 128, 128)),
        (png(1, 0, b"\x80"), (255, 255, 255)),
        (png(4, 0, b"\x80"), (136, 136, 136)),
        (encoded(Image.new("LA", (2, 2), (9, 0))), (255, 255, 255)),
        (encoded(Image.new("LA", (2, 2), (9, 255))), (9, 9, 9)),
        (encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 128))), (255, 127, 127)),
        (encoded(Image.new("RGBA", (2, 2), (1, 2, 3, 0)), "WEBP", lossless=True), (255, 255, 255)),
        (encoded(Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(1, 2, 3)), (255, 255, 255)),
        (encoded(Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(1, 2, 4)), (1, 2, 3)),
        (encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100), (255, 0, 0)),
    ],
)
def test_depths_and_modes(data: bytes, expected: tuple[int, ...]) -> None:
    assert first_pixel(data) == expected


@pytest.mark.parametrize(("transparency", "expected"), [(None, (9, 8, 7)), (0, (255,) * 3), (b"\x80", (132, 131, 131))])
def test_palettes(transparency: int | bytes | None, expected: tuple[int, ...]) -> None:
    image = Image.new("P", (2, 2))
    image.putpalette([9, 8, 7, 6, 5, 4])
    options = {} if transparency is None else {"transparency": transparency}
    assert first_pixel(encoded(image, **options)) == pytest.approx(expected, abs=1)


def test_a_profile_of_srgb_changes_no_pixel() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for image in (NOISE, NOISE.convert("L")):
        read = READER.load(encoded(image, icc_profile=profile))
        assert np.array_equal(np.asarray(read), np.asarray(image.convert("RGB")))


def test_other_profiles_are_applied() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    with pytest.raises(RejectedError, match="color profile is made for 'Lab'"):
        READER.load(encoded(NOISE, icc_profile=lab))
    wide = swapped_primaries()
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    assert READER.load(encoded(red, icc_profile=wide)).getpixel((0, 0)) == pytest.approx((0, 255, 0), abs=3)
    opaque = Image.new("RGBA", (2, 2), (255, 0, 0, 255))
    assert READER.load(encoded(opaque, icc_profile=wide)).getpixel((0, 0)) == pytest.approx((0, 255, 0), abs=3)


def swapped_primaries() -> bytes:
    """Return a profile of sRGB whose red and green are exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    entries = {
        bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * struct.unpack(">I", profile[128:132])[0], 12)
    }
    red, green = entries[b"rXYZ"], entries[b"gXYZ"]
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize("read", [ImageReader.load, ImageReader.check])
def test_a_damaged_profile_is_rejected(read: object) -> None:
    with pytest.raises(RejectedError, match="color profile cannot be applied"):
        read(READER, encoded(NOISE, icc_profile=b"rubbish" * 40))  # type: ignore[operator]
