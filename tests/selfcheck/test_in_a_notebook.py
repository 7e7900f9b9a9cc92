from __future__ import annotations

import nbformat
from nbclient import NotebookClient

CELLS = (
    "def softmax_naive(x):\n    return x / x.sum()",
    "from llm_scratch.selfcheck.run import check\ncheck('ch03', globals())",
    "report = check('ch03', globals())",
    "report",
    "report.exit_status",
)


def test_check_shows_its_table_once_in_a_cell() -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    _, *shown, last = [cell.outputs for cell in notebook.cells]
    for outputs in shown:
        (table,) = [output for output in outputs if output.output_type != "stream"]
        html = table["data"]["text/html"]
        assert "<table" in html
        assert "softmax_naive" in html
        assert "Write the formula for three numbers" in html
        assert "MultiHeadAttention" in html
        assert "WRONG" in table["data"]["text/plain"]
    assert last[0]["data"]["text/plain"] == "1"
