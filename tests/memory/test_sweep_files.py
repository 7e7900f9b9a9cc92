"""Files of sweeps, this library's and the series', whole and damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from memory_points import FACTS, POINT, results

from llm_scratch.files import FileError
from llm_scratch.memory.curves import (
    estimated_points,
    law_of,
    law_points,
    law_text,
    main_number,
)
from llm_scratch.memory.estimate import estimate_memory
from llm_scratch.memory.point import bytes_of, point_in
from llm_scratch.memory.step import TrainingStep
from llm_scratch.memory.sweep_files import read_sweep
from llm_scratch.memory.sweep_table import SweepTable, row_of
from llm_scratch.model.llama_config import LlamaConfig, RopeScaling
from llm_scratch.training.division import Division

MIB = 2**20
FOLDER = "sequence-length-memory-modeling"


def eight(x: int, rank: int, active: float, speed: float = 0.5) -> str:
    """A line as one of eight processes writes it."""
    cells = [0.0] * 16
    cells[2 * rank : 2 * rank + 2] = active, active + 100
    return ", ".join(map(str, [x, *cells, speed]))


def saved(folder: Path, *lines: str) -> Path:
    path = folder / "results.csv"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("lines_out", [0, 1, 8])
def test_series_rows_of_eight_processes_become_least_mean_and_most(tmp_path, lines_out) -> None:
    lines = [eight(x, rank, 1000 * x + rank) for x in (1, 2) for rank in (3, 1, 0, 2, 7, 6, 5, 4)]
    (curve,) = read_sweep(saved(tmp_path, *lines, *["3, OOM"] * lines_out))
    found = curve.of("active")
    assert list(found) == [1, 2]
    assert found[2] == [(2000 * MIB, 2003.5 * MIB, 2007 * MIB)]
    assert curve.readings[0].numbers["reserved"].least == 1100 * MIB
    assert curve.readings[0].ranks == 8
    assert curve.out == ([3] if lines_out else [])


def test_series_rows_of_one_process_stand_in_order_and_retries_count_once(tmp_path) -> None:
    lines = ("2, 20, 30, 4.5", "1, 10, 12, 5.0", "2, 21, 30, 4.4", "4, OOM")
    (curve,) = read_sweep(saved(tmp_path, *lines))
    assert [(each.x, each.state) for each in curve.readings] == [(1, "ok"), (2, "ok"), (4, "oom")]
    assert curve.of("active")[2] == [(21 * MIB, 21 * MIB, 21 * MIB)]
    assert curve.readings[1].steps_per_s == 4.4
    assert main_number("x", curve) == "active"


def test_series_rows_name_the_rank_that_is_missing(tmp_path) -> None:
    lines = [eight(5, rank, 100) for rank in range(8) if rank not in (2, 6)]
    with pytest.raises(FileError, match=r"results.csv: rank 2, 6 of 8 is missing at 5"):
        read_sweep(saved(tmp_path, *lines))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), "line 1 is missing"),
        (("1, 2, 3",), "line 1 is neither a sweep's row nor one of the series .*3 columns"),
        (("1, 2, 3, 4", "hello"), "line 2 is neither .*1 columns"),
        (("1, 2, 3, 4", "2, x, 3, 4"), "line 2 is neither .*'x'"),
        (("1, 2, 3, 4", "2, nan, 3, 4"), "line 2 is neither"),
        (("1, -2, 3, 4",), "line 1 is neither .*below 0"),
        (("x, OOM",), "line 1 is neither"),
        (("1, 0, 0, 4",), "line 1 has the memory of 0 processes"),
        (("1, 2, 3, 4", eight(1, 0, 5)), "line 2 is neither"),
        (("name,age", "anna,3"), "line 1 is neither"),
        (("model,length", "gpt2,3"), "line 1 is not the head"),
    ],
)
def test_a_csv_that_is_neither_is_refused_in_a_line(tmp_path, lines, message) -> None:
    with pytest.raises(FileError, match=message) as caught:
        read_sweep(saved(tmp_path, *lines))
    assert "results.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sweep_with_a_damaged_row_is_refused_in_a_line(tmp_path) -> None:
    row = row_of({**POINT.as_row(), **results(POINT), **FACTS, "repeat": 1})
    table = SweepTable(tmp_path / "s.csv", {})
    table.add(row)
    table.close()
    text = (tmp_path / "s.csv").read_text(encoding="utf-8")
    for old, new, message in (
        (",ok,", ",ok", "line 2 has"),
        (",ok,0.5", ",ok,half", "line 2 is not a row of a sweep: .*half"),
        ('"{', '"{"', "line 2 is not CSV"),
    ):
        assert old in text
        (tmp_path / "d.csv").write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(FileError, match=message):
            read_sweep(tmp_path / "d.csv")
    head = text.splitlines()[0]
    with pytest.raises(FileError, match="line 2 is missing"):
        read_sweep(saved(tmp_path, head))


def test_a_sweep_that_varies_an_option_has_a_curve_for_each(tmp_path) -> None:
    table = SweepTable(tmp_path / "s.csv", {})
    for blocks in (0, 1):
        for rows in (1, 2, 4):
            step = replace(POINT.step, checkpoint_blocks=blocks, rows=rows)
            point = replace(POINT, step=step)
            found = results(point) if rows < 4 or blocks else {"state": "oom", "reason": "full"}
            table.add(row_of({**point.as_row(), **FACTS, **found, "repeat": 1}))
    table.close()
    curves = read_sweep(tmp_path / "s.csv")
    labels = [(curve.label, curve.axis) for curve in curves]
    assert labels == [("checkpoint_blocks=0", "batch"), ("checkpoint_blocks=1", "batch")]
    assert [curve.out for curve in curves] == [[4], []]
    assert main_number("s", curves[0]) == "resident"
    assert point_in(curves[1].readings[0].row) == replace(
        POINT, step=replace(POINT.step, checkpoint_blocks=1)
    )
    with pytest.raises(FileError, match="no number active: it has resident"):
        main_number("s.csv", curves[0], "active")


def test_points_of_all_kinds_come_back_out_of_their_rows() -> None:
    llama = LlamaConfig(
        61, 64, 32, 4, 2, hidden_dim=48, n_kv_groups=2, tie_weights=True, sliding_window=8,
        sliding_layers=(1,), rope_freq=RopeScaling(8.0, original_context_length=32),
    )  # fmt: skip
    steps = (
        TrainingStep(llama, rows=3, length=20, weights="bfloat16", loss_chunk=None, ranks=8,
                     division=Division("full", mesh=(2, 4), reshard=False, offload=True)),
        TrainingStep(POINT.step.cfg, lora_rank=4, accumulation=2, precision="bfloat16"),
        TrainingStep(POINT.step.cfg, last_blocks=1, optimizer="muon", attention="by-hand"),
    )  # fmt: skip
    for step in steps:
        step = replace(step, length=step.tokens_a_row)
        point = replace(POINT, step=step, limit=6 << 30, epoch_rows=100, allocator="expandable")
        assert point_in(point.as_row()) == point
    with pytest.raises(ValueError, match="column 'seed' is missing"):
        point_in({name: text for name, text in POINT.as_row().items() if name != "seed"})


def test_sizes_are_read_in_both_systems_and_nonsense_is_refused() -> None:
    assert [bytes_of(text) for text in ("6GiB", "1.5 gb", "500MB", "7", "2e3KiB")] == [
        6 << 30, 1_500_000_000, 500_000_000, 7, 2_048_000,
    ]  # fmt: skip
    for text in ("0", "-1GiB", "GiB", "6 apples", "", "1e999GB", "0.1"):
        with pytest.raises(ValueError, match="must be a size above 0"):
            bytes_of(text)


def test_a_curve_says_its_law_and_draws_it_with_the_knee(tmp_path) -> None:
    lines = [f"{x}, {max(500, 100 + 10 * x)}, 900, 2.0" for x in range(10, 100, 5)]
    (curve,) = read_sweep(saved(tmp_path, *lines))
    law = law_of(curve, "active")
    said = "500 MiB up to 40, then 100 + 10 MiB per token (off by 0.0 MiB)"
    assert law_text(law, "length") == said
    assert law_points(curve, law) == [
        pytest.approx((10, 500 * MIB)), pytest.approx((40, 500 * MIB)),
        pytest.approx((95, 1050 * MIB)),
    ]  # fmt: skip
    (curve,) = read_sweep(saved(tmp_path, "1, 5, 6, 7.0"))
    assert law_of(curve, "active") is None
    assert law_points(curve, None) == []


@pytest.mark.parametrize(
    ("name", "points", "out", "axis"),
    [
        ("batch-size-memory-modeling-0.5B/results-no-optimizer-offload.csv", 2, [3], "batch"),
        ("batch-size-memory-modeling-8B/results-with-optimizer-offload.csv", 17, [18], "batch"),
        ("batch-size-memory-modeling-8B/results-no-optimizer-offload.csv", 2, [3], "batch"),
        (
            "batch-size-memory-modeling-8B/results-no-optimizer-offload-with-gradient-"
            "checkpointing-with-expandable-segments.csv",
            14,
            [],
            "batch",
        ),
        (f"{FOLDER}/results-without-env-var.csv", 2048, [], "length"),
        (f"{FOLDER}-8B/initial-results-no-env-var.csv", 25, [], "length"),
    ],
)
def test_the_series_own_files_are_read(series_file, name, points, out, axis) -> None:
    (curve,) = read_sweep(series_file(name))
    assert (len(curve.of("active")), curve.out, curve.axis) == (points, out, axis)
    assert {reading.ranks for reading in curve.readings} == {8 if "-8B" in name else 1}


def test_estimates_stand_beside_our_rows_and_the_series_has_none(tmp_path) -> None:
    points = [replace(POINT, step=replace(POINT.step, rows=rows)) for rows in (1, 4)]
    table = SweepTable(tmp_path / "s.csv", {})
    for point, found in zip(points, (results(POINT), {"state": "oom"}), strict=True):
        table.add(row_of({**point.as_row(), **FACTS, **found, "repeat": 1}))
    table.close()
    (curve,) = read_sweep(tmp_path / "s.csv")
    assert estimated_points("s.csv", curve) == [
        (rows, estimate_memory(point.step).bytes)
        for rows, point in zip((1, 4), points, strict=True)
    ]
    (series,) = read_sweep(saved(tmp_path, "1, 5, 6, 7.0"))
    with pytest.raises(FileError, match="results.csv: does not say what was computed"):
        estimated_points("results.csv", series)
