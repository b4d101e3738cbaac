"""Convert decoded images of any mode to 8-bit sRGB without transparency."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

BACKGROUND = (255, 255, 255)
"""Color behind transparent pixels: white, as browsers and vLLM have it."""

_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "I", "I;16", "I;16L", "I;16B"})
_DEEP = frozenset({"I", "I;16", "I;16L", "I;16B"})  # gray of 16 bits, which Pillow clips to 255 instead of scaling it
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_SRGB_GAMMA = 1 / 2.2
_ALIKE = 2  # levels by which profiles of sRGB differ from one another
_STEPS = np.linspace(0, 255, 6).astype(np.uint8)


class UnsupportedColorsError(ValueError):
    """Raised for an image whose colors cannot be converted."""


def as_srgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB.

    Gray of 16 bits is scaled to 8. An embedded color profile is applied, unless it is that of sRGB, and so is the gamma
    of a PNG without one. Transparent pixels are blended with `BACKGROUND`.

    Args:
        image: an image as decoded by Pillow, with its ``info``; left unchanged.

    Raises:
        UnsupportedColorsError: the mode is unknown, or the profile is damaged or made for other colors.
    """
    if image.mode not in _MODES:
        raise UnsupportedColorsError(
            f"expected gray, RGB, CMYK or palette colors of 8 or 16 bits, got Pillow's mode {image.mode!r}:"
            " save the image as RGB"
        )
    if image.mode in _DEEP:
        image = _of_eight_bits(image)
    colors, alpha = _without_alpha(image)
    colors = _in_srgb(colors, image.info)
    return colors if alpha is None else on_background(colors, alpha)


def on_background(colors: Image.Image, alpha: Image.Image) -> Image.Image:
    """Blend an RGB image with `BACKGROUND`, where its opacity ``alpha`` is below 255."""
    if alpha.getextrema() == (255, 255):
        return colors
    page = Image.new("RGB", colors.size, BACKGROUND)
    page.paste(colors, mask=alpha)
    return page


def _of_eight_bits(image: Image.Image) -> Image.Image:
    """Scale gray of 16 bits to 8, as PNG's own rule for it says: by the higher byte."""
    values = np.asarray(image).astype(np.int64)
    gray = Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
    key = image.info.get("transparency")
    if isinstance(key, int):
        gray.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    gray.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return gray


def _without_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the colors of an image, as L, RGB or CMYK, and its opacity; None if it is opaque."""
    if image.has_transparency_data:
        full = image.convert("RGBA")
        return full.convert("RGB"), full.getchannel("A")
    return (image if image.mode in ("L", "CMYK") else image.convert("RGB")), None


def _in_srgb(colors: Image.Image, info: Mapping[Any, Any]) -> Image.Image:
    """Apply the profile or the gamma of an image to its colors, L, RGB or CMYK."""
    profile = info.get("icc_profile")
    if profile:
        return _profiled(colors, bytes(profile))
    rgb = colors.convert("RGB")
    gamma = info.get("gamma")
    if isinstance(gamma, float) and gamma > 0 and "srgb" not in info:
        exponent = _SRGB_GAMMA / gamma
        if abs(exponent - 1) > 0.05:
            return rgb.point([round(255 * (level / 255) ** exponent) for level in range(256)] * 3)
    return rgb


def _profiled(colors: Image.Image, profile: bytes) -> Image.Image:
    try:
        space, is_srgb = _examined(profile)
        if colors.mode == "L" and space == "RGB":
            colors = colors.convert("RGB")
        if space != colors.mode and not (space == "L" and colors.mode == "RGB"):
            raise UnsupportedColorsError(f"expected a color profile for {colors.mode}, got one for {space}")
        if space != colors.mode:  # a gray image with transparency
            colors = colors.convert("L")
        return colors.convert("RGB") if is_srgb else _applied(colors, profile)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        if isinstance(error, UnsupportedColorsError):
            raise
        raise UnsupportedColorsError(f"its color profile cannot be applied: {error}; save it as sRGB") from None


@lru_cache(maxsize=32)
def _examined(profile: bytes) -> tuple[str, bool]:
    """Return the mode of the colors that a profile is made for, and True if it is that of sRGB."""
    space = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
    if space not in _SPACES:
        raise UnsupportedColorsError(f"its color profile is made for {space!r}: save it as sRGB")
    if space != "RGB":
        return _SPACES[space], False
    lattice = np.stack(np.meshgrid(_STEPS, _STEPS, _STEPS), axis=-1).reshape(1, -1, 3)
    shown = np.asarray(_applied(Image.fromarray(lattice), profile)).astype(int)
    return "RGB", bool(np.abs(shown - lattice).max() <= _ALIKE)


def _applied(colors: Image.Image, profile: bytes) -> Image.Image:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(
        colors, source, ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB"
    )
    assert converted is not None, "profileToProfile returns an image unless it works in place"
    return converted
