"""Pictures of several processes: their memory, their scaling, and memory over batch sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from llm_scratch.plotting.figures import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY = "#555555"
STYLES = ("o-", "s--", "^-.", "D:")


def plot_held(
    ways: Mapping[str, Mapping[str, float]], unit: str = "MB", limit: float | None = None
) -> Figure:
    """Draw a process's memory for each way of training, as stacked bars.

    Args:
        ways: the way's name -> the part's name -> its amount, in `unit`. Each bar has the parts
            that it names; the same name has the same colour in all bars.
        unit: the unit of the numbers.
        limit: a line across all bars, such as the memory of a card.

    Raises:
        ValueError: if there is nothing to draw, or a number is below 0.
    """
    parts = list(dict.fromkeys(part for held in ways.values() for part in held))
    if not parts or min(min(held.values(), default=0) for held in ways.values()) < 0:
        raise ValueError(f"bars of {dict(ways)}; give ways with parts of 0 or more")
    figure, axes = new_figure(8.0, 0.55 * len(ways) + 1.7)
    places, lefts = np.arange(len(ways)), np.zeros(len(ways))
    for index, part in enumerate(parts):
        widths = np.array([held.get(part, 0.0) for held in ways.values()])
        axes.barh(places, widths, 0.65, lefts, color=COLOURS[index % len(COLOURS)], label=part)
        lefts += widths
    for place, total in zip(places, lefts, strict=True):
        axes.annotate(f"{total:,.3g}" if total < 1000 else f"{total:,.0f}", (total, place), (4, 0),
                      textcoords="offset points", va="center", color=GREY, fontsize=9)  # fmt: skip
    if limit is not None:
        axes.axvline(limit, color=GREY, lw=1.0, ls=(0, (4, 3)))
        text = f"{limit:,.0f} {unit}"
        axes.annotate(text, (limit, 1.0), (3, -2), xycoords=("data", "axes fraction"), va="top",
                      textcoords="offset points", color=GREY, fontsize=8)  # fmt: skip
    axes.set_yticks(places, list(ways))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(*lefts, limit or 0, 1e-9))
    axes.set_xlabel(f"{unit} on a process")
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(parts), frameon=False, fontsize=9)
    return figure


def plot_speedups(speeds: Mapping[str, Mapping[int, float]]) -> Figure:
    """Draw how much faster several processes are than one, with the line of perfect scaling.

    Args:
        speeds: a name -> the number of processes -> their total speed, in any unit. One process
            must be among them; the others are shown as multiples of its speed.

    Raises:
        ValueError: if there is nothing to draw, or the speed of one process is missing.
    """
    if not speeds or not all(found.get(1) for found in speeds.values()):
        raise ValueError(f"speeds of {dict(speeds)}; each needs that of 1 process")
    most = max(max(found) for found in speeds.values())
    figure, axes = new_figure(6.0, 4.2)
    axes.plot([1, most], [1, most], color=GREY, lw=1.0, ls=(0, (2, 3)), label="nothing lost")
    for index, (name, found) in enumerate(speeds.items()):
        times = [found[count] / found[1] for count in sorted(found)]
        colour, style = COLOURS[index % len(COLOURS)], STYLES[index % len(STYLES)]
        axes.plot(sorted(found), times, style, color=colour, markersize=5, lw=1.6, label=name)
    axes.set(xlabel="Processes", ylabel="Times the speed of one")
    axes.set_xlim(0.7, most + 0.3)
    axes.set_ylim(bottom=0)
    axes.locator_params("x", integer=True)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    return figure


def plot_batches(
    memory: Mapping[str, Mapping[int, float]],
    speeds: Mapping[str, Mapping[int, float]],
    limit: float,
) -> Figure:
    """Draw memory and speed over the batch size, one panel each and one line per setting.

    Args:
        memory: a name -> sequences per batch -> GiB.
        speeds: the same names -> sequences per batch -> sequences per second.
        limit: the memory of a card in GiB.

    Raises:
        ValueError: if there is nothing to draw, or the names differ.
    """
    if not memory or memory.keys() != speeds.keys():
        raise ValueError(f"memory of {list(memory)}, speeds of {list(speeds)}; give the same names")
    figure, panels = new_figure(9.0, 4.0, columns=2)
    for values, panel in zip((memory, speeds), panels, strict=True):
        for index, (name, found) in enumerate(values.items()):
            style, colour = STYLES[index % len(STYLES)], COLOURS[index % len(COLOURS)]
            panel.plot(sorted(found), [found[batch] for batch in sorted(found)], style,
                       color=colour, markersize=5, lw=1.6, label=name)  # fmt: skip
        panel.set_xlabel("Sequences in a batch of one card")
        panel.set_ylim(0, 1.1 * max(max(found.values()) for found in values.values()))
        panel.locator_params("x", integer=True)
        panel.grid(alpha=0.25)
    highest = max(limit, *(max(found.values()) for found in memory.values()))
    panels[0].set_ylim(0, 1.1 * highest)
    panels[0].axhline(limit, color=GREY, lw=1.0, ls=(0, (4, 3)))
    panels[0].annotate(f"a card of {limit:,.0f} GiB", (1, limit), (0, -4), va="top", color=GREY,
                       textcoords="offset points", fontsize=8)  # fmt: skip
    panels[0].set_ylabel("GiB on a card")
    panels[1].set_ylabel("Sequences per second, all cards")
    panels[1].legend(frameon=False, fontsize=9)
    return figure
