"""Pictures of training results: losses, other values, runs, a confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llm_scratch.plotting.figures import BLUE, COLOURS, ORANGE, as_array, new_figure, shown_token

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_losses(
    epochs_seen: Sequence[float] | torch.Tensor,
    tokens_seen: Sequence[float],
    train_losses: Sequence[float],
    val_losses: Sequence[float],
) -> Figure:
    """Draw the loss curves over epochs, with the tokens seen as a second axis on top.

    Args:
        epochs_seen: The position of each evaluation, in epochs.
        tokens_seen: The same positions, in tokens.
        train_losses: Loss on the training part at each evaluation.
        val_losses: Loss on the validation part at each evaluation.

    Raises:
        ValueError: if the four differ in length.
    Source:
        Book 5.2.
    """
    series = {"epochs_seen": epochs_seen, "tokens_seen": tokens_seen}
    series |= {"train_losses": train_losses, "val_losses": val_losses}
    return _plot_curves(series, "Loss (nats per token)", "Tokens seen")


def plot_values(
    epochs_seen: Sequence[float] | torch.Tensor,
    examples_seen: Sequence[float] | torch.Tensor,
    train_values: Sequence[float],
    val_values: Sequence[float],
    label: str = "loss",
) -> Figure:
    """Draw the curves of a loss or an accuracy over epochs, with the examples seen on top.

    Args:
        epochs_seen: The position of each value, in epochs.
        examples_seen: The same positions, in examples.
        train_values: Values of the training part.
        val_values: Values of the validation part.
        label: The name of the values.

    Raises:
        ValueError: if the four differ in length.
    Source:
        Book 6.7.
    """
    series = {"epochs_seen": epochs_seen, "examples_seen": examples_seen}
    series |= {"train_values": train_values, "val_values": val_values}
    return _plot_curves(series, label[:1].upper() + label[1:], "Examples seen")


def plot_runs(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draw losses, learning rate and gradient norm of training runs, one panel each.

    Training losses are drawn in a light colour, validation losses on top of them, with points.

    Args:
        runs: name -> lines of the log: dicts with `step` and `loss`, `lr`, `grad_norm`, or
            `val_loss` (`llm_scratch.training.run_folder.read_metrics`).

    Raises:
        ValueError: if there is no run.
    """
    if not runs:
        raise ValueError("there is no run to draw; give at least one")
    figure, panels = new_figure(7.0, 7.0, rows=3, sharex=True, height_ratios=(2, 1, 1))
    names = (("loss", 0), ("val_loss", 0), ("lr", 1), ("grad_norm", 2))
    for index, (run, lines) in enumerate(runs.items()):
        colour = COLOURS[index % len(COLOURS)]
        for name, panel in names:
            kept = [line for line in lines if line.get(name) is not None]
            style: dict[str, Any] = {"color": colour}
            if name == "loss":
                style |= {"alpha": 0.45, "lw": 1.0, "label": f"{run}, training"}
            elif name == "val_loss":
                style |= {"marker": "o", "markersize": 3, "label": f"{run}, validation"}
            steps, values = ([line[key] for line in kept] for key in ("step", name))
            panels[panel].plot(steps, values, **style)
    labels = ("Loss (nats per token)", "Learning rate", "Gradient norm")
    for panel, label in zip(panels, labels, strict=True):
        panel.set_ylabel(label)
        panel.grid(alpha=0.25)
    panels[0].legend(frameon=False, fontsize=8)
    panels[2].set_xlabel("Step")
    panels[2].locator_params("x", integer=True)
    return figure


def plot_confusion(
    matrix: torch.Tensor | np.ndarray, class_names: Sequence[str] | None = None
) -> Figure:
    """Draw a confusion matrix (N, N) with a number in every cell.

    Colours show shares of a row, so that a rare class is as visible as a frequent one.

    Args:
        matrix: Counts; rows are the true classes, columns the predicted ones.
        class_names: The N names; None numbers them 0, 1, ...

    Raises:
        ValueError: if the matrix is not square, or the names are not N.
    """
    counts = as_array(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"matrix has the shape {counts.shape}; (N, N) is needed")
    N = len(counts)
    names = [str(i) for i in range(N)] if class_names is None else list(class_names)
    if len(names) != N:
        raise ValueError(f"{len(names)} class names for {N} classes; give one for each")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(3.0, 0.6 * N + 1.4)
    figure, axes = new_figure(side + 1.2, side)
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    for row, column in np.ndindex(N, N):
        colour = "white" if shares[row, column] > 0.6 else "black"
        text = f"{counts[row, column]:,.0f}"
        axes.text(column, row, text, ha="center", va="center", color=colour)
    labels = [shown_token(name) for name in names]
    turned = 90 if max(map(len, labels), default=0) * N > 40 else 0
    axes.set_xticks(range(N), labels, rotation=turned)
    axes.set_yticks(range(N), labels)
    axes.set(xlabel="Predicted class", ylabel="True class")
    figure.colorbar(image, ax=axes, label="Share of the true class")
    return figure


def _plot_curves(named: Mapping[str, Any], label: str, seen_label: str) -> Figure:
    """Draw the curves of both parts over epochs (the first series), with the amount seen on top."""
    series = {name: as_array(values) for name, values in named.items()}
    if len({values.shape for values in series.values()}) > 1:
        found = ", ".join(f"{name} {len(values)}" for name, values in series.items())
        raise ValueError(f"the series differ in length: {found}")
    epochs, seen, train, val = series.values()
    figure, axes = new_figure(6.4, 4.0)
    # Markers on few points: a line through a single point would be invisible.
    marker = "o" if len(epochs) < 30 else ""
    axes.plot(epochs, train, color=BLUE, marker=marker, markersize=4, label="Training")
    axes.plot(epochs, val, color=ORANGE, marker=marker, markersize=4, ls="--", label="Validation")
    axes.set(xlabel="Epochs", ylabel=label)
    if _spans(epochs) > 2:
        axes.locator_params("x", integer=True)
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    _add_seen_axis(axes, epochs, seen, seen_label)
    return figure


def _spans(values: np.ndarray) -> float:
    return float(np.ptp(values)) if len(values) else 0.0


def _add_seen_axis(axes: Any, epochs: np.ndarray, seen: np.ndarray, label: str) -> None:
    """Add an axis of tokens or examples seen on top, aligned with the axis of epochs."""
    top = axes.twiny()
    top.set_xlabel(label)
    top.xaxis.set_major_formatter("{x:,.0f}")
    if _spans(epochs) > 0 and _spans(seen) > 0:
        slope, start = np.polyfit(epochs, seen, 1)
        top.set_xlim(*(start + slope * limit for limit in axes.get_xlim()))
    else:  # nothing to derive a scale from: mark the points themselves
        axes.set_xticks(epochs)
        top.set_xlim(axes.get_xlim())
        top.set_xticks(epochs, [f"{count:,.0f}" for count in seen])
