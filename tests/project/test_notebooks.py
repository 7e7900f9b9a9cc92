"""Chapters run as notebooks: converted, executed in a kernel, pictures inline."""

from __future__ import annotations

import base64
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

PNG = b"\x89PNG\r\n\x1a\n"
# Converts a chapter, and has a kernel run all of its cells in the current folder.
CONVERT_AND_RUN = """
import sys
from pathlib import Path
import nbclient, nbformat
from llm_scratch import cli

assert cli.main(["notebook", sys.argv[1], "--out", "converted.ipynb"]) == 0
cells = nbformat.read("converted.ipynb", as_version=nbformat.NO_CONVERT)
Path("converted.ipynb").unlink()
nbclient.NotebookClient(cells, timeout=300, kernel_name="python3").execute()
assert list(Path.cwd().iterdir()) == [], "a notebook writes no pictures"
nbformat.write(cells, "run.ipynb")
"""
# A case for each chapter, with its run.
on_each = pytest.mark.parametrize(
    "chapter",
    [
        pytest.param("ch02", marks=pytest.mark.script("-c", CONVERT_AND_RUN, "ch02")),
        pytest.param(
            "ch03", marks=[pytest.mark.slow, pytest.mark.script("-c", CONVERT_AND_RUN, "ch03")]
        ),
    ],
)


@pytest.fixture
def notebook(run) -> Any:
    """A chapter's notebook after all of its cells have run."""
    return nbformat.read(run.folder / "run.ipynb", as_version=nbformat.NO_CONVERT)


def outputs_of(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


@on_each
def test_notebook_runs_from_top_to_bottom_without_a_warning(notebook, chapter):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert [o for o in outputs_of(notebook) if o.output_type == "error"] == []
    assert [o.text for o in outputs_of(notebook) if o.get("name") == "stderr"] == []


@on_each
def test_notebook_shows_its_picture_inline(notebook, chapter):
    images = [o.data["image/png"] for o in outputs_of(notebook) if "image/png" in o.get("data", {})]
    assert images
    for image in images:
        assert base64.b64decode(image).startswith(PNG)


@on_each
def test_notebook_prints_in_the_cell_that_computes(notebook, chapter):
    printing = [cell for cell in notebook.cells if cell.get("outputs")]
    assert len(printing) > 20
    nbformat.validate(notebook)
