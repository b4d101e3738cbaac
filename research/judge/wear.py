"""Wear of samples on their way to a judge: crops, brightness, resizing and compression, and what nobody can read.

All functions take and return frames, uint8 ``[F, H, W, 3]``; an image is one frame. Sizes are in pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexgym.shapes.scenes import BACKGROUND, SIZE

Frames = NDArray[np.uint8]

JPEG_QUALITIES, H264_QUALITIES = (20, 96), (18, 37)
"""Ranges of the quality of JPEG and of the constant rate factor of H.264, without their ends."""
RESIZES = (0.5, 4.0)
"""Range of the factor of both sides."""
_GAINS, _SHIFTS = (0.7, 1.2), (-20.0, 20.0)
"""Ranges of the contrast and of the brightness that is added, in steps of 255."""
_FRAME_RATE = 8
_MOST_CUT = 2
"""Pixels of 32 that a crop may cut off at each side."""
_FILTERS = (
    Image.Resampling.NEAREST,
    Image.Resampling.BOX,
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
)
_CROPPED, _BRIGHTENED, _RESIZED, _COMPRESSED = 0.25, 0.35, 0.5, 0.65
"""Shares of the worn samples with each kind of wear."""
_WORN = 0.65
"""Share of the samples with any wear."""


def jpeg(frames: Frames, quality: int) -> Frames:
    """Compress each frame as JPEG and decode it."""
    return np.stack([_through_jpeg(frame, quality) for frame in frames])


def _through_jpeg(frame: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def h264(frames: Frames, crf: int) -> Frames:
    """Compress the frames as H.264 with 4:2:0 chroma, as MP4 files hold it, and decode them.

    Args:
        frames: of any size; a side with an odd length is padded for the encoder by one pixel.
        crf: constant rate factor, 0 to 51; a larger one is a lower quality.
    """
    count, height, width = frames.shape[:3]
    padded = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = padded.shape[2], padded.shape[1], "yuv420p"
    encoder.framerate, encoder.time_base, encoder.thread_count = _FRAME_RATE, Fraction(1, _FRAME_RATE), 1
    # The tree of macroblocks reads memory that is not set with AVX-512, so results would differ from call to call.
    encoder.options = {"crf": str(crf), "preset": "veryfast", "x264-params": "mbtree=0"}
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    pictures = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in padded]
    for time, picture in enumerate(pictures):
        picture.pts, picture.time_base = time, encoder.time_base
    packets = [packet for picture in (*pictures, None) for packet in encoder.encode(picture)]
    decoded = [frame.to_ndarray(format="rgb24") for packet in (*packets, None) for frame in decoder.decode(packet)]
    if len(decoded) != count:
        raise RuntimeError(f"expected {count} frames from H.264 with crf {crf}, got {len(decoded)}")
    return np.stack(decoded)[:, :height, :width]


def resized(frames: Frames, size: tuple[int, int], method: Image.Resampling = Image.Resampling.BICUBIC) -> Frames:
    """Resize each frame to a height and a width."""
    if frames.shape[1:3] == size:
        return frames
    return np.stack([np.asarray(Image.fromarray(frame).resize(size[::-1], method)) for frame in frames])


def brightened(frames: Frames, gain: float, shift: float) -> Frames:
    """Scale the values by ``gain``, and add ``shift``."""
    return np.clip(frames * np.float32(gain) + np.float32(shift), 0, 255).astype(np.uint8)


def cropped(frames: Frames, cuts: tuple[int, int, int, int]) -> Frames:
    """Cut off pixels at the top, the bottom, the left and the right."""
    top, bottom, left, right = cuts
    return frames[:, top : frames.shape[1] - bottom, left : frames.shape[2] - right]


def worn(rng: np.random.Generator, frames: Frames) -> Frames:
    """Apply random wear to a sample; its size may change, and a third of the samples stay as they are."""
    if rng.random() >= _WORN:
        return frames
    for share, wear in ((_CROPPED, _crop), (_BRIGHTENED, _brighten), (_RESIZED, _resize), (_COMPRESSED, _compress)):
        if rng.random() < share:
            frames = wear(rng, frames)
    return frames


def _crop(rng: np.random.Generator, frames: Frames) -> Frames:
    top, bottom, left, right = rng.integers(_MOST_CUT + 1, size=4).tolist()
    return cropped(frames, (top, bottom, left, right))


def _brighten(rng: np.random.Generator, frames: Frames) -> Frames:
    return brightened(frames, float(rng.uniform(*_GAINS)), float(rng.uniform(*_SHIFTS)))


def _resize(rng: np.random.Generator, frames: Frames) -> Frames:
    low, high = np.log(RESIZES)
    factor = float(np.exp(rng.uniform(low, high)))
    size = (round(factor * frames.shape[1]), round(factor * frames.shape[2]))
    return resized(frames, size, _FILTERS[rng.integers(len(_FILTERS))])


def _compress(rng: np.random.Generator, frames: Frames) -> Frames:
    if rng.random() < 0.5:
        return jpeg(frames, int(rng.integers(*JPEG_QUALITIES)))
    return h264(frames, int(rng.integers(*H264_QUALITIES)))


def _blank(rng: np.random.Generator, frames: Frames) -> Frames:
    """Return one plain light color; a dark one would be a large square."""
    return np.broadcast_to(rng.integers(BACKGROUND - 25, 256, size=3, dtype=np.uint8), frames.shape).copy()


def _noise(rng: np.random.Generator, frames: Frames) -> Frames:
    return rng.integers(256, size=frames.shape, dtype=np.uint8)


def _smear(_: np.random.Generator, frames: Frames) -> Frames:
    """Reduce the frames to two by two pixels, so that only colors remain."""
    return resized(resized(frames, (2, 2), Image.Resampling.BOX), frames.shape[1:3], Image.Resampling.BILINEAR)


def _scramble(rng: np.random.Generator, frames: Frames) -> Frames:
    """Exchange the pixels of each frame with each other."""
    flat = frames.reshape(len(frames), -1, 3)
    return np.stack([each[rng.permutation(len(each))] for each in flat]).reshape(frames.shape)


def _drown(rng: np.random.Generator, frames: Frames) -> Frames:
    """Leave a twentieth of the contrast, below strong noise."""
    noise = rng.normal(128.0, 40.0, frames.shape)
    return np.clip(noise + 0.05 * (frames - 128.0), 0, 255).astype(np.uint8)


RUINS: dict[str, Callable[[np.random.Generator, Frames], Frames]] = {
    "blank": _blank,
    "noise": _noise,
    "smeared": _smear,
    "scrambled": _scramble,
    "drowned": _drown,
}
"""Ways to make a sample unreadable."""


def ruined(rng: np.random.Generator, frames: Frames, names: Iterable[str] = RUINS) -> Frames:
    """Make a sample unreadable, in a way that is drawn from ``names``."""
    ways = tuple(names)
    return RUINS[ways[rng.integers(len(ways))]](rng, frames)


def as_seen(frames: Frames) -> Frames:
    """Return what the judge's image processor makes of frames that are about square, uint8 ``[F, 32, 32, 3]``."""
    return resized(frames, (SIZE, SIZE))
