"""Pictures of open models: RoPE's waves, memory of caches, speeds and their limits.

Shape letters: D head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_scratch.plotting.figures import BLUE, COLOURS, as_array, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY = "#555555"
CLEAR = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.6}
FEWEST_TOKENS = 256


def plot_rope_waves(turns: Any, pairs: Sequence[int], positions: int = 128) -> Figure:
    """Draw the cosines of some of RoPE's pairs over positions, one panel per pair.

    Args:
        turns: (D/2,) radians by which each pair turns per position.
        pairs: the pairs to draw.
        positions: the number of positions.

    Raises:
        ValueError: if there is no such pair.
    Source:
        Su et al. 2021, arXiv:2104.09864, section 3.2.
    """
    speeds = as_array(turns)
    if not len(pairs) or not all(0 <= pair < len(speeds) for pair in pairs):
        raise ValueError(f"pairs {list(pairs)} of {len(speeds)}; give some from 0 on")
    figure, grid = new_figure(
        7.0, 1.3 * len(pairs) + 0.8, rows=len(pairs), sharex=True, squeeze=False
    )
    places = np.arange(positions)
    fine = np.linspace(0, positions - 1, 20 * positions)  # finer than positions, for a smooth curve
    for index, (panel, pair) in enumerate(zip(grid.ravel(), pairs, strict=True)):
        colour = COLOURS[index % len(COLOURS)]
        panel.plot(fine, np.cos(fine * speeds[pair]), color=colour, lw=0.8, alpha=0.5)
        panel.plot(places, np.cos(places * speeds[pair]), ".", color=colour, markersize=3)
        tokens = 2 * math.pi / speeds[pair]
        shown = f"{tokens:.1f}" if tokens < 10 else f"{tokens:,.0f}"
        panel.set_title(f"Pair {pair}: one turn in {shown} tokens", fontsize=10, loc="left")
        panel.set(ylim=(-1.15, 1.15), yticks=(-1, 0, 1))
        panel.grid(alpha=0.25)
    panel.set_xlabel("Position (tokens)")
    figure.supylabel("Cosine of the angle", fontsize=10)
    return figure


def plot_rope_wavelengths(turns: Mapping[str, Any], contexts: Sequence[int] = ()) -> Figure:
    """Draw the number of tokens per turn of each pair, one line per set of frequencies.

    Args:
        turns: name -> (D/2,) radians by which each pair turns per position.
        contexts: lengths to compare with, in tokens, as dashed lines.

    Raises:
        ValueError: if there is nothing to draw.
    """
    if not turns:
        raise ValueError("there are no frequencies to draw; give at least one row of them")
    figure, axes = new_figure(7.0, 4.2)
    for index, (name, row) in enumerate(turns.items()):
        lengths = 2 * math.pi / as_array(row)
        style = ("-", "--", "-.", ":")[index % 4]
        axes.plot(lengths, color=COLOURS[index % len(COLOURS)], ls=style, lw=1.8, label=name)
    for length in contexts:
        axes.axhline(length, color=GREY, lw=0.8, ls=(0, (2, 3)))
        text = f"a context of {length:,} tokens"
        axes.annotate(text, (0, length), (2, 3), textcoords="offset points", color=GREY, fontsize=8)
    axes.set(yscale="log", xlabel="Pair of dimensions", ylabel="Tokens for one turn")
    axes.locator_params("x", integer=True)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def plot_cache_memory(caches: Mapping[str, tuple[float, int]]) -> Figure:
    """Draw the memory of keys and values over the tokens in the cache, one line per model.

    A line ends at its model's context length, labelled with the memory of the cache there.

    Args:
        caches: name -> (bytes per token, context length in tokens).

    Raises:
        ValueError: if there is nothing to draw, or a number is below 1.
    """
    if not caches or min(min(pair) for pair in caches.values()) < 1:
        raise ValueError(
            f"caches of {dict(caches)}; give models with bytes and tokens of 1 or more"
        )
    figure, axes = new_figure(8.0, 4.6)
    for index, (name, (size, context)) in enumerate(caches.items()):
        colour = COLOURS[index % len(COLOURS)]
        tokens = np.geomspace(min(FEWEST_TOKENS, context), context, 50)
        axes.plot(tokens, tokens * size, color=colour, lw=1.8, label=name)
        axes.plot(context, context * size, "o", color=colour, markersize=5)
        place = (context, context * size)
        axes.annotate(_bytes(context * size), place, (0, 7), textcoords="offset points",
                      ha="center", color=colour, fontsize=9, bbox=CLEAR)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: _bytes(value))
    axes.set(xlabel="Tokens in the cache", ylabel="Memory of keys and values")
    axes.margins(0.1)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def plot_speeds(
    measured: Mapping[str, Mapping[str, float]], limits: Mapping[str, Mapping[str, float]]
) -> Figure:
    """Draw bars of tokens per second, with the limit set by memory as a line, one panel per model.

    Args:
        measured: model -> precision -> tokens per second.
        limits: the same for the maximum that the memory allows.

    Raises:
        ValueError: if there is nothing to draw, or a limit is missing.
    """
    if not measured or not all(measured.values()):
        raise ValueError("there are no speeds to draw; give a model with one precision at least")
    lacking = [
        f"{m}, {p}" for m, bars in measured.items() for p in bars if p not in limits.get(m, ())
    ]
    if lacking:
        raise ValueError(f"no limit is given for {'; '.join(lacking)}")
    width = 1.1 * sum(map(len, measured.values())) + 1.2 * len(measured)
    figure, grid = new_figure(max(width, 5.0), 3.8, columns=len(measured), squeeze=False)
    for panel, (model, bars) in zip(grid.ravel(), measured.items(), strict=True):
        places, tops = range(len(bars)), [limits[model][name] for name in bars]
        panel.bar(places, list(bars.values()), 0.6, color=BLUE, label="Measured")
        panel.hlines(tops, [x - 0.4 for x in places], [x + 0.4 for x in places], color=GREY,
                     label="The memory's limit")  # fmt: skip
        highest = max(*tops, *bars.values())
        for x, speed, top in zip(places, bars.values(), tops, strict=True):
            panel.annotate(f"{top:,.0f}", (x, top), (0, 3), textcoords="offset points",
                           ha="center", color=GREY, fontsize=9)  # fmt: skip
            inside = speed > 0.15 * highest  # room for two lines of text
            panel.annotate(f"{speed:,.0f}\n{speed / top:.0%}", (x, speed), (0, -3 if inside else 2),
                           textcoords="offset points", ha="center", fontsize=9,
                           va="top" if inside else "bottom",
                           color="white" if inside else BLUE)  # fmt: skip
        panel.set_xticks(places, list(bars))
        panel.set_ylim(0, 1.15 * highest)
        panel.set_title(model, fontsize=10)
        panel.grid(axis="y", alpha=0.25)
        panel.set_axisbelow(True)
        panel.yaxis.set_major_formatter("{x:,.0f}")
    grid[0, 0].set_ylabel("Tokens per second")
    grid[0, 0].legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def _bytes(count: float) -> str:
    """Format a number of bytes: "512 KiB", "1.5 GiB"."""
    power = max(0, min(4, int(math.log(count, 1024))))
    return f"{count / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
