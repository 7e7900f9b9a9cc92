"""Pictures of memory show what they were given."""

from __future__ import annotations

import numpy as np
import pytest

from llm_scratch.plotting.memory import GIB, MemoryCurve, plot_memory, plot_stages
from llm_scratch.training.memory_log import STAGES

MEASURED = [(1, 1 * GIB, 2 * GIB, 3 * GIB), (2, 2 * GIB, 4 * GIB, 5 * GIB)]
CURVE = MemoryCurve(
    MEASURED,
    estimated=[(1, 1.9 * GIB), (2, 3.9 * GIB)],
    law=[(1, 2 * GIB), (2, 4 * GIB)],
    law_text="2,048 MiB per row",
    out=[3],
)


def shown(axes) -> list[tuple]:
    return [tuple(map(tuple, np.array(line.get_data()).T)) for line in axes.lines]


def words(figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_memory_shows_measured_law_estimate_and_where_it_ran_out() -> None:
    figure = plot_memory({"a.csv": CURVE}, axis="batch", number="allocated")
    (axes,) = figure.axes
    lines = shown(axes)
    assert ((1, 2), (2, 4)) in lines  # points, and the law on them
    assert sum(line == ((1, 2), (2, 4)) for line in lines) == 2
    assert ((1, 1.9), (2, 3.9)) in lines
    assert [line[0][0] for line in lines if len(line) == 1] == [3]
    assert words(figure) == ["a.csv, measured", "2,048 MiB per row", "estimated", "out of memory"]
    assert axes.get_ylabel() == "GiB allocated, at the peak"
    assert axes.get_xlabel() == "Rows of a batch"
    bars = axes.collections[0].get_segments()
    assert [tuple(segment[:, 1]) for segment in bars] == [(1, 3), (2, 5)]


def test_memory_shows_every_curve_and_only_what_there_is() -> None:
    plain = MemoryCurve([(1, GIB, GIB, GIB)])
    figure = plot_memory({"a": plain, "b": plain}, axis="length")
    assert words(figure) == ["a, measured", "b, measured"]
    assert not figure.axes[0].collections
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_memory({"a": MemoryCurve([])})


def line(step: int, sizes: dict[str, float], ranks: int = 2) -> dict:
    marks = [
        [{"stage": stage, "micro_batch": 1, **{k: (v + rank) * GIB for k, v in sizes.items()}}
         for stage in STAGES]
        for rank in range(ranks)
    ]  # fmt: skip
    memory = [{"rank": rank, "marks": each} for rank, each in enumerate(marks)]
    return {"step": step, "loss": 1.0, "memory": memory}


def test_stages_show_every_number_of_each_run_and_its_first_step() -> None:
    sizes = {"allocated": 4, "allocated_peak": 6, "reserved": 8, "reserved_peak": 9}
    lines = [line(1, {name: size - 3 for name, size in sizes.items()}), line(2, sizes)]
    figure = plot_stages({"one": lines, "none": [{"step": 1, "loss": 2.0}]})
    (axes,) = figure.axes
    heights = {each.get_label(): each.get_ydata()[0] for each in axes.lines}
    assert heights == {
        "allocated": 4.5, "allocated, first step": 1.5, "allocated, most so far": 7,
        "reserved": 8.5, "reserved, first step": 5.5, "reserved, most so far": 10,
    }  # fmt: skip
    assert [text.get_text() for text in axes.get_xticklabels()] == list(STAGES)
    assert len(axes.collections) == 2  # bands
    assert axes.get_title() == "one"
    with pytest.raises(ValueError, match="--log-memory writes it"):
        plot_stages({"none": [{"step": 1}]})


def test_stages_name_the_micro_batch_of_accumulated_ones() -> None:
    marks = [{"stage": stage, "micro_batch": micro, "resident": GIB}
             for micro in (1, 4) for stage in STAGES[:4]]  # fmt: skip
    marks += [{"stage": stage, "micro_batch": 4, "resident": GIB} for stage in STAGES[4:]]
    figure = plot_stages({"run": [{"step": 1, "memory": [{"rank": 0, "marks": marks}]}]})
    names = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert names[4:6] == ["before forward (4)", "after forward (4)"]
    assert names[8:] == ["before step", "after step"]
