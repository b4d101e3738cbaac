"""Read frames of video files upright, in square pixels and as 8-bit sRGB, within bounds on what is decoded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexgym.core.colors import on_background
from flexgym.core.containers import is_cut_short
from flexgym.core.images import Pixels, Size, fitted, fitted_size
from flexgym.core.media_files import MediaReader, Source

MAX_FRAMES = 20_000
"""Default maximum number of frames of a video file: eleven minutes at 30 per second."""

MAX_FRAME_PIXELS = 2**24
"""Default maximum of height times width of a frame, 4096 x 4096: decoders keep up to 17 frames."""

MAX_KEPT_PIXELS = 2**27
"""Default maximum of the pixels of all frames that are kept, 402 MB: 64 frames in full HD."""

MAX_DECODED_PIXELS = 2**36
"""Default maximum of the pixels of all frames of a file, a few minutes of decoding: 20,000 frames in full HD."""

_FORMATS = "avi,gif,matroska,mov"
# By the numbers of ITU-T H.273. 0 and 2 are unknown, read as BT.601 as ffmpeg does; the others differ little from sRGB.
_PRIMARIES = frozenset({0, 1, 2, 5, 6, 7, 22})
_TRANSFERS = frozenset({0, 1, 2, 4, 5, 6, 7, 11, 13, 14, 15})
_MATRICES = frozenset({0, 1, 2, 4, 5, 6, 7, 9})

Turn = tuple[tuple[int, int], tuple[int, int]]
"""Rows of the matrix that turns a frame, of -1, 0 and 1."""


class UnsupportedFramesError(ValueError):
    """Raised for frames that cannot be shown upright or in their own colors."""


@dataclass(frozen=True)
class VideoReader(MediaReader):
    """Reader of AVI, GIF, Matroska, MP4, QuickTime and WebM videos, from files or from bytes; see `MediaReader`.

    Frames are turned and mirrored as the file says, and stretched to square pixels. Transparency is blended with
    `flexgym.core.colors.BACKGROUND`. Colors follow the matrix and range in the file, those of BT.601 by default; HDR
    and wide gamuts are rejected.

    Attributes:
        max_frames: maximum number of frames in a file.
        max_pixels: maximum of height times width of a frame.
        max_kept: maximum of the pixels of all frames that are kept.
        max_decoded: maximum of the pixels of all frames in a file.
    """

    max_frames: int = MAX_FRAMES
    max_pixels: int = MAX_FRAME_PIXELS
    max_kept: int = MAX_KEPT_PIXELS
    max_decoded: int = MAX_DECODED_PIXELS

    kind: ClassVar[str] = "video"

    def load(
        self,
        source: Source,
        name: str = "",
        *,
        choose: Callable[[int], NDArray[np.intp]],
        max_side: int | None = None,
    ) -> Pixels:
        """Load chosen frames.

        The file is decoded twice, first to count its frames: their number in the header is often missing or wrong, and
        keeping all of them takes gigabytes.

        Args:
            source: path or content of the file.
            name: name of the file in error messages.
            choose: function from the number of frames in the file to the indices of those to keep, ascending.
            max_side: maximum length of a side; larger frames are reduced to it, see `fitted_size`.

        Returns:
            uint8 ``[F, H, W, 3]``.
        """
        name = self.named(source, name)
        count, whole = self.examine(source, name)
        wanted, size = choose(count).tolist(), fitted_size(whole, max_side)
        if len(wanted) * size[0] * size[1] > self.max_kept:
            raise self.error(
                "too_large",
                f"{name}: expected at most {self.max_kept} pixels over all frames that are kept, got {len(wanted)}"
                f" frames of {size[0]} x {size[1]}: keep fewer frames, or make the video smaller",
            )
        frames = np.empty((len(wanted), size[1], size[0], 3), np.uint8)
        places = {index: place for place, index in enumerate(wanted)}
        with self._frames(source, name) as decoded:
            for index, frame in enumerate(decoded):
                if (place := places.pop(index, None)) is not None:
                    frames[place] = frame.pixels(size)
                if not places:
                    break
        if places:
            raise self.error("unreadable", f"{name}: expected a video that can be read twice")
        return frames

    def examine(self, source: Source, name: str = "") -> tuple[int, Size]:
        """Decode a video to its end, and return the number of its frames and their width and height."""
        name = self.named(source, name)
        count, decoded, size = 0, 0, (0, 0)
        with self._frames(source, name) as frames:
            for count, frame in enumerate(frames, 1):
                decoded += frame.raw.width * frame.raw.height
                if decoded > self.max_decoded:
                    message = f"expected at most {self.max_decoded} pixels over all frames; cut or reduce the video"
                    raise self.error("too_large", f"{name}: {message}")
                size = size if count > 1 else frame.size
                if frame.size != size:
                    raise self.error("unreadable", f"{name}: expected a video whose frames have one size")
        if not count:
            raise self.error("unreadable", f"{name}: expected a video, got a file without frames")
        return count, size

    def size(self, source: Source, name: str = "") -> Size:
        """Return the width and height of the first frame, the only one that is decoded."""
        name = self.named(source, name)
        with self._frames(source, name) as frames:
            for frame in frames:
                return frame.size
        raise self.error("unreadable", f"{name}: expected a video, got a file without frames")

    @contextlib.contextmanager
    def _frames(self, source: Source, name: str) -> Iterator[Iterator[_Frame]]:
        import av  # loads codec libraries, which only videos need

        damage = (OSError, av.FFmpegError, EOFError, ValueError, ArithmeticError, LookupError, TypeError)
        with self.stream(source, name) as file:
            if is_cut_short(file):
                raise self.error("unreadable", f"{name}: cannot be read as video: the end of the file is missing")
            with contextlib.ExitStack() as opened:
                with self.damage_reported(name, damage):
                    # A list of formats: ffmpeg would follow a playlist to other files.
                    container = opened.enter_context(
                        av.open(file, options={"format_whitelist": _FORMATS}, metadata_errors="replace")
                    )
                yield self._decoded(container, name, damage)

    def _decoded(self, container: Any, name: str, damage: tuple[type[Exception], ...]) -> Iterator[_Frame]:
        stream = self._video_stream(container, name)
        frames = _decode(stream, container)
        turn: Turn | None = None
        for index in range(self.max_frames + 1):
            with self.damage_reported(name, damage):
                raw = next(frames, None)
            if raw is None:
                return
            self._check_pixels(name, raw.width, raw.height)
            with self.damage_reported(name, damage):
                turn = turn or _turn(raw)
                frame = _Frame.read(raw, stream.sample_aspect_ratio, turn)
            self._check_pixels(name, *frame.size)
            if index == self.max_frames:
                raise self.error("too_large", f"{name}: expected at most {self.max_frames} frames; cut the video")
            yield frame

    def _video_stream(self, container: Any, name: str) -> Any:
        from av.stream import Disposition

        # A cover of a sound file is a stream of one image.
        streams = [it for it in container.streams.video if not it.disposition & Disposition.attached_pic]
        if not streams:
            raise self.error("unreadable", f"{name}: expected a video, got a file without a video stream")
        if streams[0].codec_context is None:
            message = "its codec is unknown, or the file is cut short within its header"
            raise self.error("unreadable", f"{name}: cannot be read as video: {message}")
        context = streams[0].codec_context
        self._check_pixels(name, context.width, context.height)
        context.options = {"max_pixels": str(self.max_pixels)}  # frames may grow later in the file
        return streams[0]

    def _check_pixels(self, name: str, width: int, height: int) -> None:
        if width * height > self.max_pixels:
            raise self.error("too_large", f"{name}: expected at most {self.max_pixels} pixels, got {width} x {height}")


@dataclass(frozen=True)
class _Frame:
    """A decoded frame, and how it is shown.

    Attributes:
        raw: the frame of PyAV.
        square: width and height before it is turned, in square pixels.
        turn: rows of the matrix that turns it, of -1, 0 and 1.
    """

    raw: Any
    square: Size
    turn: Turn

    @classmethod
    def read(cls, raw: Any, pixel_aspect: Fraction | None, turn: Turn) -> _Frame:
        """Read how a frame is shown.

        Raises:
            UnsupportedFramesError: its colors are not those of sRGB.
        """
        _check_colors(raw)
        aspect = pixel_aspect or Fraction(1)
        return cls(raw, (max(1, round(raw.width * aspect)), raw.height), turn)

    @property
    def size(self) -> Size:
        """Return width and height as shown."""
        return self.square if self.turn[0][0] else self.square[::-1]

    def pixels(self, size: Size) -> Pixels:
        """Return uint8 ``[H, W, 3]``, resized to a width and height as shown."""
        unturned = size if self.turn[0][0] else size[::-1]
        pixels = _rgb(self.raw)
        if pixels.shape[:2] != unturned[::-1]:
            pixels = np.asarray(fitted(Image.fromarray(pixels), unturned))
        (right, right_to_down), (down_to_right, down) = self.turn
        if not right:
            pixels = pixels.transpose(1, 0, 2)
            right, down = down_to_right, right_to_down
        return np.ascontiguousarray(pixels[::down, ::right])


def _decode(stream: Any, container: Any) -> Iterator[Any]:
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise UnsupportedFramesError("one of its packets is incomplete")
        yield from packet.decode()


def _check_colors(raw: Any) -> None:
    if raw.color_trc not in _TRANSFERS or raw.color_primaries not in _PRIMARIES or raw.colorspace not in _MATRICES:
        raise UnsupportedFramesError(
            f"its colors (primaries {raw.color_primaries}, transfer {raw.color_trc}, matrix {raw.colorspace} of ITU-T"
            " H.273) are HDR or of a wide gamut: convert it to SDR in BT.709"
        )


def _turn(raw: Any) -> Turn:
    """Return the signs of a frame's display matrix, which maps (x, y) to (a x + c y, b x + d y), as (a, b), (c, d).

    PyAV's side data and their frame refer to each other, so each frame that is asked stays in memory until the next
    garbage collection: ask one per file.

    Raises:
        UnsupportedFramesError: the angle is no multiple of 90 degrees.
    """
    from av.sidedata.sidedata import Type

    data = raw.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return (1, 0), (0, 1)
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    if (a and d and not b and not c) or (b and c and not a and not d):
        return (_sign(a), _sign(b)), (_sign(c), _sign(d))
    raise UnsupportedFramesError("it is shown at an angle that is no multiple of 90 degrees: turn its frames")


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def _rgb(raw: Any) -> Pixels:
    """Convert a frame of any pixel format to uint8 ``[H, W, 3]``."""
    components = raw.format.components
    if raw.format.has_palette or any(part.is_alpha for part in components):
        full = Image.fromarray(raw.to_ndarray(format="rgba"), "RGBA")
        return np.asarray(on_background(full.convert("RGB"), full.getchannel("A")))
    deep = any(part.bits > 8 for part in components)
    # Directly to rgb24, ffmpeg's limited ranges of more than 8 bits end two levels below white.
    pixels: Pixels = raw.reformat(format="gbrp").to_ndarray() if deep else raw.to_ndarray(format="rgb24")
    return pixels
