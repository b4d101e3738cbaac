from __future__ import annotations

import io

import av
import numpy as np
import pytest
from PIL import Image

from flexgym import rewards
from flexgym.core.errors import ConfigError
from flexgym.rewards import mp4_compressibility
from flexgym.rewards.known import noise
from flexgym.types import Prompt, SampleGroup


def score(name, samples, **settings):
    return rewards.make(name, **settings).score([SampleGroup(Prompt("anything"), samples)])[0]


def jpeg_bytes(picture, quality):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=quality)
    return len(buffer.getvalue())


def test_jpeg_is_minus_the_kilobytes_over_500():
    flat, rough = np.full((64, 64, 3), 90, np.uint8), noise(64, 64)
    sizes = [jpeg_bytes(picture, 95) for picture in (flat, rough)]
    assert sizes[1] > 5 * sizes[0]
    found = score("jpeg_compressibility", np.stack([flat, rough]))
    np.testing.assert_allclose(found.rewards, [-size / 1000 / 500 for size in sizes], rtol=1e-6)
    turned = score("JPEGCompressibility", np.stack([flat, rough]), incompressible=True, quality=50)
    np.testing.assert_allclose(turned.rewards, [jpeg_bytes(it, 50) / 5e5 for it in (flat, rough)], rtol=1e-6)


def test_jpeg_of_a_video_is_the_mean_over_its_frames():
    frames = np.stack([np.full((32, 32, 3), 90, np.uint8), noise(32, 32)])
    each = score("jpeg_compressibility", frames).rewards
    assert score("jpeg_compressibility", frames[None]).rewards[0] == pytest.approx(each.mean())


def test_mp4_is_minus_the_kilobytes_per_frame_of_a_file_that_plays(monkeypatch):
    still, rough = np.full((6, 32, 48, 3), 90, np.uint8), noise(6, 32, 48)
    files = []
    real = mp4_compressibility.encode_mp4
    monkeypatch.setattr(mp4_compressibility, "encode_mp4", lambda video: files.append(real(video)) or files[-1])
    found = score("mp4_compressibility", np.stack([still, rough])).rewards
    np.testing.assert_allclose(found, [-len(file) / 1000 / 6 for file in files], rtol=1e-6)
    assert found[0] > 5 * found[1]
    with av.open(io.BytesIO(files[1])) as container:
        assert sum(1 for _ in container.decode(video=0)) == 6
    turned = score("mp4_compressibility", np.stack([still, rough]), incompressible=True).rewards
    np.testing.assert_allclose(turned, -found)


def test_what_cannot_be_compressed_is_a_failure(caplog):
    failed = score("mp4_compressibility", np.zeros((2, 8, 8, 3), np.uint8))
    assert np.isnan(failed.rewards).all()
    assert failed.failures == {"mp4_compressibility": 2}
    assert "scores videos" in caplog.text
    with pytest.raises(ConfigError, match="1 to 95"):
        rewards.make("jpeg_compressibility", quality=100)
