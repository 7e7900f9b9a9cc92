"""The Python of a notebook's code cells, without magics and shell commands."""

from __future__ import annotations

import re
from pathlib import Path

from llm_scratch.files import lines_of, parse_json

# Cell magics whose cells are still Python.
PYTHON_CELLS = {"time", "timeit", "capture", "prun", "python", "python3"}
SHELL_OR_MAGIC = re.compile(r"^(?P<indent>\s*)(?:[!%?]|[\w., ]+=\s*[!%]\s*\w|[\w.]+\?{1,2}\s*$)")


class SourceError(ValueError):
    """A reader's file that can't be read."""


def code_cells(path: Path) -> list[tuple[int, str]]:
    """Return (number of the cell, its Python) of each code cell, counted from 1 over all cells.

    Raises:
        SourceError: if the file is not a notebook.
    """
    try:
        cells = parse_json(path, path.read_bytes())["cells"]
        sources = [
            (number, "".join(cell["source"]))
            for number, cell in enumerate(cells, 1)
            if cell["cell_type"] == "code"
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"{path} is not a Jupyter notebook ({type(error).__name__}: {error}); save it again as "
            ".ipynb, or give the .py file"
        ) from error
    return [(number, without_magics(source)) for number, source in sources]


def without_magics(source: str) -> str:
    """Return a cell without lines for the shell or the notebook; other lines keep their numbers.

    A cell in another language comes back empty.
    """
    lines = lines_of(source)
    first = next((line.strip() for line in lines if line.strip()), "")
    if first.startswith("%%"):
        magic = re.match(r"%%(\w*)", first)
        if magic is None or magic[1] not in PYTHON_CELLS:
            return ""
    kept = []
    for line in lines:
        magic = SHELL_OR_MAGIC.match(line)
        kept.append(magic["indent"] + "pass" if magic else line)
    return "\n".join(kept) + "\n"
