"""Data sets of captioned samples from all kinds of files: what is read, chosen, left out and named in errors."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from flexgym.data import DataError, RowError
from flexgym.data.captioned import DataFiles
from flexgym.data.order import EpochOrder
from flexgym.data.pixels import SampleForm
from flexgym.shapes.drawn import SmallWorld
from flexgym.shapes.verifier import verify
from tests.data.builders import image_bytes, write_images, write_lines, write_parquet, write_video
from tests.data.test_shards import write_shard

IMAGE, VIDEO = SampleForm((16, 24, 3)), SampleForm((3, 32, 32, 3))


def opened(path, form=IMAGE, group_size=1, **settings):
    return DataFiles((str(path),), **settings).open(form, group_size)


def test_every_kind_of_file_and_every_name_of_a_caption(tmp_path):
    data = [image_bytes(seed, kind="PNG") for seed in range(3)]
    write_images(tmp_path, "0.png", "1.png", "2.png")
    lines = [
        {"prompt": "p0", "image": "0.png"},
        {"caption": "p1", "image": "1.png"},
        {"text": "p2", "samples": "2.png"},
    ]
    rows = [{"text": f"p{seed}", "image": {"bytes": each, "path": None}} for seed, each in enumerate(data)]
    shard = {
        f"{seed}.{end}": each for seed in range(3) for end, each in (("png", data[seed]), ("txt", f"p{seed}".encode()))
    }
    files = [
        write_lines(tmp_path / "a.jsonl", lines),
        write_parquet(tmp_path / "a.parquet", rows),
        write_shard(tmp_path / "a.tar", shard),
    ]
    sets = [opened(path) for path in files]
    for number in (2, 0, 1):
        found = [each[number] for each in sets]
        assert {row.caption for row in found} == {f"p{number}"}
        assert len({row.samples[0].key for row in found}) == 1, "the same content has the same key"
        pixels = [row.samples[0].load() for row in found]
        assert all(np.array_equal(each, pixels[0]) for each in pixels)
        assert pixels[0].shape == IMAGE.shape
        assert found[0].scores.tolist() == [1.0]
    assert sets[0].captions() == ["p0", "p1", "p2"]


def test_patterns_take_all_files_in_order(tmp_path):
    for number in (1, 0):
        write_shard(tmp_path / f"s{number}.tar", {"a.png": image_bytes(number), "a.txt": f"p{number}".encode()})
    assert opened(tmp_path / "s*.tar").captions() == ["p0", "p1"]
    with pytest.raises(DataError, match=r"t\*\.tar.*matches none"):
        opened(tmp_path / "t*.tar")


def test_scores_choose_the_samples_of_a_group(tmp_path):
    write_images(tmp_path, *(f"{number}.png" for number in range(4)))
    rows = [{"prompt": "p", "samples": [f"{number}.png" for number in range(4)], "scores": [0.5, None, 2, -1]}]
    path = write_lines(tmp_path / "a.jsonl", rows)
    every = opened(path, group_size=4)[0]
    np.testing.assert_array_equal(every.scores, np.float32([0.5, np.nan, 2, -1]))
    best = opened(path, group_size=2, select="best")[0]
    assert best.scores.tolist() == [2, 0.5]
    assert [each.key for each in best.samples] == [every.samples[2].key, every.samples[0].key]
    pair = opened(path, group_size=2, select="extremes")[0]
    assert pair.scores.tolist() == [2, -1]
    with pytest.raises(DataError, match=r"expected 3 samples \(rollout.group_size\) in a row, got 4"):
        opened(path, group_size=3)


def test_pairs_of_preference_data_are_groups_of_two(tmp_path):
    write_images(tmp_path, "a.png", "b.png")
    rows = [
        {"prompt": "1", "kind": "image", "first": "a.png", "second": "b.png", "winner": 1},
        {"prompt": "2", "chosen": "a.png", "rejected": "b.png"},
        {"prompt": "3", "kind": "image", "first": "a.png", "second": "b.png", "winner": None},
        {"prompt": "4", "kind": "image", "first": "a.png", "second": "b.png"},
    ]
    found = opened(write_lines(tmp_path / "a.jsonl", rows), group_size=2, max_bad=0.5)
    assert [row.scores.tolist() for row in found] == [[0, 1], [1, 0], [0.5, 0.5]]
    assert "winner: expected 0" in found.rows.report.examples[0]
    decided = opened(write_lines(tmp_path / "b.jsonl", rows[:3]), group_size=2, select="extremes", max_bad=0.5)
    assert decided.captions() == ["1", "2"]


def test_bad_rows_are_left_out_up_to_a_share(tmp_path):
    write_images(tmp_path, "a.png")
    (tmp_path / "broken.png").write_bytes(image_bytes(kind="PNG")[:60])
    rows = [
        {"prompt": "good", "image": "a.png"},
        {"prompt": "bad", "image": "broken.png"},
        {"prompt": " ", "image": "a.png"},
    ]
    path = write_lines(tmp_path / "a.jsonl", [*rows, {"prompt": "p", "image": "../a.png"}, {"prompt": "p", "score": 1}])
    assert opened(path, max_bad=1.0).captions() == ["good"]
    many = write_lines(tmp_path / "b.jsonl", rows[:1] * 80 + rows[1:2] * 20)
    with pytest.raises(DataError, match=r"20 of the first 100 rows are bad.*b\.jsonl, line 81"):
        opened(many)


def test_an_error_in_training_names_file_and_line(tmp_path):
    write_images(tmp_path, "a.png", "b.png")
    rows = opened(write_lines(tmp_path / "a.jsonl", [{"prompt": "p", "image": name} for name in ("a.png", "b.png")]))
    (tmp_path / "b.png").write_bytes(b"changed")
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: .*b\.png"):
        rows[1].samples[0].load()
    (tmp_path / "b.png").unlink()
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: "):
        rows[1]
    assert rows[0].samples[0].load().shape == IMAGE.shape


def test_an_error_of_a_row_can_be_sent_between_processes():
    error = pickle.loads(pickle.dumps(RowError("missing_file", "no such file")))
    assert (error.kind, str(error)) == ("missing_file", "no such file")


def test_an_image_covers_the_form_and_is_cropped_to_its_center(tmp_path):
    wide = np.zeros((16, 64, 3), np.uint8)
    wide[:, 20:44] = 200
    Image.fromarray(wide).save(tmp_path / "a.png")
    found = opened(write_lines(tmp_path / "a.jsonl", [{"prompt": "p", "image": "a.png"}]))
    assert (found[0].samples[0].load() == 200).all()


def test_videos_give_their_first_or_spread_frames(tmp_path):
    write_video(tmp_path / "v.mp4", num_frames=7)
    write_video(tmp_path / "short.mp4", num_frames=2)
    write_images(tmp_path, "f0.png", "f1.png", "f2.png")
    rows = [{"prompt": name, "video": name} for name in ("v.mp4", "short.mp4", "f0.png")]
    path = write_lines(tmp_path / "a.jsonl", [*rows, {"prompt": "frames", "video": ["f0.png", "f1.png", "f2.png"]}])
    found = opened(path, VIDEO, max_bad=0.6)
    assert found.captions() == ["v.mp4", "frames"]
    assert any("at least 3 frames, got 2" in each for each in found.rows.report.examples)
    first = found[0].samples[0].load().mean((1, 2, 3))
    spread = opened(path, SampleForm(VIDEO.shape, "spread"), max_bad=0.6)[0].samples[0].load().mean((1, 2, 3))
    np.testing.assert_allclose(first, [0, 20, 40], atol=3)
    np.testing.assert_allclose(spread, [0, 60, 120], atol=3)
    with pytest.raises(DataError, match="expected one image, since the generator makes images"):
        opened(write_lines(tmp_path / "b.jsonl", rows[:1]))


def test_a_saved_index_is_used_again(tmp_path):
    write_images(tmp_path, "a.png")
    path = write_lines(tmp_path / "a.jsonl", [{"prompt": "p", "image": "a.png"}])
    opened(path, index=str(tmp_path / "cache"))
    (tmp_path / "a.png").unlink()
    assert opened(path, index=str(tmp_path / "cache")).captions() == ["p"], "the files were not read again"
    with pytest.raises(DataError):
        opened(path)


def test_every_epoch_has_each_row_once_in_an_order_of_its_own():
    order = EpochOrder(7, seed=3)
    epochs = [[order.row(epoch * 7 + place) for place in range(7)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [EpochOrder(7, seed=3).row(place) for place in (20, 0, 9)] == [epochs[2][6], epochs[0][0], epochs[1][2]]


@pytest.mark.parametrize("shape", [(32, 32, 3), (9, 32, 32, 3)])
def test_the_small_world_draws_right_samples_first(shape):
    world = SmallWorld(SampleForm(shape), 2, count=40)
    rows = [world[index] for index in range(len(world))]
    right = [verify(row.caption, row.samples[0].load()).satisfied for row in rows]
    wrong = [verify(row.caption, row.samples[1].load()).satisfied for row in rows]
    assert np.mean(right) > 0.9
    assert np.mean(wrong) < 0.2
    assert rows[3].scores.tolist() == [1.0, 0.0]
    assert np.array_equal(world[3].samples[0].load(), rows[3].samples[0].load())
