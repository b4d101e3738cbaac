from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from flexgym import types as module
from flexgym.core.errors import PromptSourceError
from flexgym.types import FirstFrame


def pixels(height=6, width=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(path, array):
    Image.fromarray(array).save(path)
    return path


def test_a_file_and_its_pixels_are_the_same_first_frame(tmp_path):
    array = pixels()
    read, given = FirstFrame(saved(tmp_path / "a.png", array)), FirstFrame(array)
    np.testing.assert_array_equal(read.pixels, array)
    assert read == given
    assert hash(read) == hash(given)
    assert read != FirstFrame(pixels(seed=1))
    assert FirstFrame(array.reshape(8, 6, 3)) != given, "the same bytes of another shape"
    assert pickle.loads(pickle.dumps(read)) == given


def test_the_pixels_do_not_follow_the_array_they_came_from():
    array = pixels()
    frame = FirstFrame(array)
    array[:] = 0
    np.testing.assert_array_equal(frame.pixels, pixels())
    with pytest.raises(ValueError, match="read-only"):
        frame.pixels[:] = 0


def test_fitting_covers_the_sample_and_cuts_off_two_sides():
    array = np.zeros((4, 12, 3), np.uint8)
    array[:, 4:8] = 255  # the middle third
    fitted = FirstFrame(array).fitted(8, 8)
    assert fitted.pixels.shape == (8, 8, 3)
    assert fitted.pixels[:, 2:6].min() > 200
    assert fitted.fitted(8, 8) is fitted


def test_a_file_is_read_upright_and_in_rgb(tmp_path):
    image = Image.fromarray(pixels()[..., 0])
    exif = image.getexif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "grey.png", exif=exif)
    assert FirstFrame(tmp_path / "grey.png").pixels.shape == (8, 6, 3)


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((2, 2)),
        np.zeros((2, 2, 4), np.uint8),
        np.zeros((0, 2, 3), np.uint8),
        3,
        "no/such.png",
        "https://a.b/c.png",
    ],
)
def test_values_that_are_no_image_are_rejected(value):
    with pytest.raises(PromptSourceError):
        FirstFrame(value)


def test_files_that_cannot_be_trusted_are_rejected(tmp_path, monkeypatch):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(PromptSourceError, match="cannot be read as an image: .* expected BMP, JPEG, PNG or WebP"):
        FirstFrame(tmp_path / "text.png")
    path = saved(tmp_path / "a.png", pixels(64, 64))
    path.write_bytes(path.read_bytes()[:2000])
    cut = FirstFrame(path)  # its header is whole
    with pytest.raises(PromptSourceError, match="cannot be read"):
        _ = cut.pixels
    saved(path, pixels(64, 64))
    monkeypatch.setattr(module, "_FRAMES", replace(module._FRAMES, max_bytes=100))
    with pytest.raises(PromptSourceError, match="at most 100 bytes"):
        FirstFrame(path)
    monkeypatch.undo()
    monkeypatch.setattr(module, "_FRAMES", replace(module._FRAMES, max_pixels=64 * 63))
    with pytest.raises(PromptSourceError, match="64 x 64"):
        FirstFrame(path)
    monkeypatch.setattr(module, "MAX_PIXELS", 64 * 63)
    with pytest.raises(PromptSourceError, match="64 x 64"):
        FirstFrame(pixels(64, 64))
