from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from flexgym.core.media import encode_mp4
from flexgym.data import Clip, MediaFile, RowError, check_source, load_frames, load_picture, load_pictures
from flexgym.data import media as media_module
from flexgym.data.media import MAX_ROW_PIXELS, load_sample, picture_sizes
from flexgym.judge.backends.local import open_picture
from flexgym.judge.inputs import Inputs, encode_sample
from tests.data.builders import image_bytes, noise, write_images, write_video


def at(path):
    return MediaFile(path=str(path))


def test_images_by_path_and_by_bytes(tmp_path):
    pixels = noise(3, 16, 24, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    for file in (at(tmp_path / "a.png"), MediaFile(data=buffer.getvalue())):
        picture = load_picture(file)
        assert picture.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(picture), pixels)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    Image.new("RGB", (8, 6), (200, 200, 200)).convert(mode).save(
        tmp_path / "a.png" if mode != "CMYK" else tmp_path / "a.jpg"
    )
    picture = load_picture(at(tmp_path / ("a.png" if mode != "CMYK" else "a.jpg")))
    assert (picture.mode, picture.size) == ("RGB", (8, 6))


def test_pictures_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = noise(0, 20, 30, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(load_picture(at(tmp_path / "a.png"))), np.rot90(pixels, -1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("check", [check_source, load_picture])
def test_an_image_that_is_cut_short(tmp_path, kind, check):
    data = image_bytes(size=(200, 150), kind=kind)
    check(MediaFile(data=data))
    for length in (len(data) - 200, len(data) // 2, 300, 10, 0):
        (tmp_path / "cut").write_bytes(data[:length])
        with pytest.raises(RowError) as caught:
            check(at(tmp_path / "cut"))
        assert caught.value.kind == "unreadable_media"


def test_images_that_are_no_pictures_for_a_judge(tmp_path, monkeypatch):
    Image.new("RGB", (400, 3)).save(tmp_path / "long.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.tiff")
    (tmp_path / "vector.png").write_text("<svg/>")
    for name, kind, reason in (
        ("long.png", "too_large", "factor of 100"),
        ("a.tiff", "unreadable_media", "cannot identify"),
        ("vector.png", "unreadable_media", "cannot identify"),
        ("none.png", "missing_file", "there is no such file"),
    ):
        for check in (check_source, load_picture):
            with pytest.raises(RowError, match=reason) as caught:
                check(at(tmp_path / name))
            assert caught.value.kind == kind
    monkeypatch.setattr(media_module, "_IMAGES", replace(media_module._IMAGES, max_pixels=1599))
    with pytest.raises(RowError, match="at most 1599 pixels, got 40 x 40"):
        check_source(at(tmp_path / "a.png"))


def test_a_decompression_bomb_is_not_unpacked():
    data = bytearray(image_bytes(kind="PNG"))
    data[16:24] = struct.pack(">II", 60_000, 30_000)  # the header promises 1.8 billion pixels
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    for check in (check_source, load_picture):
        with pytest.raises(RowError, match="exceeds limit|at most"):
            check(MediaFile(data=bytes(data)))


def test_frames_of_a_video_by_path_and_by_bytes(tmp_path):
    write_video(tmp_path / "a.mp4", num_frames=9)  # levels 0, 20 ... 160
    embedded = MediaFile(data=(tmp_path / "a.mp4").read_bytes())
    for video in (at(tmp_path / "a.mp4"), embedded):
        frames = load_frames(video, 5)
        np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), [0, 40, 80, 120, 160], atol=3)
        assert len(load_frames(video, 20)) == 9
        pictures = load_pictures([Clip(video=video, num_frames=3)])
        assert [round(np.asarray(picture).mean() / 20) for picture in pictures] == [0, 4, 8]


def test_videos_that_cannot_be_used(tmp_path):
    write_video(tmp_path / "a.mp4", num_frames=3)
    (tmp_path / "b.mp4").write_bytes(b"no video" * 99)
    write_images(tmp_path, "c.mp4.jpg")
    for source, kind, reason in (
        (Clip(video=at(tmp_path / "a.mp4"), num_frames=4), "unreadable_media", "at least 4 frames, got 3"),
        (Clip(video=at(tmp_path / "b.mp4"), num_frames=1), "unreadable_media", "cannot be read as video"),
        (at(tmp_path / "b.mp4"), "unreadable_media", "cannot be read as video"),
        (at(tmp_path / "none.mp4"), "missing_file", "no such file"),
        (MediaFile(data=b"GIF8 no more"), "unreadable_media", "cannot be read as video"),
    ):
        with pytest.raises(RowError, match=reason) as caught:
            check_source(source)
        assert caught.value.kind == kind
    check_source(at(tmp_path / "a.mp4"))


@pytest.mark.parametrize("inputs", [Inputs(), Inputs(format="png", max_side=20), Inputs(quality=30, max_side=12)])
def test_the_pixels_of_training_are_those_that_a_judge_gets(tmp_path, inputs):
    write_images(tmp_path, "a.png", "b.jpg")
    write_video(tmp_path / "c.mp4", num_frames=4)
    image, clip = at(tmp_path / "b.jpg"), Clip(video=at(tmp_path / "c.mp4"), num_frames=3)
    expected = [
        *encode_sample(np.asarray(load_picture(image)), inputs),
        *encode_sample(load_frames(clip.video, 3), inputs),
    ]
    pictures = load_pictures([image, clip], inputs)
    assert len(pictures) == 4
    for picture, sent in zip(pictures, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(open_picture(sent)))


def test_a_file_that_is_shown_often_is_decoded_once(tmp_path, monkeypatch):
    write_images(tmp_path, "a.png", "b.png")
    decoded = []
    load = type(media_module._IMAGES).load
    monkeypatch.setattr(
        type(media_module._IMAGES), "load", lambda reader, *args: decoded.append(args) or load(reader, *args)
    )
    pictures = load_pictures([at(tmp_path / "a.png")] * 40 + [at(tmp_path / "b.png")] * 24)
    assert (len(pictures), len(decoded)) == (64, 2)


@pytest.mark.parametrize("side", [256, pytest.param(8192, marks=pytest.mark.slow)])
def test_the_pixels_of_a_row_are_bounded_before_they_are_decoded(tmp_path, monkeypatch, side):
    """64 references to a file of 195 kB with 8192 x 8192 pixels took 14 to 20 GB."""
    if side == 256:
        monkeypatch.setattr(media_module, "MAX_ROW_PIXELS", MAX_ROW_PIXELS >> 10)
    Image.new("1", (side, side)).save(tmp_path / "a.png")
    large = [at(tmp_path / "a.png")] * 64
    for read in (load_pictures, picture_sizes):
        with pytest.raises(
            RowError, match=f"at most {media_module.MAX_ROW_PIXELS} pixels over all images of a row"
        ) as caught:
            read(large)
        assert caught.value.kind == "too_large"
    assert picture_sizes(large, Inputs(max_side=side // 8)) == [(side // 8, side // 8)] * 64
    with pytest.raises(RowError, match="at most"):
        load_sample(large, "video", num_frames=64)


def test_clips_count_with_all_their_frames(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", num_frames=4)
    clip = Clip(video=at(tmp_path / "a.mp4"), num_frames=4)
    monkeypatch.setattr(media_module, "MAX_ROW_PIXELS", 8 * 1024)
    assert len(load_pictures([clip, clip])) == 8
    with pytest.raises(RowError, match="at most 8192 pixels"):
        load_pictures([clip, clip, clip])
    assert [picture.size for picture in load_pictures([clip] * 3, Inputs(max_side=8))] == [(8, 8)] * 12


def test_frames_as_long_as_no_processor_takes(tmp_path):
    (tmp_path / "a.mp4").write_bytes(encode_mp4(noise(0, 2, 4, 800, 3)))
    with pytest.raises(RowError, match="at most a factor of 100, got 800 x 4"):
        picture_sizes([Clip(video=at(tmp_path / "a.mp4"), num_frames=2)])
