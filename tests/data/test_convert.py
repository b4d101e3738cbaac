from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace

import pytest

from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.data import BadRows, DataError, PreferencePair, ReadOptions, SFTRow, read_rows
from flexgym.data.convert import FORMATS, convert
from flexgym.judge.dialect import FLEX, THINK
from tests.data.builders import (
    FLEX_REPLY,
    THINK_REPLY,
    image_bytes,
    write_images,
    write_lines,
    write_parquet,
    write_video,
)

LENIENT = ReadOptions(bad=BadRows(max_share=1.0))


def write_json(path, rows):
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def converted(name, source, *, schema=PreferencePair, **settings):
    """The report, and the rows as they stand in the file."""
    done = convert(name, source, source.parent / "out.jsonl", **({"seed": None} | settings))
    lines = [json.loads(line) for line in done.path.read_text(encoding="utf-8").splitlines()]
    assert done.written == len(lines)
    # What was written is read again, from a file whose media are all there.
    assert len(list(read_rows(done.path, schema))) == len(lines)
    return done.report, lines


# --- HPDv3 -----------------------------------------------------------------------------------------------------------


def hpdv3(**changes):
    row = {
        "prompt": "a fox",
        "path1": "images/w.jpg",
        "path2": "images/l.jpg",
        "model1": "flux",
        "model2": "sd2",
        "confidence": 0.96,
        "choice_dist": [12, 1],
    }
    return row | changes


@pytest.mark.parametrize("ending", ["list.json", "lines.json", "jsonl", "parquet"])
def test_hpdv3(tmp_path, ending):
    write_images(tmp_path / "images", "w.jpg", "l.jpg")
    rows = [hpdv3(), hpdv3(confidence=None, choice_dist=None, prompt="ein Fuchs, 狐")]
    path = tmp_path / f"train.{ending}"
    {"list.json": write_json, "parquet": write_parquet}.get(ending, write_lines)(path, rows)
    report, pairs = converted("hpdv3", path)
    first = {"prompt": "a fox", "kind": "image", "first": "images/w.jpg", "second": "images/l.jpg", "winner": 0}
    assert pairs[0] == first | {"source": "HPDv3", "confidence": 0.96}
    assert pairs[1] == first | {"source": "HPDv3", "prompt": "ein Fuchs, 狐"}
    assert report.describe() == "rows: 2 good, 0 bad"


def test_hpdv3_rows_that_are_not_sure(tmp_path):
    write_images(tmp_path / "images", "w.jpg", "l.jpg")
    source = write_json(tmp_path / "train.json", [hpdv3(confidence=sure) for sure in (0.99, 0.6, None, 0.9)])
    report, pairs = converted("hpdv3", source, min_confidence=0.9)
    assert [pair.get("confidence") for pair in pairs] == [0.99, None, 0.9]
    assert report.skipped == {"below min_confidence": 1}
    assert report.describe() == "rows: 3 good, 0 bad; skipped: 1 below min_confidence"


# --- Pick-a-Pic ------------------------------------------------------------------------------------------------------


def pickapic(**changes):
    row = {
        "caption": "a fox",
        "jpg_0": image_bytes(0),
        "jpg_1": image_bytes(1),
        "label_0": 1.0,
        "label_1": 0.0,
        "has_label": True,
        "are_different": True,
        "ranking_id": 77,
        "user_id": 5,
        "model_0": "sdxl",
    }
    return row | changes


def test_pickapic(tmp_path):
    rows = [
        pickapic(),
        pickapic(label_0=0.0, label_1=1.0, ranking_id=78),
        pickapic(label_0=0.5, label_1=0.5),
        pickapic(has_label=False),
        pickapic(label_0=None, label_1=None, has_label=None),
        pickapic(label_0=0.7, label_1=0.3),
        pickapic(jpg_1=image_bytes(1)[:-100]),
        pickapic(jpg_0=None),
        pickapic(caption=None),
    ]
    source = write_parquet(tmp_path / "train-0.parquet", rows)
    report, pairs = converted("pickapic", source, options=LENIENT)
    assert [pair["winner"] for pair in pairs] == [0, 1, None]
    assert [pair["id"] for pair in pairs] == ["77", "78", "77"]
    assert report.skipped == {"unlabelled": 2}
    assert report.bad == {"invalid": 1, "unreadable_media": 1, "one_side": 1, "missing_key": 1}
    # Every image is written once, beside the file.
    assert {pair["first"] for pair in pairs} | {pair["second"] for pair in pairs} == {
        path.relative_to(tmp_path).as_posix() for path in (tmp_path / "out_media").rglob("*.jpg")
    }
    assert len(list((tmp_path / "out_media").rglob("*.jpg"))) == 2
    assert (tmp_path / pairs[0]["first"]).read_bytes() == rows[0]["jpg_0"]


def test_images_as_hugging_face_embeds_them(tmp_path):
    rows = [pickapic(jpg_0={"bytes": image_bytes(0), "path": "0.jpg"}, jpg_1={"bytes": image_bytes(1), "path": None})]
    _, pairs = converted("pickapic", write_parquet(tmp_path / "d.parquet", rows))
    assert (tmp_path / pairs[0]["second"]).read_bytes() == image_bytes(1)


# --- Rapidata --------------------------------------------------------------------------------------------------------


def rapidata(preference=(3.2, 1.8), coherence=(1.0, 1.0), **changes):
    row = {"prompt": "a fox runs", "file_name1": "sora/1.mp4", "file_name2": "veo/1.mp4", "model1": "sora"}
    for name, votes in (("Preference", preference), ("Coherence", coherence), ("Alignment", (0.0, 4.0))):
        row |= {f"weighted_results{side + 1}_{name}": votes[side] for side in (0, 1)}
        row |= {f"detailedResults_{name}": "[]"}
    return row | changes


def test_rapidata(tmp_path):
    write_video(tmp_path / "videos/sora/1.mp4")
    write_video(tmp_path / "videos/veo/1.mp4", level=30)
    (tmp_path / "data").mkdir()
    rows = [
        rapidata(),
        rapidata((1.0, 3.0), (None, None)),
        rapidata((2.5, 2.5)),
        rapidata((None, None)),
        rapidata((1.0, None)),
        rapidata((-1.0, 2.0)),
        rapidata(file_name2=None),
        rapidata(file_name1="https://assets.rapidata.ai/1.mp4"),
    ]
    source = write_parquet(tmp_path / "data" / "train.parquet", rows)
    done = convert(
        "rapidata", source, tmp_path / "out.jsonl", options=replace(LENIENT, folder=tmp_path / "videos"), seed=None
    )
    pairs = [json.loads(line) for line in done.path.read_text().splitlines()]
    assert [pair["winner"] for pair in pairs] == [0, 1, None]
    assert [pair["aspects"] for pair in pairs] == [
        {"coherence": None, "alignment": 1},
        {"alignment": 1},
        {"coherence": None, "alignment": 1},
    ]
    assert [pair["confidence"] for pair in pairs] == pytest.approx([0.64, 0.75, 0.5])
    assert (pairs[0]["first"], pairs[0]["second"]) == ("videos/sora/1.mp4", "videos/veo/1.mp4")
    assert (done.report.skipped, done.report.bad) == (
        {"unlabelled": 1},
        {"invalid": 2, "one_side": 1, "missing_file": 1},
    )


def test_rapidata_with_videos_in_the_rows(tmp_path):
    write_video(tmp_path / "1.mp4")
    write_video(tmp_path / "2.mp4", level=30)
    videos = {f"video{side}": {"bytes": (tmp_path / f"{side}.mp4").read_bytes(), "path": None} for side in (1, 2)}
    _, (pair,) = converted("rapidata", write_parquet(tmp_path / "d.parquet", [rapidata(**videos)]))
    assert pair["first"].startswith("out_media/")
    assert pair["first"].endswith(".mp4")
    assert (tmp_path / pair["second"]).read_bytes() == (tmp_path / "2.mp4").read_bytes()


# --- VideoDPO --------------------------------------------------------------------------------------------------------


def test_videodpo(tmp_path):
    for folder, level in (("winvideos", 0), ("losevideos", 40)):
        write_video(tmp_path / folder / "000012.mp4", level=level)
    rows = [
        {"frame_caption": "a fox runs", "video1": 24, "video2": 25, "label": 0},
        {"frame_caption": ["a fox runs"], "video1": 25, "video2": 24},
        {"frame_caption": "a fox runs", "video1": 24, "video2": 26},
        {"frame_caption": "a fox runs", "video1": 24},
        {"frame_caption": "a fox runs", "video1": "24", "video2": 25},
        {"id": "9", "caption": "a fox", "chosen": "winvideos/000012.mp4", "rejected": "losevideos/000012.mp4"},
        {"caption": "a fox", "chosen": "winvideos/000012.mp4", "rejected": ""},
        {"frame_caption": "a fox", "video1": 26, "video2": 25},
    ]
    report, pairs = converted("videodpo", write_json(tmp_path / "pair.json", rows), options=LENIENT)
    win, lose = "winvideos/000012.mp4", "losevideos/000012.mp4"
    assert [(pair["first"], pair["second"], pair["winner"]) for pair in pairs] == [
        (win, lose, 0),
        (lose, win, 1),
        (win, lose, 0),
    ]
    assert {pair["prompt"] for pair in pairs} == {"a fox runs", "a fox"}
    assert pairs[2]["id"] == "9"
    assert report.bad == {"invalid": 1, "one_side": 2, "wrong_type": 1, "missing_file": 1}


# --- VideoFeedback ---------------------------------------------------------------------------------------------------


def videofeedback(number, scores, prompt="a fox runs", frames=2):
    names = (
        "visual quality",
        "temporal consistency",
        "dynamic degree",
        "text-to-video alignment",
        "factual consistency",
    )
    return {
        "id": str(number),
        "images": [f"{number}/{frame}.jpg" for frame in range(frames)],
        "text prompt": prompt,
        "video link": "https://a.b/c.mp4",
        **dict(zip(names, scores, strict=True)),
        "conversations": [],
    }


def test_videofeedback(tmp_path):
    rows = [
        videofeedback(0, (4, 3, 2, 3, 3)),  # mean 3
        videofeedback(5, (1, 1, 1, 1, 1), prompt="alone"),
        videofeedback(1, (3, 3, 3, 2, 1)),  # mean 2.4
        videofeedback(2, (3, 3, 3, 3, 3)),  # mean 3
        videofeedback(3, (None,) * 5),
        videofeedback(4, (1, 2, None, 1, 1)),
    ]
    for row in rows:
        write_images(tmp_path, *row["images"])
    report, pairs = converted("videofeedback", write_json(tmp_path / "train.json", rows), options=LENIENT)
    assert [(pair["id"], pair["winner"]) for pair in pairs] == [("0 1", 0), ("1 2", 1), ("2 0", None)]
    assert pairs[0]["first"] == ["0/0.jpg", "0/1.jpg"]
    assert pairs[0]["aspects"] == {
        "visual quality": 0,
        "temporal consistency": None,
        "dynamic degree": 1,
        "text-to-video alignment": 0,
        "factual consistency": 0,
    }
    assert (report.good, report.skipped, report.bad) == (4, {"unlabelled": 1}, {"missing_key": 1})


def test_videofeedback2(tmp_path):
    rows = [
        {
            "video_name": f"v{number}",
            "prompt": f"prompt {number % 2}",
            "visual_score": score,
            "t2v_score": 3,
            "phy_score": 2,
        }
        for number, score in enumerate([5, 1, 2, 4])
    ]
    for number in range(4):
        write_video(tmp_path / f"v{number}.mp4", level=10 * number)
    _, pairs = converted("videofeedback2", write_json(tmp_path / "train.json", rows))
    assert [(pair["prompt"], pair["first"], pair["second"], pair["winner"]) for pair in pairs] == [
        ("prompt 0", "v0.mp4", "v2.mp4", 0),
        ("prompt 1", "v1.mp4", "v3.mp4", 1),
    ]
    assert pairs[0]["aspects"]["physical consistency"] is None


def test_a_prompt_with_many_samples_gives_few_pairs_and_uses_all_of_them(tmp_path):
    rows = [videofeedback(number, (number % 4 + 1,) * 5, frames=1) for number in range(8)]
    for row in rows:
        write_images(tmp_path, *row["images"])
    _, pairs = converted("videofeedback", write_json(tmp_path / "train.json", rows))
    shown = [name for pair in pairs for name in (pair["first"], pair["second"])]
    assert len(pairs) == 8
    assert {shown.count(f"{number}/0.jpg") for number in range(8)} == {2}
    assert len({frozenset((pair["first"], pair["second"])) for pair in pairs}) == 8


def test_of_very_many_samples_those_far_apart_are_shown(tmp_path):
    rows = [videofeedback(number, (1, 2, 3, 4, 1), frames=1) for number in range(29)]
    source = write_json(tmp_path / "train.json", rows)
    done = convert("videofeedback", source, tmp_path / "out.jsonl", seed=None, options=ReadOptions(check="none"))
    pairs = [json.loads(line) for line in done.path.read_text().splitlines()]
    # Eight of 29 neighbors in a ring, 28 / 7 = 4 apart.
    assert [pair["id"] for pair in pairs] == ["0 1", "4 5", "8 9", "12 13", "16 17", "20 21", "24 25", "28 0"]


@pytest.mark.parametrize(("samples", "expected"), [(2, 1), (3, 3), (4, 6)])
def test_every_pair_of_a_small_group_comes_once(tmp_path, samples, expected):
    rows = [videofeedback(number, (1, 2, 3, 4, number % 4 + 1), frames=1) for number in range(samples)]
    for row in rows:
        write_images(tmp_path, *row["images"])
    _, pairs = converted("videofeedback", write_json(tmp_path / "train.json", rows))
    assert len({frozenset((pair["first"], pair["second"])) for pair in pairs}) == len(pairs) == expected


def test_ratings_that_make_no_pair(tmp_path):
    write_images(tmp_path, "0/0.jpg", "0/1.jpg", "1/0.jpg", "1/1.jpg")
    rows = [videofeedback(0, (1,) * 5), videofeedback(1, (1,) * 5, prompt="another")]
    with pytest.raises(DataError, match="no prompt has two different samples"):
        converted("videofeedback", write_json(tmp_path / "train.json", rows))
    assert not (tmp_path / "out.jsonl").exists()


# --- LLaMA-Factory ---------------------------------------------------------------------------------------------------


def conversation(reply, question="<image>\n<image>\nWhich is better?", **changes):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": reply}]
    return {"conversations": turns, "images": ["a.png", "b.png"]} | changes


def test_conversations_of_the_unified_reward_family(tmp_path):
    write_images(tmp_path, "a.png", "b.png")
    rows = [
        conversation("Image 1 is better", id=3),
        conversation(THINK_REPLY, "Which is better?"),
        conversation(FLEX_REPLY),
        conversation(json.loads(FLEX_REPLY), "first <image> second <image>"),
        conversation("Final Score: 4", "<image>Rate it.", images="a.png", system="You are a critic."),
    ]
    report, found = converted("llama_factory", write_json(tmp_path / "train.json", rows), schema=SFTRow)
    replies = [row["messages"][-1]["content"][0]["text"] for row in found]
    assert report.good == 5
    assert THINK.parse(replies[1], "stop").side == 0
    assert FLEX.parse(replies[2], "stop") == FLEX.parse(replies[3], "stop") == FLEX.parse(FLEX_REPLY, "stop")
    image = {"type": "image"}
    assert found[0]["messages"][0]["content"] == [
        image,
        {"type": "text", "text": "\n"},
        image,
        {"type": "text", "text": "\nWhich is better?"},
    ]
    assert found[1]["messages"][0]["content"] == [image, image, {"type": "text", "text": "Which is better?"}]
    assert [part["type"] for part in found[3]["messages"][0]["content"]] == ["text", "image", "text", "image"]
    assert [message["role"] for message in found[4]["messages"]] == ["system", "user", "assistant"]
    assert (found[0]["id"], found[4]["images"]) == ("3", ["a.png"])


def test_conversations_in_other_words(tmp_path):
    write_images(tmp_path, "a.png")
    turns = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "say <image>"}] * 2
    source = write_lines(tmp_path / "d.jsonl", [{"messages": turns, "image": "a.png"}])
    _, (row,) = converted("llama_factory", source, schema=SFTRow)
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * 2
    assert row["messages"][1]["content"] == [{"type": "text", "text": "say <image>"}]
    assert [len(message["content"]) for message in row["messages"]] == [2, 1, 1, 1]


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        (conversation("x", "<image>?"), "invalid", "1 placeholders for 2 images"),
        (conversation("x", images=[]), "invalid", "images"),
        (conversation("x", images=None), "missing_key", "'images' or 'image' is missing"),
        (conversation("x", images=["a.png", "none.png"]), "missing_file", "none.png"),
        (conversation(""), "invalid", "only whitespace"),
        (conversation(4), "wrong_type", "expected a text, got int"),
        (conversation("x", conversations="x"), "wrong_type", "expected a list of objects"),
        (conversation("x", conversations=[{"from": "human"}]), "missing_key", "'value' or 'content'"),
        (conversation("x", conversations=[{"from": "observation", "value": "x"}]), "invalid", "'observation'"),
        (conversation("x", images=None, videos=["a.mp4"]), "wrong_type", "extract frames of the videos first"),
    ],
)
def test_conversations_that_are_bad(tmp_path, row, kind, reason):
    write_images(tmp_path, "a.png", "b.png")
    source = write_json(tmp_path / "train.json", [conversation("good"), row])
    report, found = converted("llama_factory", source, schema=SFTRow, options=LENIENT)
    assert len(found) == 1
    assert report.bad == {kind: 1}
    assert reason in report.examples[0]
    assert report.examples[0].startswith(f"{source}, row 2: ")


# --- all of them -----------------------------------------------------------------------------------------------------


def test_sides_are_shuffled_from_a_seed(tmp_path):
    write_images(tmp_path / "images", "w.jpg", "l.jpg")
    source = write_json(tmp_path / "train.json", [hpdv3(prompt=f"prompt {number}") for number in range(200)])
    orders = []
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        done = convert("hpdv3", source, tmp_path / f"{name}.jsonl", seed=seed, options=ReadOptions(check="exists"))
        rows = [json.loads(line) for line in done.path.read_text().splitlines()]
        assert all((row["first"], row["second"])[row["winner"]] == "images/w.jpg" for row in rows)
        orders.append([row["winner"] for row in rows])
    assert 70 < sum(orders[0]) < 130
    assert orders[0] == orders[1] != orders[2]


def test_an_unknown_format_and_settings_that_make_no_sense(tmp_path):
    source = write_json(tmp_path / "train.json", [hpdv3()])
    with pytest.raises(UnknownNameError, match="Did you mean 'hpdv3'"):
        convert("hpd_v3", source, tmp_path / "out.jsonl")
    with pytest.raises(ConfigError, match="min_confidence: expected 0 to 1"):
        convert("hpdv3", source, tmp_path / "out.jsonl", min_confidence=2)
    with pytest.raises(ConfigError, match=r"ending in \.jsonl"):
        convert("hpdv3", source, tmp_path / "out.json")
    with pytest.raises(DataError, match="does not exist"):
        convert("hpdv3", tmp_path / "none.json", tmp_path / "out.jsonl")
    assert all(form.name == name and form.about for name, form in FORMATS.items())


def test_a_conversion_that_fails_leaves_no_file_and_does_not_harm_one(tmp_path):
    source = write_json(tmp_path / "train.json", [hpdv3()] * 3)
    with pytest.raises(DataError, match="expected valid rows, got .*3 missing_file"):
        convert("hpdv3", source, tmp_path / "out.jsonl")
    (tmp_path / "broken.json").write_text(json.dumps([hpdv3()])[:-1])
    write_images(tmp_path / "images", "w.jpg", "l.jpg")
    with pytest.raises(DataError, match="the document is invalid"):
        convert("hpdv3", tmp_path / "broken.json", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    convert("hpdv3", source, tmp_path / "out.jsonl")
    before = (tmp_path / "out.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="already exists"):
        convert("hpdv3", source, tmp_path / "out.jsonl")
    with pytest.raises(DataError):
        convert("hpdv3", tmp_path / "broken.json", tmp_path / "out.jsonl", overwrite=True)
    assert (tmp_path / "out.jsonl").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.json", "images", "out.jsonl", "train.json"]


def test_bad_rows_of_a_conversion_are_set_aside(tmp_path):
    write_images(tmp_path / "images", "w.jpg", "l.jpg")
    source = write_json(tmp_path / "train.json", [hpdv3(), hpdv3(path2="../../l.jpg"), 7])
    options = ReadOptions(bad=BadRows(rejects=tmp_path / "rejects.jsonl"))
    converted("hpdv3", source, options=options)
    rejects = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert [(reject["row"], reject["kind"]) for reject in rejects] == [(2, "outside_root"), (3, "wrong_type")]
    assert json.loads(rejects[0]["raw"]) == hpdv3(path2="../../l.jpg")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hpdv3", "videofeedback"])
def test_a_large_source_stays_on_the_disk(tmp_path, name):
    """Also where pairs are made of rows that are far from each other."""
    with (tmp_path / "d.jsonl").open("w") as file:
        for number in range(1000):
            prompt = "x" * 10_000 + str(number % 500)
            row = hpdv3(prompt=prompt) if name == "hpdv3" else videofeedback(number, (1, 2, 3, 4, 1), prompt)
            file.write(json.dumps(row) + "\n")
    tracemalloc.start()
    done = convert(name, tmp_path / "d.jsonl", tmp_path / "out.jsonl", options=ReadOptions(check="none"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (done.report.good, done.written) == (1000, 1000 if name == "hpdv3" else 500)
    assert peak < 2_000_000  # of 10 MB
