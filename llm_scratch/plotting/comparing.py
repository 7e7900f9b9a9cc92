"""A picture of runs side by side: their loss curves, and the loss that each reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_scratch.plotting.figures import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Lines = Sequence[Mapping[str, Any]]
STYLES = ("-", "--", ":", "-.")  # for more groups than colours
SMOOTHING = 50  # a training curve is a running mean over one 50th of its steps


def plot_comparison(
    groups: Mapping[str, Sequence[Lines]],
    losses: Mapping[str, Sequence[float]],
    intervals: Mapping[str, tuple[float, float] | None],
    measure: str = "Best validation loss",
) -> Figure:
    """Draw loss curves, and below them a point for each run with the mean of its group.

    Several runs of a group are drawn as their mean, within a band of one standard deviation.
    Training losses are smoothed and drawn light, validation losses with points. The scale fits
    the losses after the first fifth of the steps.

    Args:
        groups: name -> the lines of the log of each run
            (`llm_scratch.training.run_folder.read_metrics`). Brackets at the end of a name appear
            in the legend only.
        losses: name -> the loss that each run reached, in the same order.
        intervals: name -> the interval of the mean of these losses; None if it is unknown.
        measure: the name of these losses.

    Raises:
        ValueError: if there is no group.
    """
    if not groups:
        raise ValueError("there is no run to draw; give at least one")
    height = 0.5 + 0.34 * len(groups)
    figure, (curves, points) = new_figure(7.4, 4.2 + height, rows=2, height_ratios=(4.2, height))
    shown: list[tuple[np.ndarray, np.ndarray]] = []
    for place, (name, runs) in enumerate(groups.items()):
        style = {"color": COLOURS[place % len(COLOURS)],
                 "ls": STYLES[place // len(COLOURS) % len(STYLES)]}  # fmt: skip
        training = [_smooth(*_curve(lines, "loss")) for lines in runs]
        validation = [_curve(lines, "val_loss") for lines in runs]
        measured = any(len(steps) for steps, _ in validation)
        alone = {} if measured else {"label": name}
        shown.append(_draw(curves, training, {**style, "lw": 1.0, "alpha": 0.45, **alone}))
        if measured:
            marked = {**style, "marker": "o", "markersize": 3, "label": name}
            shown.append(_draw(curves, validation, marked, band=True))
        _draw_losses(points, place, losses[name], intervals[name], style["color"])
    _scale(curves, shown)
    curves.set(xlabel="Step", ylabel="Loss (nats per token)")
    curves.legend(frameon=False, fontsize=8)
    short = [name.partition(" (")[0] for name in groups]
    points.set_yticks(range(len(groups)), short, fontsize=8)
    points.set_ylim(len(groups) - 0.4, -0.6)
    points.set_xlabel(f"{measure}; bar: 95 % interval of the mean", fontsize=9)
    for panel in (curves, points):
        panel.grid(alpha=0.25)
        panel.set_axisbelow(True)
    return figure


def _curve(lines: Lines, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps and values that a log holds under a name."""
    kept = [line for line in lines if line.get(name) is not None]
    return np.array([line["step"] for line in kept]), np.array([line[name] for line in kept], float)


def _smooth(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the running mean of a curve; each value is at the last step of its window."""
    width = max(1, len(values) // SMOOTHING)
    sums = np.concatenate([[0.0], values.cumsum()])
    return steps[width - 1 :], (sums[width:] - sums[:-width]) / width


def _draw(
    panel: Any,
    curves: Sequence[tuple[np.ndarray, np.ndarray]],
    style: Mapping[str, Any],
    band: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the mean of some curves at the steps that they share; return steps and mean."""
    curves = [curve for curve in curves if len(curve[0])]
    if not curves:
        return np.empty(0), np.empty(0)
    steps = curves[0][0]
    for own, _ in curves[1:]:
        steps = np.intersect1d(steps, own)
    values = np.stack([found[np.isin(own, steps)] for own, found in curves])  # (runs, steps)
    mean = values.mean(axis=0)
    panel.plot(steps, mean, **style)
    if band and len(values) > 1:
        spread = values.std(axis=0, ddof=1)
        colour = style["color"]
        panel.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.2, lw=0)
    return steps, mean


def _draw_losses(
    panel: Any,
    place: int,
    losses: Sequence[float],
    interval: tuple[float, float] | None,
    colour: str,
) -> None:
    """Draw a point for each run of a group; for several, their mean and its interval."""
    panel.plot(losses, [place] * len(losses), "o", color=colour, markersize=4, alpha=0.6)
    if interval is not None:
        panel.plot(interval, [place, place], color=colour, lw=1.5)
        panel.plot(sum(losses) / len(losses), place, "|", color=colour, markersize=14, mew=2)


def _scale(panel: Any, curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Fit the scale to the later losses, leaving out the high ones at the start."""
    last = max((steps.max() for steps, _ in curves if len(steps)), default=0)
    late = [values[steps >= last / 5] for steps, values in curves]
    found = np.concatenate([np.empty(0), *late])
    found = found[np.isfinite(found)]
    if len(found) and np.ptp(found) > 0:
        margin = 0.06 * np.ptp(found)
        panel.set_ylim(found.min() - margin, found.max() + margin)
    panel.locator_params("x", integer=True)
