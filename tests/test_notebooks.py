"""The notebooks are stored without outputs, open on Colab, and run from top to bottom."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
UNWANTED = re.compile(r"warning|deprecat|traceback|error:", re.IGNORECASE)

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def opened(path):
    notebook = nbformat.read(path, as_version=4)
    return notebook, [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_three_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["1_first_training", "2_judging_images", "3_own_reward"]


@each_notebook
def test_a_stored_notebook_is_short_and_has_no_outputs(path):
    notebook, code = opened(path)
    nbformat.validate(notebook)
    assert 6 <= len(notebook.cells) <= 12
    assert not any(cell.outputs or cell.execution_count for cell in code)


@each_notebook
def test_a_notebook_opens_on_colab_and_installs_flexgym_where_it_is_missing(path):
    notebook, code = opened(path)
    assert f"https://colab.research.google.com/github/flexgym/flexgym/blob/main/notebooks/{path.name})" in (
        notebook.cells[0].source
    )
    assert 'if find_spec("flexgym") is None:\n    %pip install' in code[0].source


@each_notebook
def test_links_between_notebooks_lead_to_files(path):
    notebook, _ = opened(path)
    for cell in notebook.cells:
        for link in re.findall(r"\]\(([^):]+)\)", cell.source if cell.cell_type == "markdown" else ""):
            assert (path.parent / link).is_file()


@pytest.mark.slow
@each_notebook
def test_a_notebook_runs_from_top_to_bottom_without_warnings(path, tmp_path):
    notebook, code = opened(path)
    for cell in code:  # shorter than for a reader
        cell.source = re.sub(r"run\.minutes=[\d.]+", "run.minutes=0.5", cell.source)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in code for output in cell.outputs]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    assert UNWANTED.search(text) is None
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
