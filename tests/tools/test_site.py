"""Pages of the documentation site that are made from the code, and what is written by hand about it."""

from __future__ import annotations

import importlib.util
import re

import pytest
import yaml

from flexgym.config import RunSettings
from tools.site import PACKAGES, ROOT, modules, pages, settings_in, site_links

MADE = {page.path: page.text for page in pages("https://example.org/r")}
DOCS = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags only mkdocs knows."""


Loader.add_constructor("!ENV", lambda loader, node: loader.construct_sequence(node)[-1])


def paths_in(nav):
    if isinstance(nav, str):
        return [nav]
    return [path for each in (nav.values() if isinstance(nav, dict) else nav) for path in paths_in(each)]


def test_every_page_is_in_the_navigation_and_the_other_way_round():
    listed = paths_in(yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)["nav"])
    assert len(listed) == len(set(listed))
    assert set(DOCS) <= set(listed) <= {*DOCS, *MADE}


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("../flexgym/agents/grpo.py", "https://example.org/r/blob/main/flexgym/agents/grpo.py"),
        ("../SECURITY.md#keys-and-passwords", "security.md#keys-and-passwords"),
        ("../README.md", "index.md"),
        ("rewards.md#rubrics", "rewards.md#rubrics"),
        ("../lost.py", "../lost.py"),  # which mkdocs reports
        ("https://arxiv.org/abs/2505.05470", "https://arxiv.org/abs/2505.05470"),
    ],
)
def test_links_that_leave_the_folder(link, expected):
    text = f"<!-- snippet: run -->\nSee [this]({link})."
    assert site_links(text, folder="docs", repository="https://example.org/r") == f"See [this]({expected})."


def test_the_reference_has_every_public_module():
    shown = re.findall(r"^::: (\S+)$", "\n".join(MADE.values()), re.M)
    assert len(shown) == len(set(shown))
    assert set(shown) == {module for package in PACKAGES for module in modules(ROOT / package)}
    assert all(importlib.util.find_spec(name) for name in ("flexgym", "flexgym.runs.loop", "flexgym.agents.grpo"))


def test_settings_are_those_of_the_classes():
    source = (ROOT / "flexgym/config/sections.py").read_text()
    _, _, fields = settings_in(source)["RunSettings"]
    assert [field.name for field in fields] == list(RunSettings.model_fields)
    [interval] = [field for field in fields if field.name == "checkpoint_interval"]
    assert (interval.kind, interval.default) == ("int", "20")
    assert interval.description == "iterations between two checkpoints (>= 1)"
    assert "| `minutes` | `float \\| None` | `None` |" in MADE["reference/settings.md"]


def test_error_messages_of_the_page_are_in_the_code():
    sources = (path.read_text() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))  # texts over several lines
    known = ("CUDA out of memory", "No space left", "Read-only file", "AF_UNIX", "expected a finite number", "found on")
    known += ("expected number >= 0", "No module named")  # of other libraries and the system, or composed
    lacking = []
    for row in re.findall(r"^\| (`.*?) \| ", (ROOT / "docs/error_messages.md").read_text(), re.M):
        for part in (part.strip(" .,:;?(") for text in re.findall(r"`([^`]+)`", row) for part in text.split("...")):
            if len(part.split()) > 1 and part not in source and not part.startswith(known):
                lacking.append(part)
    assert lacking == []
