from __future__ import annotations

import json

import pytest

# The cells of a notebook; a process runs them and prints what each of them shows.
RUN = """
import json, sys
import nbclient, nbformat

cells = [nbformat.v4.new_code_cell(cell) for cell in sys.argv[1:]]
notebook = nbformat.v4.new_notebook(cells=cells)
nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
print(json.dumps([cell.outputs for cell in notebook.cells]))
"""
CELLS = (
    "def softmax_naive(x):\n    return x / x.sum()",
    "from llm_scratch.selfcheck.run import check\ncheck('ch03', globals())",
    "report = check('ch03', globals())",
    "report",
    "report.exit_status",
)


@pytest.mark.script("-c", RUN, *CELLS)
def test_check_shows_its_table_once_in_a_cell(run) -> None:
    _, *shown, last = json.loads(run.output)
    for outputs in shown:
        (table,) = [output for output in outputs if output["output_type"] != "stream"]
        html = table["data"]["text/html"]
        assert "<table" in html
        assert "softmax_naive" in html
        assert "Write the formula for three numbers" in html
        assert "MultiHeadAttention" in html
        assert "WRONG" in table["data"]["text/plain"]
    assert last[0]["data"]["text/plain"] == "1"
