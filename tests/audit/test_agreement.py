import numpy as np
import pytest

from flexgym.audit import shown
from flexgym.shapes.sampling import draw_clip, draw_scene, draw_spec
from flexgym.shapes.scenes import render, render_video
from flexgym.shapes.splits import split_of
from research.agreement import WEARS, agreement, shown_agreement


def shares(results):
    return {category: np.mean([one for found in ways.values() for one in found]) for category, ways in results.items()}


@pytest.mark.parametrize("modality", ["image", "video"])
def test_the_audit_agrees_with_rendered_scenes(modality):
    found = shares(agreement(modality, split="validation", count=6))
    assert len(found) == 7
    assert min(found.values()) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["image", "video"])
@pytest.mark.parametrize("wear", list(WEARS))
def test_the_audit_agrees_with_worn_scenes_of_each_category(modality, wear):
    count = 20 if modality == "image" else 8
    found = shares(agreement(modality, split="test", count=count, wear=wear, seed=1))
    assert np.mean(list(found.values())) >= 0.98
    assert min(found.values()) >= (0.98 if wear in ("none", "blur", "noise") else 0.94)


@pytest.mark.parametrize("modality", ["image", "video"])
def test_the_audit_names_the_compositions_of_rendered_scenes(modality):
    found = shown_agreement(modality, split="training", count=5)
    assert min(map(np.mean, found.values())) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize(("modality", "count"), [("image", 1500), ("video", 300)])
def test_no_training_sample_shows_a_held_out_composition(modality, count):
    rng = np.random.default_rng(2)
    for _ in range(count):
        spec = draw_spec(rng, modality, "training")
        sample = render(draw_scene(rng, spec)) if modality == "image" else render_video(draw_clip(rng, spec))
        assert split_of(shown(sample), modality) == "training", spec
