"""Pictures of the choice of the next token: temperatures, and ways of sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llm_scratch.plotting.figures import BLUE, COLOURS, ORANGE, as_array, new_figure, shown_token

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_temperatures(
    probabilities: Mapping[float, Any] | torch.Tensor | np.ndarray,
    labels: Sequence[str],
    temperatures: Sequence[float] | None = None,
) -> Figure:
    """Draw grouped bars: the probability of each token at each temperature.

    Args:
        probabilities: temperature -> (N,) probabilities, or a matrix with one row per temperature.
        labels: The N tokens.
        temperatures: The temperature of each row of a matrix.

    Source:
        Book 5.3.1.
    """
    if isinstance(probabilities, Mapping):
        temperatures = list(probabilities)
        rows = np.stack([as_array(row) for row in probabilities.values()])
    else:
        rows = as_array(probabilities)
    if rows.ndim != 2 or rows.shape[1] != len(labels):
        raise ValueError(f"probabilities of the shape {rows.shape} for {len(labels)} labels")
    names = [f"Row {index + 1}" for index in range(len(rows))]
    if temperatures is not None:
        names = [f"Temperature {temperature:g}" for temperature in temperatures]
    if len(names) != len(rows):
        raise ValueError(f"{len(names)} temperatures for {len(rows)} rows of probabilities")
    figure, axes = new_figure(max(5.0, 0.75 * len(labels)), 3.6)
    width = 0.8 / len(rows)
    for index, (name, row) in enumerate(zip(names, rows, strict=True)):
        places = np.arange(len(labels)) + (index - (len(rows) - 1) / 2) * width
        axes.bar(places, row, width, label=name, color=COLOURS[index % len(COLOURS)])
    axes.set_xticks(range(len(labels)), [shown_token(label) for label in labels])
    axes.tick_params(axis="x", rotation=45)
    axes.set(ylabel="Probability")
    axes.legend(frameon=False)
    return figure


def plot_sampling(
    distributions: Mapping[str, Any], tokens: Sequence[str], shown: int = 15
) -> Figure:
    """Draw bars of the next token's probability, one panel per way of sampling.

    Every panel shows the most likely tokens of the first distribution, in its order, so that the
    effect of a setting is visible; a cross marks a token that can no longer be drawn.

    Args:
        distributions: name -> (V,) probabilities; the first one is the model's own.
        tokens: The V tokens.
        shown: The number of tokens to show.

    Raises:
        ValueError: if there is nothing to show, or the numbers of tokens differ.
    Source:
        Book 5.3; Holtzman et al. 2020, arXiv:1904.09751, section 3.
    """
    rows = {name: as_array(values).ravel() for name, values in distributions.items()}
    if not rows or shown < 1:
        raise ValueError(f"{len(rows)} distributions and {shown=}; one or more of each is needed")
    if wrong := {name: len(row) for name, row in rows.items() if len(row) != len(tokens)}:
        raise ValueError(f"probabilities for {wrong} tokens, and {len(tokens)} names of tokens")
    likeliest = np.argsort(-next(iter(rows.values())), kind="stable")[:shown]
    labels = [shown_token(tokens[index]) for index in likeliest]
    size = (2.6 * len(rows) + 0.8, max(2.4, 0.26 * len(labels) + 1.0))
    figure, grid = new_figure(*size, columns=len(rows), squeeze=False, sharex=True, sharey=True)
    panels = grid.ravel()
    for panel, (name, row) in zip(panels, rows.items(), strict=True):
        kept = row[likeliest] > 0
        panel.barh(range(len(labels)), row[likeliest], color=BLUE)
        for place in np.flatnonzero(~kept):  # a bar of length zero looks like a short one
            panel.text(0, place, "\u00d7", color=ORANGE, va="center", fontsize=9)
        panel.set_title(f"{name}\n{np.count_nonzero(row):,} tokens possible", fontsize=10)
        panel.grid(axis="x", alpha=0.25)
    panels[0].set_yticks(range(len(labels)), labels, fontsize=9)
    panels[0].invert_yaxis()
    figure.supxlabel("Probability", fontsize=10)
    return figure
