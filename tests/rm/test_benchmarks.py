"""Each adapter on small files of the benchmark's own form."""

from __future__ import annotations

import json

import pytest

from flexgym.core.errors import UnknownNameError
from flexgym.data import BadRows, DataError, ReadOptions
from flexgym.rm.benchmarks import BENCHMARKS, BenchmarkRows, find_benchmark
from flexgym.rm.evaluation_figures import Figures
from tests.data.builders import image_bytes, write_images, write_lines, write_parquet, write_video

CSV_HEAD = "path_A,path_B,A_model,B_model,prompt,VQ,MQ,TA,Overall,fps_A,num_frames_A\n"


def read(name, path, **bad):
    rows = BenchmarkRows(find_benchmark(name), [path], ReadOptions(bad=BadRows(**bad)))
    return list(rows), rows.report


def genai(kind, vote, number=0, **changes):
    sides = {f"{side}_{kind}": f"{side}{number}.{'jpg' if kind == 'image' else 'mp4'}" for side in ("left", "right")}
    return {"prompt": "a cat", **sides, "left_model": "m", "right_model": "n", "vote_type": vote} | changes


VOTES = {"leftvote": 0, "rightvote": 1, "tievote": None, "bothbad_vote": None}


def test_genai_bench_images_from_parquet(tmp_path):
    embedded = {f"{side}_image": {"bytes": image_bytes(seed), "path": f"{side}.jpg"} for seed, side in enumerate(SIDES)}
    path = write_parquet(tmp_path / "test.parquet", [genai("image", vote) | embedded for vote in VOTES])
    rows, report = read("genai_bench_image", path)
    assert [row.winner for row in rows] == list(VOTES.values())
    assert {row.kind for row in rows} == {"image"}
    assert rows[0].first[0].data == image_bytes(0)
    assert rows[0].second[0].data == image_bytes(1)
    assert report.good == 4
    assert find_benchmark("genai_bench_image").ties == "scored"


SIDES = ("left", "right")


def test_genai_bench_videos_from_json_lines(tmp_path):
    for level, side in enumerate(SIDES):
        write_video(tmp_path / f"{side}0.mp4", level=40 * level)
    path = write_lines(tmp_path / "test.jsonl", [genai("video", "rightvote"), genai("video", "tievote")])
    rows, _ = read("genai_bench_video", path)
    assert [(row.kind, row.winner) for row in rows] == [("video", 1), ("video", None)]
    assert rows[0].first[0].path == str((tmp_path / "left0.mp4").resolve())


def mmrb2(number, chosen="A", **changes):
    sides = {
        f"response_{letter}": {"model": "m", "response_content": [["image", f"images/{number}{letter}.jpg"]]}
        for letter in "ab"
    }
    about = {"pair_id": f"p{number}", "prompt_source": "wise", "prompt_content": [["text", "a cat"], ["text", "sits"]]}
    return about | sides | {"chosen": chosen} | changes


def test_mmrb2_from_its_document(tmp_path):
    write_images(tmp_path, *(f"images/{number}{letter}.jpg" for number in range(2) for letter in "ab"))
    edit = mmrb2(2, prompt_content=[["text", "make it red"], ["image", "input_images/1.jpg"]])
    told = mmrb2(3, response_a={"model": "m", "response_content": [["text", "no"]]})
    path = tmp_path / "t2i.json"
    path.write_text(json.dumps({"pairs": [mmrb2(0), mmrb2(1, "B"), edit, told]}, indent=2))
    rows, report = read("mmrb2", path)
    assert [(row.id, row.category, row.winner) for row in rows] == [("p0", "wise", 0), ("p1", "wise", 1)]
    assert rows[0].prompt == "a cat\nsits"
    assert rows[0].second[0].path.endswith("images/0b.jpg")
    assert report.skipped == {"prompt with images": 1, "response that is not one image": 1}
    assert find_benchmark("mmrb2").headline == "accuracy_dropped"


def test_mmrb2_knows_no_ties(tmp_path):
    write_images(tmp_path, "images/0a.jpg", "images/0b.jpg")
    path = tmp_path / "t2i.json"
    path.write_text(json.dumps({"pairs": [mmrb2(0), mmrb2(0, "tie"), mmrb2(0, prompt_content="a cat"), 3]}))
    rows, report = read("mmrb2", path, max_share=1.0)
    assert len(rows) == 1
    assert report.bad == {"invalid": 1, "wrong_type": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"pairs": [', "JSON document"), ('{"rows": []}', "the list 'pairs'"), ("[" * 100_000, "JSON document")],
)
def test_a_document_that_is_none_is_told(text, message, tmp_path):
    path = tmp_path / "t2i.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read("mmrb2", path)


def test_mj_bench_video_counts_labels_from_one_and_paths_from_zero(tmp_path):
    for number in range(2):
        write_video(tmp_path / "test" / f"0_{number}.mp4", level=40 * number)

    def entry(label, **changes):
        paths = {f"video_{number}_path": f"test/0_{number}.mp4" for number in range(2)}
        aspects = {"Alignment": "Video 2 better", "Safety": "Same"}
        rest = {"category_preference": aspects, "overall_preference": label, "discard": False}
        return {"caption": "a dog"} | paths | rest | changes

    labels = ("Video 1 better", "Video 2 better", "Same", "Hard to judge")
    entries = [entry(label) for label in labels] + [entry("Video 1 better", discard=True), entry("Video 0 better")]
    path = tmp_path / "test.json"
    path.write_text(json.dumps(entries, indent=4))
    rows, report = read("mj_bench_video", path, max_share=1.0)
    assert [row.winner for row in rows] == [0, 1, None, None]
    assert rows[0].first[0].path.endswith("0_0.mp4")
    assert rows[0].aspects == {"Alignment": 1, "Safety": None}
    assert report.skipped == {"discarded by its authors": 1}
    assert report.bad == {"invalid": 1}
    assert find_benchmark("mj_bench_video").ties == "left_out"


def test_videogen_rewardbench_from_csv(tmp_path):
    for level, name in enumerate("ab"):
        write_video(tmp_path / "videos" / f"{name}.mp4", level=40 * level)
    lines = [
        f'videos/a.mp4,videos/b.mp4,m,n,"a cat, sitting",A,B,same,{overall},8.0,{frames}\n'
        for overall, frames in (("A", 16), ("B", 16), ("same", 16), ("C", 16))
    ]
    path = tmp_path / "videogen-rewardbench.csv"
    path.write_text("\ufeff" + CSV_HEAD + "".join(lines), encoding="utf-8")
    rows, report = read("videogen_rewardbench", path, max_share=1.0)
    assert [row.winner for row in rows] == [0, 1, None]
    assert rows[0].prompt == "a cat, sitting"
    assert rows[0].aspects == {"VQ": 0, "MQ": 1, "TA": None}
    assert report.bad == {"invalid": 1}
    assert "row 4" in report.examples[0]
    assert find_benchmark("videogen_rewardbench").ties == "scored"


def test_bytes_that_are_no_text_are_told(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(CSV_HEAD.encode() + b"\xff\xfe\n")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read("videogen_rewardbench", path)


def test_own_pairs_are_a_benchmark_too(tmp_path):
    write_images(tmp_path, "a.png", "b.png")
    good = {"prompt": "a cat", "kind": "image", "first": "a.png", "second": "b.png", "winner": None, "category": "c"}
    path = write_lines(tmp_path / "pairs.jsonl", [good, good | {"second": "gone.png"}])
    rows, report = read("pairs", path, max_share=1.0)
    assert [(row.winner, row.category) for row in rows] == [(None, "c")]
    assert report.bad == {"missing_file": 1}


def test_a_misspelt_name_is_told_with_the_nearest_one():
    with pytest.raises(UnknownNameError, match="Did you mean 'genai_bench_image'"):
        find_benchmark("genai-bench-image")


def test_every_headline_is_a_figure():
    assert {known.headline for known in BENCHMARKS.values()} <= set(Figures.__dataclass_fields__)
