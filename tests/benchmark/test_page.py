from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from flexgym.benchmark.figures import mean_curve, ranking_svg
from flexgym.benchmark.folder import BenchmarkFolder, Step
from flexgym.benchmark.page import ranked
from flexgym.benchmark.plan import PlannedRun
from flexgym.benchmark.report import write_results
from flexgym.benchmark.results import curve_of
from flexgym.benchmark.statistics import Interval
from flexgym.core.errors import ConfigError
from tests.benchmark.small import record, small_plan

EVIL = "<script>alert('x')</script> & $cost"


class Tags(HTMLParser):
    """Notes tags and texts, and that every tag is closed."""

    empty = ("meta", "link", "path", "use", "rect")

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.texts, self.sources = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href") and not value.startswith("#")]
        if tag not in self.empty:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.empty:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def folder(tmp_path):
    plan = small_plan().model_dump(mode="json")
    plan["report"]["title"] = plan["tasks"]["image"]["title"] = EVIL
    plan["algorithms"]["nft"]["title"] = EVIL
    folder = BenchmarkFolder(tmp_path / "all", small_plan().parse(plan))
    for name, shift in (("matching", 0.1), ("nft", 0.0)):
        record(folder, PlannedRun("image", name, 100, trial=0), [0.4, 0.5])
        for seed in range(2):
            record(folder, PlannedRun("image", name, seed), [0.4, 0.5 + shift, 0.6 + shift + 0.05 * seed])
    return folder


def test_the_page_is_whole_and_loads_nothing(folder):
    write_results(folder)
    text = (folder.root / "index.html").read_text()
    page = Tags(text)
    assert page.open == []
    assert page.sources == []
    assert page.seen.count("svg") == 4, "a ranking for each budget, curves by seconds and by samples"
    words = " ".join(page.texts)
    assert "6 of 6 finished" in words
    assert "0.725" in words
    assert "0.700 to 0.750" in words
    assert "2108.13264" in words


def test_texts_from_other_machines_are_shown_and_not_run(folder):
    folder.add_step(PlannedRun("image", "nft", 1), Step("train", "wall", "failed", problem=EVIL))
    write_results(folder)
    text = (folder.root / "index.html").read_text()
    page = Tags(text)
    assert "script" not in page.seen
    assert any(EVIL in shown for shown in page.texts)
    assert "$cost" in text


def test_runs_that_were_too_slow_for_the_samples_are_named(folder):
    slow = PlannedRun("image", "matching", 2)
    folder.grow(folder.plan.with_seeds(3))
    assert folder.add(slow)
    (folder.root / slow.name).mkdir()
    folder.add_step(slow, Step("train", "samples", "finished", iteration=0, end="time", wall_s=360.0))
    write_results(folder)
    words = " ".join(Tags((folder.root / "index.html").read_text()).texts)
    assert "Not reached within the minutes: Matching (1)." in words
    assert "0.2 core-hours, measured" in words


def test_before_anything_ran_the_page_says_so(tmp_path):
    folder = BenchmarkFolder(tmp_path / "all", small_plan())
    write_results(folder)
    words = " ".join(Tags((folder.root / "index.html").read_text()).texts)
    assert "No run has come to the end of a budget yet." in words
    assert "0 of 6 finished" in words


def test_a_ranking_begins_with_the_highest_and_equals_are_in_order_of_name():
    scores = {"b": np.array([0.5, 0.7]), "c": np.array([0.9]), "a": np.array([0.6])}
    assert list(ranked(scores, resamples=100)) == ["c", "a", "b"]


def test_a_mean_curve_covers_what_all_runs_cover(folder):
    curves = [curve_of(folder, PlannedRun("image", "matching", seed)) for seed in range(2)]
    found = mean_curve([curves[0], curves[1][:2], curves[1][:1]], "seconds")
    assert (found.places[0], found.places[-1]) == (0.0, 9.0)
    assert (found.mean[0], found.mean[-1]) == pytest.approx((0.4, 0.6))
    assert np.all((found.low <= found.mean) & (found.mean <= found.high))
    assert mean_curve([curves[0][:1]], "samples") is None


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"flexgym\[compare\]"):
        ranking_svg({"a": Interval(0.5, 0.4, 0.6)}, base=0.4, titles={})
