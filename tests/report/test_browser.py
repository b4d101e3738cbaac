"""The page in a real browser: no console error, no request, and on the screen within a second."""

from __future__ import annotations

import json
import time

import pytest

from flexgym.report.page import build_page
from tests.report.browser import CHROMIUM, DRIVER, browser
from tests.report.written import judged_group, write_held_out, write_judged, write_run

PROMPTS, ASSESSMENTS = 400, 2000
HOSTILE = "<script>document.title = 'hacked'</script> \x1b[31m"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A run with 400 held-out prompts at five verifications and 2,000 assessments, beside a second run."""
    folder = tmp_path_factory.mktemp("big")
    run = write_run(folder / "big", values=[0.01 * number for number in range(200)], **{"penalty/reference": 0.1})
    prompts = [f"{HOSTILE} prompt {number}" for number in range(PROMPTS)]
    write_held_out(run, prompts, iterations=[0, 50, 100, 150, 199], side=32)
    pairs = {(first, second): first % 2 for first in range(8) for second in range(8) if first != second}
    words = "a longer reason about what both samples show, " * 2
    groups = [judged_group(f"{HOSTILE} group {number}", [0.1] * 8, pairs, words=words) for number in range(36)]
    write_judged(run, groups)
    write_held_out(write_run(folder / "other", lr=0.2), prompts[:40])
    path = folder / "report.html"
    path.write_bytes(build_page([run, folder / "other"]))
    return path


def painted(opened, page):
    """Open the page and return when it was first on the screen, in milliseconds."""
    opened.open(page.as_uri())
    return opened.run("return performance.getEntriesByName('first-contentful-paint')[0].startTime")


def test_a_large_page_is_fast_silent_and_alone(page, tmp_path):
    with browser(tmp_path / "profile") as opened:
        opened.requests()
        # At best of three: on a machine with other work the clock says little.
        paints = [painted(opened, page) for _ in range(3)]
        assert opened.run("return document.title").startswith("FlexGym report: big")
        assert f"of {PROMPTS} prompts" in opened.run("return document.getElementById('samples-count').textContent")
        count = opened.run("return document.getElementById('assessments-count').textContent")
        assert 1900 < int(count.split(" of ")[1].split()[0]) <= ASSESSMENTS
        assert "<script>document.title" in opened.run("return document.querySelector('.tile figcaption').textContent")
        assert r"\x1b[31m" in opened.run("return document.querySelector('.assessment h3').textContent")
        for width in (390, 820, 1440):
            opened.resize(width, 900)
            assert opened.run("return document.documentElement.scrollWidth") <= width
        assert opened.console() == []
        assert set(opened.requests()) == {page.as_uri()}
        assert min(paints) < 1000


def test_slider_and_filters_work_from_the_keyboard(page, tmp_path):
    with browser(tmp_path / "profile") as opened:
        opened.open(page.as_uri())
        first = "return document.querySelector('.tile img').src"
        opened.run("document.getElementById('samples-step').focus()")
        after = opened.run(first)
        for kind in ("rawKeyDown", "keyUp"):
            opened.cdp("Input.dispatchKeyEvent", type=kind, key="Home", code="Home", windowsVirtualKeyCode=36)
        time.sleep(0.2)
        assert opened.run("return document.getElementById('samples-iteration').textContent") == "0 (1 of 5)"
        assert opened.run(first) != after
        opened.run(
            "const show = document.getElementById('assessments-show');"
            "show.value = arguments[0]; show.dispatchEvent(new Event('change'))",
            "failure",
        )
        assert "No pairs match" in opened.run("return document.getElementById('assessments-count').textContent")
        shown = json.loads(
            opened.run(
                "return JSON.stringify([...document.querySelectorAll('.tile .pair')].map(each => each.children.length))"
            )
        )
        assert set(shown) == {2}
