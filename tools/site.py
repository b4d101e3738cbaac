"""Hooks of mkdocs for the documentation site: pages that are made from the code, and links that leave ``docs/``.

The reference is made from docstrings and from the declarations of settings, both read as text: neither FlexGym nor
PyTorch needs to be installed.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("flexgym",)
APART = "flexgym"
"""Package whose subpackages have pages of their own."""
ROOT_PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md"}
"""Page of the site for each document in the root of the repository."""
KINDS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "Recipes of agents": tuple(
        ("flexgym/config", f"{name}.py") for name in ("sections", "generator", "training", "data", "agent")
    ),
    "Recipes of judge training": (("flexgym/config", "judge.py"),),
    "Recipes of Stable-Baselines3": (("flexgym/config", "sb3.py"),),
    "Algorithms": (("flexgym/algorithm", "settings.py"), ("flexgym/agents", "*.py")),
}
"""Folders and patterns of the modules with settings, by heading."""
ROOTS = {"AgentSettings": "", "JudgeTrainingSettings": "", "SB3Settings": "", "AlgorithmSettings": "algorithm."}
"""Where the fields of a class are in a recipe, for those that contain the others."""
_LINK = re.compile(r"(?<=\]\()(?P<path>[^)#\s:]+)(?P<anchor>#[^)\s]*)?(?=\))")
_COMMENT = re.compile(r"<!--\s*(snippet:[^>]*|install|test)\s*-->\n?")


@dataclass(frozen=True)
class Page:
    """A page that is made when the site is built.

    Attributes:
        path: below ``docs/``.
        text: Markdown.
    """

    path: str
    text: str


# --- links -----------------------------------------------------------------------------------------------------------


def site_links(text: str, *, folder: str, repository: str) -> str:
    """Return Markdown whose links to files outside of ``docs/`` lead to their page, or into the repository.

    Args:
        text: Markdown of a page.
        folder: of the document below the root of the repository, such as ``docs``.
        repository: URL of the repository.
    """

    def changed(match: re.Match[str]) -> str:
        path, anchor = posixpath.normpath(posixpath.join(folder, match["path"])), match["anchor"] or ""
        if path in ROOT_PAGES:
            return f"{ROOT_PAGES[path]}{anchor}"
        if path == "README.md":
            return f"index.md{anchor}"
        if path.startswith("docs/"):
            return f"{path.removeprefix('docs/')}{anchor}"
        return f"{repository}/blob/main/{path}{anchor}" if (ROOT / path).exists() else match[0]

    return _COMMENT.sub("", _LINK.sub(changed, text))


# --- reference -------------------------------------------------------------------------------------------------------


def modules(folder: Path) -> Iterator[str]:
    """Yield the dotted names of the public modules of a package, the package first."""
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if not any(part.startswith("_") and part != "__init__" for part in parts):
            yield ".".join(part for part in parts if part != "__init__")


def summary_of(module: str) -> str:
    """Return the first line of the docstring of a module."""
    path = ROOT.joinpath(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    lines = (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").splitlines()
    return lines[0] if lines else ""


def reference_pages() -> Iterator[Page]:
    """Yield a page for each package, for each subpackage of `APART`, and the list of them."""
    groups: dict[str, list[str]] = {}
    for package in PACKAGES:
        for module in modules(ROOT / package):
            parts = module.split(".")
            groups.setdefault(".".join(parts[:2]) if package == APART else package, []).append(module)
    alone = [name for name, members in groups.items() if name.startswith(f"{APART}.") and len(members) == 1]
    for name in alone:  # modules beside the subpackages
        groups[APART] += [member for member in groups.pop(name) if member not in groups[APART]]
    lines = ["# Reference", "", "[Settings](settings.md) and [commands](commands.md) have pages of their own.", ""]
    lines += ["| Package | Content |", "|---|---|"]
    for name, members in sorted(groups.items()):
        lines.append(f"| [`{name}`]({name}.md) | {summary_of(name)} |")
        blocks = [f"# {name}", *(f"::: {member}" for member in members)]
        yield Page(f"reference/{name}.md", "\n\n".join(blocks) + "\n")
    yield Page("reference/index.md", "\n".join(lines) + "\n")


# --- settings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """A field of a class of settings.

    Attributes:
        name: of the field.
        kind: its annotation.
        default: as it is written; empty for a field without one.
        description: of the field.
    """

    name: str
    kind: str
    default: str
    description: str


def settings_in(source: str) -> dict[str, tuple[str, list[str], list[Setting]]]:
    """Return first line of the docstring, bases and fields of every class of settings in a module.

    Args:
        source: of the module.
    """
    found = {}
    for node in ast.parse(source).body:
        bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
        if isinstance(node, ast.ClassDef) and any(name.endswith("Settings") for name in (node.name, *bases)):
            fields = [_field(each) for each in node.body if isinstance(each, ast.AnnAssign)]
            summary = (ast.get_docstring(node) or "").partition("\n")[0]
            found[node.name] = (summary, bases, [field for field in fields if field.name.islower()])
    return found


def _field(node: ast.AnnAssign) -> Setting:
    name, default, description = ast.unparse(node.target), "", ""
    given = node.value
    if isinstance(given, ast.Call) and ast.unparse(given.func) == "Field":
        words = {keyword.arg: keyword.value for keyword in given.keywords}
        description = "".join(ast.literal_eval(words["description"])) if "description" in words else ""
        chosen = words.get("default") or words.get("default_factory") or (given.args[0] if given.args else None)
        default = "" if chosen is None else ast.unparse(chosen)
        limits = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
        bounds = [f"{limits[key]} {ast.unparse(value)}" for key, value in words.items() if key in limits]
        description = f"{description} ({', '.join(bounds)})" if bounds else description
    elif given is not None:
        default = ast.unparse(given)
    return Setting(name, ast.unparse(node.annotation), default, description)


def settings_page() -> Page:
    """Return the page of all settings, from the declarations of their classes."""
    lines = [
        "# Settings",
        "",
        "All settings of recipes with type, default and meaning. `python -m agents.X --help` lists those of one agent,",
        "and `flexgym config schema` prints them for editors. [Configuration](../configuration.md) explains recipes.",
        "",
    ]
    for title, patterns in KINDS.items():
        sources = [path for folder, pattern in patterns for path in sorted((ROOT / folder).glob(pattern))]
        classes = [found for path in sources for found in settings_in(path.read_text(encoding="utf-8")).items()]
        places = _places({name: fields for name, (_, _, fields) in classes})
        lines += [f"## {title}", ""]
        for name, (summary, bases, fields) in classes:
            if fields:
                above = ", ".join(f"`{base}`" for base in bases if base != "Settings")
                heading = f"{places[name]} ({name})" if name in places else name
                lines += [f"### {heading}", "", summary + (f" Adds to {above}." if above else ""), ""]
                lines += [*_table(fields), ""]
    return Page("reference/settings.md", "\n".join(lines))


def _places(classes: Mapping[str, list[Setting]]) -> dict[str, str]:
    """Return where the settings of a class are in a recipe, such as ``run.alarm``, for those that are in one place."""
    places: dict[str, str] = {}
    waiting = list(ROOTS.items())
    for name, above in waiting:
        for field in classes.get(name, ()):
            inner = field.kind.removesuffix(" | None")
            if inner in classes and inner not in places:
                places[inner] = f"{above}{field.name}"
                waiting.append((inner, f"{places[inner]}."))
    return places


def _table(fields: list[Setting]) -> Iterator[str]:
    yield "| Setting | Type | Default | Meaning |"
    yield "|---|---|---|---|"
    for each in fields:
        cells = [
            f"`{each.name}`",
            f"`{each.kind}`",
            f"`{each.default}`" if each.default else "required",
            each.description,
        ]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


# --- hooks -----------------------------------------------------------------------------------------------------------


def pages(repository: str) -> Iterator[Page]:
    """Yield every page that is made.

    Args:
        repository: its URL.
    """
    yield from reference_pages()
    yield settings_page()
    for source, target in ROOT_PAGES.items():
        yield Page(target, site_links((ROOT / source).read_text(encoding="utf-8"), folder="", repository=repository))


def on_post_page(output: str, **unused: Any) -> str:
    """Leave out what asks the host of the repository for figures about it; called by mkdocs."""
    return output.replace(' data-md-component="source"', "")


def on_files(files: Any, config: Mapping[str, Any]) -> Any:
    """Add the pages that are made; called by mkdocs."""
    from mkdocs.structure.files import File, InclusionLevel

    shown = {"reference/index.md", "reference/settings.md", *ROOT_PAGES.values()}
    for page in pages(str(config["repo_url"])):
        level = InclusionLevel.INCLUDED if page.path in shown else InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, page.path, content=page.text, inclusion=level))
    return files


def on_page_markdown(markdown: str, page: Any, config: Mapping[str, Any], **unused: Any) -> str:
    """Rewrite the links of a page that was written by hand; called by mkdocs."""
    if page.file.generated_by is not None:
        return markdown
    folder = posixpath.dirname(f"docs/{page.file.src_uri}")
    return markdown if folder != "docs" else site_links(markdown, folder=folder, repository=str(config["repo_url"]))
