"""Chapters run as notebooks: converted, executed in a kernel, pictures inline."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from llm_scratch import cli

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).resolve().parents[2]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module", params=["ch02", "ch03"])
def notebook(request, tmp_path_factory) -> Any:
    """A chapter's notebook after a kernel has run all of its cells in an empty folder."""
    file = tmp_path_factory.mktemp("notebooks") / f"{request.param}.ipynb"
    assert cli.main(["notebook", request.param, "--out", str(file)]) == 0
    cells = nbformat.read(file, as_version=nbformat.NO_CONVERT)
    folder = tmp_path_factory.mktemp(request.param)
    client = nbclient.NotebookClient(
        cells, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    # The kernel must find this checkout, wherever the package is installed from.
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    client.execute(env={**os.environ, "PYTHONPATH": path})
    assert list(folder.iterdir()) == [], "a notebook writes no pictures"
    return cells


def outputs_of(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_notebook_runs_from_top_to_bottom_without_a_warning(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert [o for o in outputs_of(notebook) if o.output_type == "error"] == []
    assert [o.text for o in outputs_of(notebook) if o.get("name") == "stderr"] == []


def test_notebook_shows_its_picture_inline(notebook):
    images = [o.data["image/png"] for o in outputs_of(notebook) if "image/png" in o.get("data", {})]
    assert images
    for image in images:
        assert base64.b64decode(image).startswith(PNG)


def test_notebook_prints_in_the_cell_that_computes(notebook):
    printing = [cell for cell in notebook.cells if cell.get("outputs")]
    assert len(printing) > 20
    nbformat.validate(notebook)
