"""The script of chapter 3 runs, from any folder, and prints what the book prints."""

from __future__ import annotations

from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "chapters" / "ch03_attention.py"
# What the book prints, in its order, with lines left out in between.
BOOK_LINES = (
    "tensor([0.9544, 1.4950, 1.4754, 0.8434, 0.7070, 1.0865])",
    "Attention weights: tensor([0.1385, 0.2379, 0.2333, 0.1240, 0.1082, 0.1581])",
    "tensor([0.4419, 0.6515, 0.5683])",
    "Row 2 sum: 1.0",
    "tensor([0.3061, 0.8210])",
    "        [0.2175, 0.1983, 0.1984, 0.1888, 0.1971, 0.0000],",
    "        [0.7599, 0.6194, 0.6206, 0.0000, 0.0000, 0.0000],",
    "context_vecs.shape: torch.Size([2, 6, 4])",
    "tensor([[[0.3190, 0.4858],",
    "Parameters: 2,360,064",
)
pytestmark = pytest.mark.script(SCRIPT, "--quick")


def test_script_prints_what_the_book_prints(run):
    lines = iter(run.output.splitlines())
    for expected in BOOK_LINES:
        assert expected in lines, f"{expected!r} is missing, or comes too early"  # moves on


def test_script_saves_its_picture_under_the_folder_it_runs_in(run):
    pictures = sorted(path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*"))
    assert pictures == ["chapter-output", "chapter-output/ch03-causal-attention.png"]
