"""Pools of generated samples, from pipelines of one thin block with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flexgym.shapes.captions import parse_caption
from flexgym.shapes.splits import compositions, draw_prompts, split_of
from flexgym.shapes.verifier import verify
from research import pretrain
from research.judge.lessons import Lessons, Phase
from research.judge.pools import GROUP, Pool, fill_pool, generated_groups

NAMES = {"image": "t2i", "video": "t2v"}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines")
    torch.manual_seed(0)
    for name in NAMES.values():
        pretrain.save(pretrain.BUILDERS[name](width=32, layers=1), name, folder / name)
    return {kind: folder / name for kind, name in NAMES.items()}


@pytest.fixture(scope="module")
def pools(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pools")
    for kind, source in sources.items():
        fill_pool(folder / kind, source, kind, captions=3, seed=5)
    return {kind: folder / kind for kind in sources}


@pytest.mark.parametrize("kind", NAMES)
def test_a_pool_holds_groups_for_training_captions(pools, kind):
    pool = Pool(pools[kind])
    assert len(pool) == 3
    rng = np.random.default_rng(0)
    for _ in range(4):
        group = pool.draw(rng)
        assert split_of(compositions(parse_caption(group.caption)), kind) == "training"
        assert group.samples.dtype == np.uint8
        assert len(group.samples) == len(group.views) == 3
        for sample, one in zip(group.samples, group.views, strict=True):
            assert (one.share == 1.0) == (one.readable and verify(group.caption, sample).satisfied)


def test_a_pool_that_was_stopped_is_completed(pools, sources, tmp_path, monkeypatch):
    monkeypatch.setattr("research.judge.pools.CHUNK", 1)
    fill_pool(tmp_path, sources["image"], "image", captions=3, seed=5)
    whole = {file.name: file.read_bytes() for file in tmp_path.glob("*.npz")}
    assert len(whole) == 3
    (tmp_path / "0001.npz").unlink()
    fill_pool(tmp_path, sources["image"], "image", captions=3, seed=5)
    assert {file.name: file.read_bytes() for file in tmp_path.glob("*.npz")} == whole
    fill_pool(tmp_path, tmp_path / "gone", "image", captions=3, seed=5)  # nothing is missing, so it is not read


def test_frames_of_videos_are_images_of_training_captions(pools):
    group = Pool(pools["video"]).draw_stills(np.random.default_rng(0))
    assert group.samples.shape == (3, 32, 32, 3)
    assert group.spec.modality == "image"
    assert split_of(compositions(group.spec), "image") == "training"


@pytest.mark.parametrize("step", [0, 1])
def test_lessons_draw_from_pools(pools, step, monkeypatch):
    monkeypatch.setattr("research.judge.lessons.GROUPS", {"image": 2, "video": 1})
    phase = Phase("a phase", 2, 0.0, {"base": 1.0, "stills": 0.5})
    folders = {kind: {"base": folder} for kind, folder in pools.items()}
    batch = Lessons(phase, folders, seed=0)[step]
    assert len(batch.tokens) == (6, 3)[step]


def test_generated_groups_have_one_for_each_caption(sources):
    captions = draw_prompts("image", "validation", 3, seed=0)
    groups = list(generated_groups(sources["image"], "image", captions, seed=0, at_once=2))
    assert [group.caption for group in groups] == captions
    assert all(group.samples.shape == (GROUP, 32, 32, 3) for group in groups)


def test_an_empty_folder_is_no_pool(tmp_path):
    with pytest.raises(FileNotFoundError, match="files of a pool, such as 0000.npz"):
        Pool(tmp_path)
