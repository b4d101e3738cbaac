from __future__ import annotations

import ast

import pytest

from tools import language
from tools.docstrings import docstrings_without_verb, empty_docstrings
from tools.glossary import american, wrong_words
from tools.sources import Source
from tools.verbs import starts_with_verb


def source(text: str, path: str = "flexgym/a.py") -> Source:
    return Source(path, text, ast.parse(text))


def phrases(text: str) -> list[str]:
    return [phrase for _, phrase, _ in wrong_words(text)]


@pytest.mark.parametrize(
    ("text", "phrase", "advice"),
    [
        ("A model that is cut over the learners", "cut over", "sharded"),
        ("Checkpoints of a whole model", "whole model", "unsharded"),
        ("text encoders that rest beside it", "rest beside", "offload"),
        ("Let text encoders rest in memory", "Let text encoders rest", "offload"),
        ("a folder to go on from", "go on", "resume"),
        ("the moving average of the weights", "moving average", "EMA"),
        ("the divergence from the reference", "divergence from the reference", "KL"),
        ("what is told about it", "told", "report"),
        ("Two pictures", "pictures", "image"),
        ("Where it stands", "stands", "is"),
        ("the file is refused", "refused", "reject"),
        ("Let go of the worker", "Let go", "free"),
        ("samples are rolled out", "rolled out", "sample"),
        ("Mend the judge", "Mend", "fix"),
    ],
)
def test_words_of_the_glossary(text, phrase, advice):
    ((place, found, instead),) = wrong_words(text)
    assert found == phrase
    assert text[place:].startswith(phrase)
    assert advice in instead


@pytest.mark.parametrize(
    "text",
    [
        "Keep the rest in memory.",
        "The rest on one line.",
        "SDE stands for stochastic differential equation; a stub stands in for it.",
        "It makes sense on its own and stands alone.",
        "We understand outstanding amendments, recommend them and mention standards.",
        "Sample a rollout from the reference policy.",
        "Call `picture.told` or ``go_on(refused=True)``.",
        "The setting judge.pictures, the name of_pictures and the path docs/pictures.",
        "An IMAGE constant such as PICTURES.",
    ],
)
def test_words_that_are_fine(text):
    assert phrases(text) == []


@pytest.mark.parametrize(
    ("british", "form"),
    [
        ("Colours", "colors"),
        ("behaviour", "behavior"),
        ("optimiser", "optimizer"),
        ("normalised", "normalized"),
        ("orthogonalise", "orthogonalize"),
        ("initialisation", "initialization"),
        ("personalised", "personalized"),
        ("analysed", "analyzed"),
        ("centre", "center"),
        ("centred", "centered"),
        ("greyscale", "grayscale"),
        ("labelled", "labeled"),
        ("judgement", "judgment"),
        ("learnt", "learned"),
        ("artefacts", "artifacts"),
        ("whilst", "while"),
    ],
)
def test_british_spellings(british, form):
    assert american(british) == form
    assert american(form) is None


@pytest.mark.parametrize(
    "words",
    [
        "noise denoise denoiser denoising raise raised precise promise otherwise pairwise elementwise exercise",
        "supervised compromise surprise advise revised expertise premise prize size rise wise arises license",
        "four hour source your cluster controlled selling program judge judging grew agree analyses basis bases",
    ],
)
def test_spellings_that_are_fine(words):
    assert [word for word in words.split() if american(word)] == []


@pytest.mark.parametrize(
    "text",
    [
        "Return the number of samples.",
        "Returns the number of samples.",
        "Lazily load the weights.",
        "Apply the adapter to every layer.",
        "Copies tensors to the CPU.",
        "Sample from the model.",
        "Name the run.",
        "Groups samples by their prompt.",
        "Check that the shapes agree.",
        "Re-raise what a worker raised.",
        "Load, check and return the settings.",
        "Fine-tune a judge on its rows.",
        "Do nothing, since the run is over.",
    ],
)
def test_sentences_that_start_with_a_verb(text):
    assert starts_with_verb(text)


@pytest.mark.parametrize(
    "text",
    [
        "The number of samples.",
        "A group of samples.",
        "Name of the run.",
        "Samples in their order.",
        "Groups, one per prompt.",
        "Mean of all rewards.",
        "Latents of the last step.",
        "``count`` samples of each prompt.",
        "Its own advantages.",
        "One of them at a time.",
    ],
)
def test_sentences_that_do_not_start_with_a_verb(text):
    assert not starts_with_verb(text)


@pytest.mark.parametrize("text", ["As set.", "See `rollout`.", "Of one group of samples.", "What a server sent back."])
@pytest.mark.parametrize(
    "code",
    ['"""{}"""', 'class A:\n    """{}"""', 'def f():\n    """{}"""', 'class A:\n    def f(self):\n        """{}"""'],
)
def test_docstrings_that_say_nothing(code, text):
    (found,) = empty_docstrings(source(code.format(text)))
    assert found.phrase == text
    assert found.line == code.count("\n") + 1


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('def f():\n    """Return one of the samples."""', []),
        ('def f():\n    """One of all samples."""', ["One of all samples."]),
        ('def _f():\n    """The sample to show.\n\n    Args:\n    """', ["The sample to show."]),
        ('class A:\n    """The samples of one group."""', []),
        ('"""The samples of one group."""', []),
        ('class A:\n    @property\n    def f(self):\n        """The samples of one group."""', []),
        ('class A:\n    @functools.cached_property\n    def f(self):\n        """The samples of one group."""', []),
        (
            'class A:\n    @staticmethod\n    def f():\n        """The samples of one group."""',
            ["The samples of one group."],
        ),
        ('def f():\n    """As set."""', []),  # counted as empty
    ],
)
def test_functions_start_with_a_verb(code, found):
    assert [finding.phrase for finding in docstrings_without_verb(source(code))] == found


def words(text: str, path: str = "flexgym/a.py") -> list[tuple[int, str]]:
    return [(finding.line, finding.phrase) for finding in language.in_python(source(text, path))]


@pytest.mark.parametrize(
    "text",
    [
        "x = 1  # one picture",
        "raise ValueError('no picture')",
        "raise ConfigError(f'{name}: ' f'{count} pictures')",
        "logger.warning('no picture')",
        "self._console.print('no picture')",
        "size: int = Field(description='of a picture')",
        "option(help='of a picture')",
        "SIZE = 3\n'''Width of a picture.'''",
        "message = 'expected as many rows as there are pictures'",
        '"""Images.\n\nFrom one picture."""\n',
    ],
)
def test_prose_in_python_is_read(text):
    assert len([phrase for _, phrase in words(text) if phrase.startswith("picture")]) == 1


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("pictures = 3", "flexgym/a.py"),
        ("names = {'colours': 1, 'picture': 'Colours as asked'}", "flexgym/a.py"),
        ("x = settings['picture'] + read(f'{pictures}')", "flexgym/a.py"),
        ("raise Problem('picture', 'expected an image')", "flexgym/a.py"),
        ('def f():\n    """Return both of the images.\n\n    Args:\n        picture: one.\n    """', "flexgym/a.py"),
        ("REASON = 'As much is met, and better formed, in colour.'", "flexgym/shapes/brief.py"),
    ],
)
def test_code_and_data_are_not_read(text, path):
    assert words(text, path) == []


def test_lines_are_those_of_the_words():
    text = 'def f():\n    """Return nothing at all.\n\n    A picture\n    is told."""\n    # pictures\n'
    assert words(text) == [(6, "pictures"), (5, "told"), (4, "picture")]


def test_tests_need_no_verbs():
    text = 'def f():\n    """The colour."""'
    assert words(text, "tests/test_a.py") == [(2, "colour")]
    assert words(text.replace("olour", "olor of it all"), "envs/a.py") == [(2, "The color of it all.")]


def found(text: str, path: str = "flexgym/a.py") -> list[str]:
    return [finding.phrase for finding in language.in_python(source(text, path))]


def test_names_that_a_docstring_documents_are_not_prose():
    documented = '''def f(colour):
    """Draw a thing in its color.

    Args:
        colour: one of the colours.
    """
'''
    assert found(documented) == ["colours"]


def test_codes_of_errors_are_not_prose():
    assert found('raise Failed("refused", "it was refused")') == ["refused"]


def test_messages_of_assertions_are_prose():
    text = 'assert reply == "the two pictures of this message", "no picture"'
    assert found(text, "tests/a.py") == ["picture"]
    assert found(text) == ["pictures", "picture"]


def test_prompts_and_captions_are_data():
    text = 'PROMPT = "Look at the two pictures of this message and say"\nraise ValueError("expected a picture")'
    assert found(text, "flexgym/judge/template.py") == found(text, "flexgym/shapes/a.py") == ["picture"]
    assert found(text) == ["pictures", "picture"]


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "flexgym" / "flow").mkdir(parents=True)
    (tmp_path / "configs").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "flexgym" / "flow" / "a.py").write_text("# a picture\n")
    (tmp_path / "configs" / "a.yaml").write_text("colour: 1  # of pictures\npictures: 2\n")
    page = "# Colours\n\n```python\ncolour = 1\n```\n\n[a `picture`](pictures.md) is\n<img src='picture'> told\n"
    (tmp_path / "docs" / "a.md").write_text(page)
    return tmp_path


def test_a_tree_is_counted_by_package(tree, monkeypatch, capsys):
    monkeypatch.setattr(language, "LANGUAGE", {"flexgym.flow": 1, "configs": 0, "docs": 2})
    assert language.main([str(tree)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "configs/a.yaml:1: 'pictures' -> image"
    assert [line.split() for line in lines[3:6]] == [
        ["configs", "1", "<=", "0", "OVER"],
        ["docs", "2", "<=", "2", "ok"],
        ["flexgym.flow", "1", "<=", "1", "ok"],
    ]
    assert lines[-1] == "4 findings, 3 allowed"


def test_limits_that_hold_list_nothing_unless_asked(tree, monkeypatch, capsys):
    monkeypatch.setattr(language, "LANGUAGE", {"flexgym.flow": 1, "configs": 1, "docs": 2})
    assert language.main([str(tree)]) == 0
    assert "->" not in capsys.readouterr().out
    assert language.main(["--all", str(tree)]) == 0
    listed = [line for line in capsys.readouterr().out.splitlines() if "->" in line]
    assert listed[1:] == [
        "docs/a.md:1: 'Colours' -> colors",
        "docs/a.md:8: 'told' -> log, report, print, raise; distinguish",
        "flexgym/flow/a.py:1: 'picture' -> image",
    ]
