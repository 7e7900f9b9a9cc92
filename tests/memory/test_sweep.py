"""A sweep's order, its file, and what a kill leaves of it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from memory_points import FACTS, OUT_AT, POINT, results, sweep_into

from llm_scratch.files import FileError
from llm_scratch.memory.point import Point
from llm_scratch.memory.sweep import Range, Walk, range_of
from llm_scratch.memory.sweep_table import SweepTable, row_of

FIXTURES = Path(__file__).parents[1] / "fixtures"


def batches(rows) -> list[int]:
    return [int(row["batch"]) for row in rows]


def test_sweep_measures_all_and_what_ran_out_is_a_row(tmp_path) -> None:
    rows = sweep_into(tmp_path / "s.csv")
    assert batches(rows) == list(range(1, 15))
    assert [row["state"] for row in rows] == ["ok"] * 11 + ["oom"] * 3
    assert rows[4]["resident_mean"] == "1050"
    assert rows[0]["torch"] == "2.13"
    assert '"emb_dim":32' in rows[0]["config"]


def test_sweep_until_oom_ends_at_the_first_also_without_an_end(tmp_path) -> None:
    rows = sweep_into(tmp_path / "s.csv", until="oom", values=Range(1, None, 2))
    assert batches(rows) == [1, 3, 5, 7, 9, 11, 13]
    assert rows[-1]["state"] == "oom"
    assert batches(sweep_into(tmp_path / "e.csv", until="oom")) == list(range(1, OUT_AT + 1))
    failing = dict(measure=lambda point: {"state": "failed", "reason": "no"}, until="oom")
    assert len(sweep_into(tmp_path / "f.csv", values=Range(1, None), **failing)) == 1


@pytest.mark.parametrize("values", [Range(1, 40), Range(1, None), Range(1, 11), Range(1, 12)])
def test_sweep_finds_the_largest_in_few_starts(tmp_path, values) -> None:
    said: list[str] = []
    rows = sweep_into(tmp_path / "s.csv", until="largest", values=values, log=said.append)
    assert said[-1] == f"the largest batch that fits: {OUT_AT - 1}"
    assert len(rows) <= 8
    assert len(set(batches(rows))) == len(rows)


@pytest.mark.parametrize("most", range(1, 20))
def test_sweep_finds_every_largest(tmp_path, most) -> None:
    def measure(point: Point):
        return {"state": "ok" if point.step.rows <= most else "oom"} | {
            name: "1" for name in ("seconds_per_step", "tokens_per_s")
        }

    for number, values in enumerate((Range(1, 20), Range(1, None), Range(1, most))):
        said: list[str] = []
        options = dict(measure=measure, until="largest", values=values, log=said.append)
        rows = sweep_into(tmp_path / f"{number}.csv", **options)
        assert said[-1] == f"the largest batch that fits: {most}"
        assert len(set(batches(rows))) == len(rows)


def test_sweep_measures_a_point_once_that_two_walks_have(tmp_path) -> None:
    walks = [Walk(POINT, "batch", Range(1, 2)), Walk(POINT, "batch", Range(2, 3))]
    assert batches(sweep_into(tmp_path / "s.csv", walks=walks)) == [1, 2, 3]


def test_sweep_says_where_nothing_fits(tmp_path) -> None:
    said: list[str] = []
    sweep_into(tmp_path / "s.csv", until="largest", values=Range(20, None), log=said.append)
    assert said[-1] == "not even a batch of 20 fits"


def test_sweep_starts_each_point_as_often_as_asked(tmp_path) -> None:
    rows = sweep_into(tmp_path / "s.csv", values=Range(1, 2), repeats=3)
    assert [(row["batch"], row["repeat"]) for row in rows] == [
        ("1", "1"), ("1", "2"), ("1", "3"), ("2", "1"), ("2", "2"), ("2", "3"),
    ]  # fmt: skip


def test_sweep_goes_on_with_further_values_and_measures_nothing_twice(tmp_path) -> None:
    measured: list[int] = []

    def measure(point: Point):
        measured.append(point.step.rows)
        return results(point)

    sweep_into(tmp_path / "s.csv", values=Range(2, 4), measure=measure)
    rows = sweep_into(tmp_path / "s.csv", values=Range(1, 5), measure=measure)
    assert measured == [2, 3, 4, 1, 5]
    assert batches(rows) == [2, 3, 4, 1, 5]


def test_sweep_refuses_the_file_of_another_configuration(tmp_path) -> None:
    path = tmp_path / "s.csv"
    sweep_into(path, values=Range(1, 1))
    other = replace(POINT, step=replace(POINT.step, optimizer="muon"))
    with pytest.raises(FileError, match=r"line 2 .*optimizer is 'adamw' there, 'muon' now"):
        sweep_into(path, walks=[Walk(other, "batch", Range(1, 2))])
    both = [Walk(point, "batch", Range(1, 2)) for point in (POINT, other)]
    assert len(sweep_into(path, walks=both)) == 4  # what is varied may differ
    with pytest.raises(FileError, match="line 4 is of another configuration"):
        sweep_into(path, values=Range(1, 1))


def test_sweep_refuses_rows_of_another_place(tmp_path, monkeypatch) -> None:
    path = tmp_path / "s.csv"
    sweep_into(path, values=Range(1, 1))
    monkeypatch.setitem(FACTS, "torch", "2.14")
    with pytest.raises(FileError, match="torch is '2.13' there, '2.14' now"):
        sweep_into(path, values=Range(1, 2))


def test_sweep_leaves_a_file_alone_that_is_not_a_sweep_s(tmp_path) -> None:
    path = tmp_path / "notes.csv"
    for text in ("dear diary", "1, 2, 3, 4\n5, 6", "model,length\n"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(FileError, match="line 1 is not a sweep's"):
            sweep_into(path)
        assert path.read_text(encoding="utf-8") == text


def test_sweep_refuses_a_file_that_another_one_writes(tmp_path) -> None:
    table = SweepTable(tmp_path / "s.csv", {})
    with pytest.raises(ValueError, match="another process sweeps into"):
        sweep_into(tmp_path / "s.csv")
    table.close()
    sweep_into(tmp_path / "s.csv", values=Range(1, 1))


def test_a_row_of_many_lines_stays_one_line(tmp_path) -> None:
    table = SweepTable(tmp_path / "s.csv", {})
    row = {**POINT.as_row(), **FACTS, "repeat": 1, "state": "failed", "reason": 'a\nb, "c"\r\n d'}
    table.add(row_of(row))
    table.close()
    assert len((tmp_path / "s.csv").read_bytes().splitlines()) == 2
    again = SweepTable(tmp_path / "s.csv", {})
    again.close()
    assert again.rows[0]["reason"] == 'a b, "c" d'


def test_sweep_cut_off_anywhere_goes_on_to_the_same_file(tmp_path) -> None:
    """Every place that a kill can leave: in the head, in a row, between two rows."""
    path = tmp_path / "s.csv"
    sweep_into(path, values=Range(10, 13))
    whole = path.read_bytes()
    ends = [place for place, byte in enumerate(whole) if byte == ord("\n")]
    near = [place + more for place in ends for more in (-1, 0, 1, 2)]
    for cut in sorted({*range(0, len(whole), 101), *near, *range(5)}):
        path.write_bytes(whole[:cut])
        sweep_into(path, values=Range(10, 13))
        assert path.read_bytes() == whole, cut


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_sweep_killed_at_any_moment_goes_on_to_the_same_file(tmp_path) -> None:
    sweep_into(tmp_path / "whole.csv")
    path, chance = tmp_path / "killed.csv", random.Random(7)
    code = f"from memory_points import main; main({str(path)!r}, 0.01)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(FIXTURES), *sys.path])}
    kills = 0
    for _ in range(40):
        child = subprocess.Popen([sys.executable, "-c", code], env=environment)
        rows_before = path.read_bytes().count(b"\n") if path.exists() else 0
        while child.poll() is None and (
            not path.exists() or path.read_bytes().count(b"\n") == rows_before
        ):
            time.sleep(0.002)  # it starts, and goes on
        time.sleep(0.05 * chance.random())
        if child.poll() is not None:
            break
        child.send_signal(signal.SIGKILL)
        child.wait()
        kills += 1
    assert child.returncode == 0
    assert kills >= 3
    assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_ranges_are_read_and_nonsense_is_refused_in_a_line() -> None:
    def values(text: str) -> list[int]:
        found = range_of(text, "length")
        return [found[index] for index in range(found.size)]

    assert values("1:2048:64")[:3] == [1, 65, 129]
    assert values("1:2048:64")[-1] == 1985
    assert values("3:5") == [3, 4, 5]
    assert values("8,2,4,2") == [2, 4, 8]
    assert values("64") == [64]
    assert range_of("2::3", "batch").size is None
    assert range_of("2::3", "batch").up_to(9).size == 3
    for text in ("0", "1:0", "a", "1:2:3:4", "", "-1", "1:5:0", "1:5:-1", "1,0", "1.5", ":4"):
        with pytest.raises(ValueError, match="--length .* must be like 64"):
            range_of(text, "length")


def test_a_plan_that_can_t_be_is_refused_before_the_first_start(tmp_path) -> None:
    with pytest.raises(ValueError, match="context length of 64"):
        Walk(POINT, "length", Range(1, 100))
    with pytest.raises(ValueError, match="needs --until-oom or --largest"):
        sweep_into(tmp_path / "s.csv", values=Range(1, None))
    with pytest.raises(ValueError, match="repeats=0"):
        sweep_into(tmp_path / "s.csv", repeats=0)
    assert not (tmp_path / "s.csv").exists()
    with pytest.raises(ValueError, match="--allocator expandable is CUDA's"):
        replace(POINT, allocator="expandable")
    with pytest.raises(ValueError, match="can be estimated, not measured"):
        replace(POINT, step=replace(POINT.step, engine="deepspeed"))
