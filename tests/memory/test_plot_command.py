"""`llm-scratch memory plot`: what it prints and refuses."""

from __future__ import annotations

import pytest
from memory_points import sweep_into

from llm_scratch.cli import main
from llm_scratch.memory.sweep import Range


def test_plot_prints_laws_and_how_far_off_estimates_are(tmp_path, capsys) -> None:
    path, picture = tmp_path / "s.csv", tmp_path / "p.png"
    sweep_into(path)
    words = ["memory", "plot", str(path), "--estimate", "--out", str(picture)]
    assert main(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("s.csv: resident: 0 MiB") or "MiB per row" in said[0]
    assert "estimates are off by" in said[1]
    assert said[2] == f"Picture: {picture}"
    assert picture.stat().st_size > 10_000


def test_plot_names_files_of_the_same_name_by_their_folders(tmp_path, capsys) -> None:
    for folder in ("one", "two"):
        sweep_into(tmp_path / folder / "s.csv", values=Range(1, 3))
    files = [str(tmp_path / folder / "s.csv") for folder in ("one", "two")]
    assert main(["memory", "plot", *files, "--out", str(tmp_path / "p.png")]) == 0
    said = capsys.readouterr().out
    assert "one/s.csv: resident" in said
    assert "two/s.csv: resident" in said


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("hello\n", (), "line 1 is neither a sweep's row nor one of the series"),
        ("1, 5, 6, 7.0\n", ("--estimate",), "leave --estimate out"),
        (
            "1, 5, 6, 7.0\n",
            ("--number", "allocated"),
            "no number allocated: it has active, reserved",
        ),
        ("1, OOM\n", (), "no point of it was measured"),
        (None, (), "x.csv"),
    ],
)
def test_plot_refuses_in_a_line(tmp_path, capsys, text, options, message) -> None:
    path = tmp_path / "x.csv"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    assert main(["memory", "plot", str(path), *options, "--out", str(tmp_path / "p.png")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "p.png").exists()
