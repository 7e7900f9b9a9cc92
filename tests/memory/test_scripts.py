"""The chapters on memory, as somebody runs them who has just cloned the project."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

CHAPTERS = Path(__file__).parents[2] / "chapters"
post05 = pytest.mark.script(CHAPTERS / "post05_memory.py", "--quick")
post06 = pytest.mark.script(CHAPTERS / "post06_sequence_lengths.py", "--quick")
post08 = pytest.mark.script(CHAPTERS / "post08_batch_sizes.py", "--quick")


def pictures_of(run) -> set[str]:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("pip install matplotlib")
    assert [path.name for path in run.folder.iterdir()] == ["chapter-output"]
    return {path.stem for path in (run.folder / "chapter-output").iterdir()}


@post05
def test_the_table_of_deepspeed_is_the_series(run):
    rows = re.findall(r"^ +(\S+) +(\S+)   offload_param", run.output, re.M)
    assert rows == [
        ("188.72", "1.96"), ("335.50", "1.96"), ("167.75", "3.70"),
        ("335.50", "3.70"), ("23.48", "17.68"), ("335.50", "17.68"),
    ]  # fmt: skip


@post05
def test_the_prose_has_the_numbers_that_are_printed(run):
    """The paragraph that answers part 5's question quotes what the cells before it print."""
    (total,) = re.findall(r"^ +(\S+) GiB  in all; measured by the series: 47.94 GiB$",
                          run.output, re.M)  # fmt: skip
    parts = re.findall(r": +(\S+) GiB, which", run.output)
    prose = (CHAPTERS / "post05_memory.py").read_text(encoding="utf-8")
    for number in (f"{float(total):.1f}", *parts):
        assert f"{number} GiB" in prose.replace("\n#", "")


@post05
def test_the_estimate_is_what_the_tracker_counts(run):
    (off,) = re.findall(r"^in all .*\((\S+)%\)$", run.output, re.M)
    assert abs(float(off)) <= 6
    assert pictures_of(run) == {"post05-terms", "post05-stages"}


@post06
def test_lengths_are_measured_and_estimated(run):
    rows = re.findall(r"^ +(\d+) +([\d,]+) +([\d,]+)$", run.output, re.M)
    assert [int(row[0]) for row in rows] == [64, 160, 256]
    assert "post06-small" in pictures_of(run)


@post06
def test_the_knee_of_part_6_is_found(run):
    (knee,) = re.findall(r"^knee (\d+) tokens", run.output, re.M)
    assert 880 <= int(knee) <= 1020
    for fitted in re.findall(r"MiB up to (\S+), then", run.output):  # where the file is
        assert abs(float(fitted) / 929 - 1) <= 0.03


@post08
@pytest.mark.skipif(sys.platform != "linux", reason="a process's memory is limited on Linux")
def test_memory_runs_out_and_the_sweep_says_where(run):
    assert re.search(r"^ *\d+  oom$", run.output, re.M)
    assert re.search(r"^ +16 .* s$", run.output, re.M)


@post08
def test_estimates_of_the_series_are_near(run):
    rows = re.findall(r"^(0.5B|8B).* (\d+) +([\d,]+) +([\d,]+) +(\S+)% +[\d,]+$", run.output, re.M)
    assert len(rows) == 11
    assert max(abs(float(row[4])) for row in rows) <= 6
    assert pictures_of(run) == {"post08-small"}
