from __future__ import annotations

import io
from dataclasses import replace

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.core.media import encode_mp4, save_gif
from flexgym.judge import inputs
from flexgym.judge.inputs import Inputs, encode_sample, frame_indices, read_image, read_sample, read_video


def decoded(picture):
    return np.asarray(Image.open(io.BytesIO(picture.data)))


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def gray_video(levels, size=32):
    return np.stack([np.full((size, size, 3), level, np.uint8) for level in levels])


@pytest.mark.parametrize(
    ("available", "wanted", "expected"),
    [
        (33, 8, [0, 4, 9, 13, 18, 22, 27, 32]),  # 32 / 7 = 4.57 apart, rounded down
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (5, 8, [0, 1, 2, 3, 4]),
        (15, 8, [0, 2, 4, 6, 8, 10, 12, 14]),
        (9, 2, [0, 8]),
        (9, 1, [0]),
        (1, 8, [0]),
    ],
)
def test_frames_by_hand(available, wanted, expected):
    assert frame_indices(available, wanted).tolist() == expected


@given(st.integers(1, 2000), st.integers(1, 64))
def test_frames_are_ascending_from_the_first_to_the_last_and_evenly_spaced(available, wanted):
    indices = frame_indices(available, wanted)
    assert len(indices) == min(available, wanted)
    assert indices[0] == 0
    assert indices[-1] == (available - 1 if len(indices) > 1 else 0)
    steps = np.diff(indices)
    assert (steps >= 1).all()
    assert np.ptp(steps) <= 1 if len(steps) else True


def test_png_keeps_every_pixel_and_jpeg_nearly():
    image = np.tile(np.arange(64, dtype=np.uint8)[:, None, None] * 4, (1, 48, 3))
    (lossless,) = encode_sample(image, Inputs(format="png"))
    (lossy,) = encode_sample(image, Inputs())
    assert (lossless.media_type, lossy.media_type) == ("image/png", "image/jpeg")
    np.testing.assert_array_equal(decoded(lossless), image)
    assert np.abs(decoded(lossy).astype(int) - image).max() <= 4


def test_jpeg_is_sent_at_quality_95():
    image = noise(32, 32, 3)
    expected = io.BytesIO()
    Image.fromarray(image).save(expected, "JPEG", quality=95)
    assert encode_sample(image, Inputs())[0].data == expected.getvalue()


def test_a_video_gives_its_frames_in_order():
    video = gray_video(range(0, 250, 25))  # ten frames
    pictures = encode_sample(video, Inputs(format="png", num_frames=4))
    assert [int(decoded(picture)[0, 0, 0]) for picture in pictures] == [0, 75, 150, 225]
    assert len(encode_sample(video[:3], Inputs(num_frames=4))) == 3


def test_large_pictures_are_reduced_to_the_longest_side():
    (picture,) = encode_sample(noise(90, 160, 3), Inputs(format="png", max_side=80))
    assert decoded(picture).shape == (45, 80, 3)
    (picture,) = encode_sample(noise(90, 160, 3), Inputs(format="png", max_side=160))
    assert decoded(picture).shape == (90, 160, 3)
    flat = np.full((100, 100, 3), 77, np.uint8)
    assert (decoded(encode_sample(flat, Inputs(format="png", max_side=10))[0]) == 77).all()


def test_ids_are_equal_exactly_for_equal_files():
    image = noise(16, 16, 3)
    other = image.copy()
    other[3, 3, 0] ^= 1
    settings = Inputs(format="png"), Inputs(), Inputs(quality=60), Inputs(format="png", max_side=8)
    ids = [encode_sample(sample, chosen)[0].id for sample in (image, other) for chosen in settings[:1]]
    ids += [encode_sample(image, chosen)[0].id for chosen in settings[1:]]
    assert len(set(ids)) == 5
    assert encode_sample(image.copy(), Inputs(format="png"))[0].id == ids[0]


@pytest.mark.parametrize(
    "sample",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((2, 2, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 4, 3), np.uint8),
    ],
)
def test_what_is_no_sample(sample):
    with pytest.raises(ConfigError, match=r"expected uint8 \[H, W, 3\] or \[F, H, W, 3\]"):
        encode_sample(sample, Inputs())


def test_a_picture_that_is_too_large_says_what_to_do():
    with pytest.raises(ConfigError, match="lower max_side"):
        encode_sample(noise(64, 64, 3), Inputs(format="png", max_bytes=1000))


def test_settings_that_make_no_sense():
    with pytest.raises(UnknownNameError, match="Did you mean 'jpeg'"):
        Inputs(format="jpg")
    for setting in ({"quality": 0}, {"quality": 96}, {"num_frames": 0}, {"max_side": 0}):
        with pytest.raises(ConfigError, match=next(iter(setting))):
            Inputs(**setting)


def test_image_files(tmp_path):
    image = noise(20, 30, 3)
    Image.fromarray(image).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_sample(tmp_path / "a.png"), image)
    Image.fromarray(image[..., 0]).save(tmp_path / "grey.PNG")
    np.testing.assert_array_equal(read_sample(tmp_path / "grey.PNG"), np.repeat(image[..., :1], 3, axis=-1))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown, the image is 20 wide and 30 high
    Image.fromarray(image).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(image, -1))


def test_video_files(tmp_path):
    levels = [20, 60, 100, 140, 180]
    (tmp_path / "a.mp4").write_bytes(encode_mp4(gray_video(levels)))
    video = read_sample(tmp_path / "a.mp4", num_frames=3)
    assert video.shape == (3, 32, 32, 3)
    assert video.dtype == np.uint8
    np.testing.assert_allclose(video.mean(axis=(1, 2, 3)), [20, 100, 180], atol=3)
    assert len(read_video(tmp_path / "a.mp4", num_frames=8)) == 5
    save_gif(tmp_path / "a.gif", gray_video(levels))
    np.testing.assert_array_equal(read_sample(tmp_path / "a.gif"), gray_video(levels))


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    (tmp_path / "a.mp4").write_bytes(b"rubbish" * 100)
    (tmp_path / "a.txt").write_text("rubbish")
    for name in ("a.png", "a.mp4"):
        with pytest.raises(ConfigError, match="cannot be read as"):
            read_sample(tmp_path / name)
    for name in ("b.png", "b.mp4"):
        with pytest.raises(ConfigError, match="no such file"):
            read_sample(tmp_path / name)
    with pytest.raises(ConfigError, match=r"expected an image or video file ending in \.avi, \.bmp"):
        read_sample(tmp_path / "a.txt")


def test_a_playlist_in_disguise_is_not_followed(tmp_path):
    (tmp_path / "secret.mp4").write_bytes(encode_mp4(gray_video([1, 2])))
    (tmp_path / "a.mp4").write_text("ffconcat version 1.0\nfile 'secret.mp4'\n")
    (tmp_path / "b.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n")
    for name in ("a.mp4", "b.mp4"):
        with pytest.raises(ConfigError, match="cannot be read as video"):
            read_video(tmp_path / name)


def test_files_that_are_too_large(tmp_path, monkeypatch):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    (tmp_path / "a.mp4").write_bytes(encode_mp4(gray_video(range(6), size=40)))
    monkeypatch.setattr(inputs, "_VIDEOS", replace(inputs._VIDEOS, max_frames=5))
    with pytest.raises(ConfigError, match="at most 5 frames"):
        read_video(tmp_path / "a.mp4")
    monkeypatch.setattr(inputs, "_VIDEOS", replace(inputs._VIDEOS, max_pixels=1599))
    monkeypatch.setattr(inputs, "_IMAGES", replace(inputs._IMAGES, max_pixels=1599))
    for name in ("a.png", "a.mp4"):
        with pytest.raises(ConfigError, match="at most 1599 pixels, got 40 x 40"):
            read_sample(tmp_path / name)


def test_a_file_with_sound_alone(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ConfigError, match="without a video stream"):
        read_video(tmp_path / "a.mp4")
