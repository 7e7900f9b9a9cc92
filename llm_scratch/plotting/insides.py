"""Pictures of the inside of a model: attention, activations, positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llm_scratch.plotting.figures import BLUE, ORANGE, as_array, new_figure, shown_token

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LABELS = 40


def plot_attention(
    weights: torch.Tensor | np.ndarray, tokens: Sequence[str] | None = None
) -> Figure:
    """Draw a heat map of attention weights: (T, T), or (H, T, T) with one panel per head.

    Args:
        weights: Rows are the tokens that look, columns the tokens looked at.
        tokens: The labels of rows and columns; by default, positions.

    Source:
        Book 3.5.
    """
    heads = as_array(weights)
    if heads.ndim == 2:
        heads = heads[None]
    if heads.ndim != 3 or heads.shape[1] != heads.shape[2]:
        raise ValueError(f"weights have the shape {as_array(weights).shape}; (T, T) or (H, T, T)")
    T = heads.shape[1]
    if tokens is not None and len(tokens) != T:
        raise ValueError(f"{len(tokens)} tokens for weights of {T} tokens; give one for each")
    columns = min(len(heads), 4)
    rows = -(-len(heads) // columns)
    side = (4.6 if len(heads) == 1 else 3.0) if tokens is None or T <= 8 else 5.2
    figure, grid = new_figure(columns * side + 0.8, rows * side, rows, columns, squeeze=False)
    panels = grid.ravel()
    for index, (panel, head) in enumerate(zip(panels, heads, strict=False)):
        image = panel.imshow(head, cmap="cividis", vmin=0.0, vmax=max(float(heads.max()), 1e-9))
        _label_tokens(panel, tokens, T)
        if len(heads) > 1:
            panel.set_title(f"Head {index + 1}", fontsize=10)
    for panel in panels[len(heads) :]:
        panel.set_axis_off()
    figure.supxlabel("Token looked at", fontsize=10)
    figure.supylabel("Token that looks", fontsize=10)
    figure.colorbar(image, ax=panels.tolist(), label="Attention weight", shrink=0.8)
    return figure


def plot_activations() -> Figure:
    """Draw GELU and ReLU, with their slopes in a second panel.

    Source:
        Book 4.3; Hendrycks and Gimpel 2016, arXiv:1606.08415.
    """
    x = torch.linspace(-3, 3, 301)
    figure, (values, slopes) = new_figure(8.0, 3.4, columns=2)
    gelu = torch.nn.functional.gelu(x, approximate="tanh")
    for name, y, colour, style in (
        ("GELU", gelu, BLUE, "-"),
        ("ReLU", torch.relu(x), ORANGE, "--"),
    ):
        values.plot(x.numpy(), y.numpy(), color=colour, ls=style, label=name)
        slope = np.gradient(y.numpy(), x.numpy())
        slopes.plot(x.numpy(), slope, color=colour, ls=style, label=name)
    values.set(xlabel="x", ylabel="Activation")
    slopes.set(xlabel="x", ylabel="Slope")
    for axes in (values, slopes):
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    return figure


def plot_positions(matrix: torch.Tensor | np.ndarray) -> Figure:
    """Draw a heat map of an embedding (positions, dimensions), blue below zero, red above.

    Source:
        Book 2.8.
    """
    values = as_array(matrix)
    if values.ndim != 2:
        raise ValueError(f"matrix has the shape {values.shape}; (positions, dimensions) is needed")
    largest = max(float(np.abs(values).max(initial=0.0)), 1e-9)
    figure, axes = new_figure(7.0, 3.6)
    image = axes.imshow(
        values, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest"
    )
    axes.set(xlabel="Embedding dimension", ylabel="Position")
    axes.locator_params(integer=True)
    figure.colorbar(image, ax=axes, label="Value")
    return figure


def _label_tokens(panel: Any, tokens: Sequence[str] | None, T: int) -> None:
    """Label both axes with the tokens, or keep the positions if there are too many to read."""
    if tokens is None or T > MOST_LABELS:
        panel.locator_params(integer=True)
        return
    names = [shown_token(token) for token in tokens]
    panel.set_xticks(range(T), names, rotation=90, fontsize=8)
    panel.set_yticks(range(T), names, fontsize=8)
