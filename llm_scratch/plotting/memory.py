"""Pictures of memory: measured against estimated, and by the stages of a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_scratch.plotting.figures import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY = "#777777"
GIB, MIB = 2**30, 2**20
MANY = 60  # more points than these get small, light marks
PEAK = "_peak"


@dataclass(frozen=True)
class MemoryCurve:
    """Memory over lengths or batches, in bytes.

    Args:
        measured: (x, least, mean, most) over the processes of a point.
        estimated: (x, estimate); may be empty.
        law: (x, value of the fitted law); may be empty.
        law_text: the law in words, for the legend.
        out: x at which memory ran out.
    """

    measured: Sequence[tuple[float, float, float, float]]
    estimated: Sequence[tuple[float, float]] = ()
    law: Sequence[tuple[float, float]] = ()
    law_text: str = ""
    out: Sequence[float] = field(default=())


def plot_memory(
    curves: Mapping[str, MemoryCurve], *, axis: str = "", number: str = "memory"
) -> Figure:
    """Draw memory over lengths or batches: measured, estimated, and the fitted law.

    Points are measured, with a bar from the least to the most of several processes; the dashed
    line is the law, the dotted one the estimate. A cross at the top marks where memory ran out.

    Args:
        curves: the curves by name.
        axis: what x is: "length", "batch", or "" if unknown.
        number: what is counted, such as "allocated".

    Raises:
        ValueError: if nothing was measured.
    """
    if not any(curve.measured for curve in curves.values()):
        raise ValueError("no point was measured; there is nothing to draw")
    entries = sum(1 + bool(c.law) + bool(c.estimated) for c in curves.values())
    figure, axes = new_figure(7.5, 4.4 + 0.2 * entries)
    sizes = [point[3] for curve in curves.values() for point in curve.measured]
    sizes += [size for curve in curves.values() for _, size in curve.estimated]
    unit, unit_name = (GIB, "GiB") if max(sizes) >= GIB else (MIB, "MiB")
    highest = max(sizes) / unit
    for index, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        _draw_measured(axes, name, curve, colour, unit)
        _draw_lines(axes, curve, colour, unit)
    label = "out of memory"
    for index, curve in enumerate(curves.values()):
        if curve.out:
            colour, top = COLOURS[index % len(COLOURS)], [1.08 * highest] * len(curve.out)
            axes.plot(curve.out, top, "x", color=colour, label=label)
            label = "_"  # matplotlib's sign for no label
    names = {"length": "Tokens of a row", "batch": "Rows of a batch"}
    axes.set(xlabel=names.get(axis, "Length or batch"))
    axes.set_ylabel(f"{unit_name} {number}, at the peak")
    axes.set_ylim(0, 1.15 * highest)
    axes.set_xlim(left=0)
    if axis == "batch":
        axes.locator_params("x", integer=True)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower left", frameon=False, fontsize=8)
    return figure


def _draw_measured(axes: Any, name: str, curve: MemoryCurve, colour: str, unit: int) -> None:
    if not curve.measured:
        return
    x, least, mean, most = np.array(curve.measured, dtype=float).T
    size, alpha = (5, 0.8) if len(x) <= MANY else (2.5, 0.3)
    bars = np.array([mean - least, most - mean]) / unit
    if bars.any():
        axes.errorbar(x, mean / unit, bars, fmt="none", ecolor=colour, elinewidth=1, capsize=2)
    axes.plot(x, mean / unit, "o", color=colour, markersize=size, alpha=alpha, mew=0)
    axes.plot([], "o", color=colour, markersize=5, label=f"{name}, measured")


def _draw_lines(axes: Any, curve: MemoryCurve, colour: str, unit: int) -> None:
    dashed, dotted = (0, (5, 2)), (0, (1, 1.5))
    kinds = ((curve.law, dashed, curve.law_text), (curve.estimated, dotted, "estimated"))
    for points, style, label in kinds:
        if points:
            x, y = np.array(points, dtype=float).T
            axes.plot(x, y / unit, color=colour, ls=style, lw=1.4, label=label)


def plot_stages(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draw the memory that the stages of a step hold, one panel per run.

    The line is the mean over steps and processes, the band goes from the least to the most. The
    first step, in which the optimizers create their state, is dashed. Thin lines are the peaks so
    far in the last step.

    Args:
        runs: name -> lines of the log with "memory" (`--log-memory`).

    Raises:
        ValueError: if no line has "memory".
    """
    logged = {name: [line for line in lines if line.get("memory")] for name, lines in runs.items()}
    logged = {name: lines for name, lines in logged.items() if lines}
    if not logged:
        raise ValueError("no run has the memory of its stages; --log-memory writes it")
    figure, panels = new_figure(7.5, 0.9 + 3.3 * len(logged), rows=len(logged), squeeze=False)
    for panel, (name, lines) in zip(panels[:, 0], logged.items(), strict=True):
        _draw_stages(panel, lines)
        panel.set_title(name, fontsize=10)
        panel.set_ylabel("GiB")
        panel.margins(y=0.15)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.25)
        panel.legend(frameon=False, fontsize=8)
    return figure


def _draw_stages(panel: Any, lines: Sequence[Mapping[str, Any]]) -> None:
    names = [_stage(mark) for mark in lines[-1]["memory"][0]["marks"]]
    first, rest = lines[0], lines[1:] or lines
    counted = [key for key in lines[-1]["memory"][0]["marks"][0]
               if key not in ("stage", "micro_batch") and not key.endswith(PEAK)]  # fmt: skip
    places = np.arange(len(names))
    for index, key in enumerate(counted):
        colour = COLOURS[index % len(COLOURS)]
        values = np.array(list(_sizes(rest, key)))  # (steps x ranks, stages)
        panel.fill_between(places, values.min(0), values.max(0), color=colour, alpha=0.2, lw=0)
        panel.plot(places, values.mean(0), "o-", color=colour, markersize=4, label=key)
        if len(lines) > 1:
            start = np.array(list(_sizes([first], key))).mean(0)
            panel.plot(places, start, color=colour, ls="--", lw=1.2, label=f"{key}, first step")
        if peaks := list(_sizes(lines[-1:], key + PEAK)):
            panel.plot(places, np.array(peaks).max(0), color=colour, lw=0.8, ls=":",
                       label=f"{key}, most so far")  # fmt: skip
    panel.set_xticks(places, names, rotation=20, ha="right", fontsize=8)


def _stage(mark: Mapping[str, Any]) -> str:
    """Return the label of a stage, with the number of its micro batch after the first."""
    number = mark["micro_batch"]
    is_of_step = number == 1 or mark["stage"].endswith(" step")
    return mark["stage"] if is_of_step else f"{mark['stage']} ({number})"


def _sizes(lines: Sequence[Mapping[str, Any]], key: str) -> Iterator[list[float]]:
    """Yield the GiB at each stage, for each step and process that counts them."""
    for line in lines:
        for rank in line["memory"]:
            if all(key in mark for mark in rank["marks"]):
                yield [mark[key] / GIB for mark in rank["marks"]]
