"""The page of a report, read as a person and as an attacker would."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from flexgym.cli import app
from flexgym.core.errors import ConfigError
from flexgym.report.figures import Series, draw_curves
from flexgym.report.gallery import assessments_payload, judged_groups, samples_payload
from flexgym.report.grouping import band_of, grouped, shortened
from flexgym.report.judging import calibration, judge_part
from flexgym.report.page import MAX_BYTES, build_page
from flexgym.report.reading import read_evaluation, read_run
from tests.report.written import judged_group, write_held_out, write_judged, write_run

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \x1b[31mred\x1b[0m \u202eevil"


class Elements(HTMLParser):
    """Names and attributes of all elements, and the text outside of script and style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.found and self.found[-1][0] not in ("script", "style"):
            self.words += data

    def named(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def page_of(*paths: Path) -> str:
    return build_page(paths).decode()


def test_hostile_text_is_shown_as_text(tmp_path):
    run = write_run(tmp_path / "bad", **{HOSTILE: 0.5})
    write_held_out(run, [HOSTILE, "a red circle"], category=HOSTILE)
    write_judged(run, [judged_group(HOSTILE, [0.2, 0.8], {(0, 1): 1, (1, 0): None}, words=HOSTILE)])
    (run / "starts.jsonl").write_text(json.dumps({"time": HOSTILE, "command": HOSTILE, "versions": {HOSTILE: HOSTILE}}))
    page = page_of(run)
    elements = Elements(page)
    assert len(elements.named("script")) == 3  # two with data, and the page's own
    assert not elements.named("img")
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert r"\x1b[31mred" in elements.words
    assert "<script>alert(1)</script>" in elements.words
    data = re.search(r'id="samples-data">(.*?)</script>', page, re.S)
    assert json.loads(data[1])["runs"][0]["prompts"][0][0].startswith("</script><script>alert(1)")


def test_a_page_asks_for_nothing(tmp_path):
    run = write_run(tmp_path / "r")
    write_held_out(run, ["a red circle"])
    page = page_of(run)
    for tag, attributes in Elements(page).found:
        for name in ("src", "href", "xlink:href", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    [policy] = [each["content"] for each in Elements(page).named("meta") if "http-equiv" in each]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "connect-src 'none'" in policy
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", page)


def test_ids_are_unique(tmp_path):
    run = write_run(tmp_path / "r", **{"eval/accuracy": 0.5})
    other = write_run(tmp_path / "s", lr=0.1, values=[0.3, 0.1, 0.2])
    ids = [attributes["id"] for _, attributes in Elements(page_of(run, other)).found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_runs_that_differ_only_by_seed_are_one_group_with_an_interval(tmp_path):
    finals = [0.2, 0.5, 0.6]
    runs = [
        read_run(write_run(tmp_path / f"grpo-seed{seed}", seed=seed, values=[0.1, final]))
        for seed, final in enumerate(finals)
    ]
    other = read_run(write_run(tmp_path / "faster", lr=0.1))
    groups = grouped([*runs, other])
    assert [(group.label, len(group.runs)) for group in groups] == [("grpo", 3), ("faster", 1)]
    mean, low, high = groups[0].band("reward/mean").last
    expected = stats.t.interval(0.95, 2, loc=np.mean(finals), scale=stats.sem(finals))
    assert (mean, low, high) == pytest.approx((np.mean(finals), *expected))


def test_two_seeds_have_their_range_and_shared_iterations():
    band = band_of([{0: 1.0, 5: 2.0, 9: 7.0}, {0: 3.0, 5: 0.0}])
    assert band.iterations == (0, 5)
    assert (band.mean, band.low, band.high) == ((2.0, 1.0), (1.0, 0.0), (3.0, 2.0))
    assert band_of([{0: 1.0}, {1: 1.0}]) is None


def test_ticks_keep_their_digits_and_colors_are_variables():
    band = band_of([{number: 0.11 + 0.001 * number for number in range(20)}])
    svg = draw_curves([Series(1, band)], "x")
    ticks = re.findall(r">(0\.\d+)</text>", svg)
    assert len(set(ticks)) == len(ticks) > 2
    assert "var(--series-1)" in svg
    assert not re.search(r"#[0-9a-f]{6}\b", svg)


def test_long_curves_are_averaged():
    band = band_of([{number: float(number) for number in range(1000)}])
    short = shortened(band, 10)
    assert short.iterations[-1] == 999
    assert short.mean[0] == pytest.approx(np.mean(range(100)))


def test_two_runs_are_side_by_side(tmp_path):
    first, second = write_run(tmp_path / "slow"), write_run(tmp_path / "fast", lr=0.25, values=[0.5, 0.9])
    for run in (first, second):
        write_held_out(run, ["a red circle"], iterations=[0, 1])
    words = Elements(page_of(first, second)).words
    assert "training.lr" in words
    assert "0.001" in words
    assert "0.25" in words
    assert "0.5 → 0.9" in words
    data = samples_payload([read_run(first), read_run(second)]).values["runs"]
    assert [(each["name"], each["steps"]) for each in data] == [("slow", [0, 1]), ("fast", [0, 1])]


def test_what_is_missing_or_damaged_is_named_and_not_fatal(tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "metrics.jsonl").write_text(
        '{"iteration": 0, "reward/mean": 0.5}\n{"iter\n[1]\n{"iteration": 1, "reward/mean": "x"}'
    )
    with (bare / "metrics.jsonl").open("a") as file:
        file.write(
            f'\n{{"iteration": 2, "reward/mean": 1e300, "eval/x": {"9" * 299}}}\n{{"iteration": -1, "eval/x": 0}}'
        )
    (bare / "config.yaml").write_text("run: {alarm: {patience: -7, drop: many}}\nreward: 3\n")
    (bare / "records").mkdir()
    (bare / "records" / "held_out_000000.jsonl").write_text('{"prompt": 3, "media": "no media"}\nnot JSON\n')
    (bare / "records" / "judged_000001.jsonl").write_text(
        '{"prompt": "a", "pairs": [{"first": -1}, 7], "rewards": 3}\n'
    )
    words = Elements(page_of(bare)).words
    assert "bare: metrics.jsonl: 2 lines could not be read" in words
    assert "bare: records/held_out_000000.jsonl: 1 line could not be read" in words
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "metrics.jsonl").touch()
    assert "What was trained" in page_of(empty)


def test_links_are_not_followed(tmp_path):
    secret = tmp_path / "secret.jsonl"
    secret.write_text(json.dumps({"iteration": 0, "reward/secret": 1.0}))
    run = write_run(tmp_path / "r")
    (run / "starts.jsonl").symlink_to(secret)
    page = page_of(run)
    assert "reward/secret" not in page
    assert "which is not followed" in page


def test_samples_stay_within_their_bytes(tmp_path):
    run = write_run(tmp_path / "r", values=[0.0] * 50)
    write_held_out(run, [f"prompt {number}" for number in range(40)], iterations=range(0, 50, 5))
    whole = samples_payload([read_run(run)])
    size = len(json.dumps(whole.values))
    assert whole.omitted == []
    assert samples_payload([read_run(run)], max_bytes=100).values["runs"] == []
    for share in (0.7, 0.3, 0.05):
        payload = samples_payload([read_run(run)], max_bytes=int(share * size))
        shown = payload.values["runs"][0]
        assert sum(len(uri) for step in shown["media"] for uri in step) <= share * size
        assert (shown["steps"][0], shown["steps"][-1]) == (0, 45)
        assert payload.omitted


def test_assessments_are_bounded_and_upsets_are_found(tmp_path):
    run = write_run(tmp_path / "r")
    pairs = {(0, 1): 0, (1, 0): 0, (0, 2): None}
    write_judged(run, [judged_group(f"prompt {number}", [0.2, 0.8, 0.5], pairs) for number in range(30)])
    groups = judged_groups([read_run(run)], [])
    items = assessments_payload(groups).values["items"]
    assert [item.get("upset") for item in items[:3]] == [True, False, None]
    assert [item["failure"] for item in items[:3]] == ["", "", "unparsable"]
    assert [part["own"] for part in items[0]["categories"]] == [False, False, False, True]
    few = assessments_payload(groups, max_count=12)
    assert len(few.values["items"]) <= 12
    assert few.omitted
    small = assessments_payload(groups, max_bytes=20_000)
    assert 0 < len(json.dumps(small.values)) <= 20_000


def test_a_page_stays_below_its_limit(tmp_path):
    run = write_run(tmp_path / "r", values=[0.1] * 40)
    media = base64.b64encode(b"RIFF0000WEBP" + bytes(600_000)).decode()
    (run / "records").mkdir()
    for iteration in (0, 20, 39):
        row = json.dumps({"prompt": "large", "media": media}) + "\n"
        (run / "records" / f"held_out_{iteration:06d}.jsonl").write_text(row * 10)
        group = {"prompt": "large", "rewards": [0, 1], "media": [media] * 4, "pairs": [{"first": 0, "second": 1}]}
        (run / "records" / f"judged_{iteration:06d}.jsonl").write_text((json.dumps(group) + "\n") * 4)
    page = build_page([run])
    assert sum(path.stat().st_size for path in run.glob("records/*")) > 2 * MAX_BYTES > 2 * len(page)
    assert b"kept prompts are shown" in page
    assert b"kept assessments are shown" in page


def test_signs_of_hacking_are_shown(tmp_path):
    run = write_run(tmp_path / "r")
    rows = [
        {"iteration": number, "reward/mean": 0.1 * number, "eval/accuracy": value}
        for number, value in enumerate([0.5, 0.8, 0.6, 0.5, 0.4])
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "eval/accuracy fell from 0.8 at iteration 1 to 0.4" in page_of(run)


def test_a_judge_has_categories_calibration_and_mistakes(tmp_path):
    share = {"value": 0.75, "low": 0.6, "high": 0.9, "pairs": 4}
    figures = {"pairs": 4, "accuracy": share, "order_consistency": share}
    report = {"settings": {"judge": ["x"]}, "overall": figures, "categories": {"color": figures, "count": {}}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    pairs = [
        {"id": "p1", "category": "color", "label": 0, "said": [0, 0], "lead": 6.0},
        {"id": "p2", "category": "color", "label": 1, "said": [1, "failed: tie"], "lead": -1.0},
        {"id": "p3", "category": "count", "label": 1, "said": [0, 0], "lead": 2.0},
        {"id": "p4", "category": "count", "label": None, "said": [0, 1], "lead": 0.0},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    part = judge_part(read_evaluation(tmp_path))
    assert part.rows[0] == ("all pairs", ["4", "75.0% [60.0%, 90.0%]", "–", "75.0% [60.0%, 90.0%]", "–", "–"])
    assert [row[0] for row in part.wrong] == ["p3"]
    assert [(bin.low, bin.pairs, bin.right) for bin in calibration(pairs, bins=3)] == [(1, 1, 1), (2, 1, 0), (6, 1, 1)]
    assert "Calibration of" in page_of(tmp_path)


def test_the_command_writes_a_file_and_explains_other_folders(tmp_path):
    run = write_run(tmp_path / "runs" / "first")
    out = tmp_path / "report.html"
    done = CliRunner().invoke(app, ["report", str(run), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_text().startswith("<!doctype html>")
    with pytest.raises(ConfigError, match=r"Did you mean 'first'\?"):
        build_page([tmp_path / "runs" / "frist"])
    with pytest.raises(ConfigError, match="It holds runs: name them, such as .*first"):
        build_page([tmp_path / "runs"])
