import numpy as np
import pytest
from safetensors.numpy import load_file

from flexgym.audit.classifier import OTHER, SHAPES, WEIGHTS
from flexgym.audit.segments import PATCH
from research.audit import draw, main


def test_drawings_are_reproducible():
    (image, things), (again, _) = (draw(np.random.default_rng(3)) for _ in range(2))
    assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)
    np.testing.assert_array_equal(image, again)
    assert things
    assert all(0 <= label <= OTHER and 0.0 <= cover.min() <= cover.max() <= 1.0 for label, cover in things)


@pytest.mark.slow
def test_a_short_training_writes_weights_like_those_that_ship(tmp_path):
    for name in ("first", "second"):
        main(output=tmp_path / f"{name}.safetensors", images=150, steps=200, seed=1)
    first, second, shipped = (load_file(path) for path in (*sorted(tmp_path.iterdir()), WEIGHTS))
    assert {name: values.shape for name, values in first.items()} == {n: v.shape for n, v in shipped.items()}
    assert first["first.weight"].shape[1] == PATCH * PATCH + 1
    assert len(first["third.bias"]) == len(SHAPES) + 1
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])
