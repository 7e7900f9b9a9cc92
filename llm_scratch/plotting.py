"""Pictures of losses, attention, activations and samplers; each returns the figure, writes nothing.

The figures are made without pyplot, so that nothing global changes and no window opens:
`figure.savefig("loss.png")` keeps one, and in a notebook `llm_scratch.chapter.show` displays it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which stay apart for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BLUE, ORANGE = COLOURS[:2]
MOST_LABELS = 40


def plot_losses(
    epochs_seen: Sequence[float] | torch.Tensor,
    tokens_seen: Sequence[float],
    train_losses: Sequence[float],
    val_losses: Sequence[float],
) -> Figure:
    """Return the loss curves over epochs, with the tokens seen as a second axis on top.

    Args:
        epochs_seen: Where each evaluation stands, in epochs.
        tokens_seen: The same places in tokens.
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
    """Return the curves of a loss or an accuracy over epochs, with the examples seen on top.

    Args:
        epochs_seen: Where each value stands, in epochs.
        examples_seen: The same places in examples.
        train_values: Values of the training part.
        val_values: Values of the validation part.
        label: What the values are.

    Raises:
        ValueError: if the four differ in length.
    Source:
        Book 6.7.
    """
    series = {"epochs_seen": epochs_seen, "examples_seen": examples_seen}
    series |= {"train_values": train_values, "val_values": val_values}
    return _plot_curves(series, label[:1].upper() + label[1:], "Examples seen")


def plot_confusion(
    matrix: torch.Tensor | np.ndarray, class_names: Sequence[str] | None = None
) -> Figure:
    """Return a confusion matrix (N, N) as a picture, a number in every cell.

    Colours are shares of a row, so that a rare class is seen as well as a frequent one.

    Args:
        matrix: Counts; rows are the true classes, columns the predicted ones.
        class_names: The N names; None calls them 0, 1, ...

    Raises:
        ValueError: if the matrix is not square, or the names are not N.
    """
    counts = _array(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"matrix has the shape {counts.shape}; (N, N) is needed")
    N = len(counts)
    names = [str(i) for i in range(N)] if class_names is None else list(class_names)
    if len(names) != N:
        raise ValueError(f"{len(names)} class names for {N} classes; give one for each")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(3.0, 0.6 * N + 1.4)
    figure, axes = _figure(side + 1.2, side)
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    for row, column in np.ndindex(N, N):
        colour = "white" if shares[row, column] > 0.6 else "black"
        text = f"{counts[row, column]:,.0f}"
        axes.text(column, row, text, ha="center", va="center", color=colour)
    labels = [_shown(name) for name in names]
    turned = 90 if max(map(len, labels), default=0) * N > 40 else 0
    axes.set_xticks(range(N), labels, rotation=turned)
    axes.set_yticks(range(N), labels)
    axes.set(xlabel="Predicted class", ylabel="True class")
    figure.colorbar(image, ax=axes, label="Share of the true class")
    return figure


def plot_attention(
    weights: torch.Tensor | np.ndarray, tokens: Sequence[str] | None = None
) -> Figure:
    """Return a heat map of attention weights: (T, T), or (H, T, T) with a panel for each head.

    Args:
        weights: Rows are the tokens that look, columns the tokens looked at.
        tokens: What is written at the rows and columns; without it, positions.

    Source:
        Book 3.5.
    """
    heads = _array(weights)
    if heads.ndim == 2:
        heads = heads[None]
    if heads.ndim != 3 or heads.shape[1] != heads.shape[2]:
        raise ValueError(f"weights have the shape {_array(weights).shape}; (T, T) or (H, T, T)")
    T = heads.shape[1]
    if tokens is not None and len(tokens) != T:
        raise ValueError(f"{len(tokens)} tokens for weights of {T} tokens; give one for each")
    columns = min(len(heads), 4)
    rows = -(-len(heads) // columns)
    side = (4.6 if len(heads) == 1 else 3.0) if tokens is None or T <= 8 else 5.2
    figure, grid = _figure(columns * side + 0.8, rows * side, rows, columns, squeeze=False)
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
    """Return GELU beside ReLU, with their slopes in a second panel.

    Source:
        Book 4.3; Hendrycks and Gimpel 2016, arXiv:1606.08415.
    """
    x = torch.linspace(-3, 3, 301)
    figure, (values, slopes) = _figure(8.0, 3.4, columns=2)
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
    """Return a heat map of an embedding (positions, dimensions), blue below zero, red above.

    Source:
        Book 2.8.
    """
    values = _array(matrix)
    if values.ndim != 2:
        raise ValueError(f"matrix has the shape {values.shape}; (positions, dimensions) is needed")
    largest = max(float(np.abs(values).max(initial=0.0)), 1e-9)
    figure, axes = _figure(7.0, 3.6)
    image = axes.imshow(
        values, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest"
    )
    axes.set(xlabel="Embedding dimension", ylabel="Position")
    axes.locator_params(integer=True)
    figure.colorbar(image, ax=axes, label="Value")
    return figure


def plot_temperatures(
    probabilities: Mapping[float, Any] | torch.Tensor | np.ndarray,
    labels: Sequence[str],
    temperatures: Sequence[float] | None = None,
) -> Figure:
    """Return grouped bars: the probability of each token under each temperature.

    Args:
        probabilities: temperature -> (N,) probabilities, or a matrix with a row for each one.
        labels: The N tokens.
        temperatures: The temperature of each row of a matrix.

    Source:
        Book 5.3.1.
    """
    if isinstance(probabilities, Mapping):
        temperatures = list(probabilities)
        rows = np.stack([_array(row) for row in probabilities.values()])
    else:
        rows = _array(probabilities)
    if rows.ndim != 2 or rows.shape[1] != len(labels):
        raise ValueError(f"probabilities of the shape {rows.shape} for {len(labels)} labels")
    names = [f"Row {index + 1}" for index in range(len(rows))]
    if temperatures is not None:
        names = [f"Temperature {temperature:g}" for temperature in temperatures]
    if len(names) != len(rows):
        raise ValueError(f"{len(names)} temperatures for {len(rows)} rows of probabilities")
    figure, axes = _figure(max(5.0, 0.75 * len(labels)), 3.6)
    width = 0.8 / len(rows)
    for index, (name, row) in enumerate(zip(names, rows, strict=True)):
        places = np.arange(len(labels)) + (index - (len(rows) - 1) / 2) * width
        axes.bar(places, row, width, label=name, color=COLOURS[index % len(COLOURS)])
    axes.set_xticks(range(len(labels)), [_shown(label) for label in labels])
    axes.tick_params(axis="x", rotation=45)
    axes.set(ylabel="Probability")
    axes.legend(frameon=False)
    return figure


def plot_sampling(
    distributions: Mapping[str, Any], tokens: Sequence[str], shown: int = 15
) -> Figure:
    """Return bars of the next token's probability, a panel for each way of sampling.

    The tokens are the likeliest of the first distribution, in its order, in every panel, so that
    one sees what a setting takes from which; a cross marks a token that can't be drawn any more.

    Args:
        distributions: name -> (V,) probabilities; the first one is the model's own.
        tokens: The V tokens.
        shown: How many of them.

    Raises:
        ValueError: if there is nothing to show, or the numbers of tokens differ.
    Source:
        Book 5.3; Holtzman et al. 2020, arXiv:1904.09751, section 3.
    """
    rows = {name: _array(values).ravel() for name, values in distributions.items()}
    if not rows or shown < 1:
        raise ValueError(f"{len(rows)} distributions and {shown=}; one or more of each is needed")
    if wrong := {name: len(row) for name, row in rows.items() if len(row) != len(tokens)}:
        raise ValueError(f"probabilities for {wrong} tokens, and {len(tokens)} names of tokens")
    likeliest = np.argsort(-next(iter(rows.values())), kind="stable")[:shown]
    labels = [_shown(tokens[index]) for index in likeliest]
    size = (2.6 * len(rows) + 0.8, max(2.4, 0.26 * len(labels) + 1.0))
    figure, grid = _figure(*size, columns=len(rows), squeeze=False, sharex=True, sharey=True)
    panels = grid.ravel()
    for panel, (name, row) in zip(panels, rows.items(), strict=True):
        kept = row[likeliest] > 0
        panel.barh(range(len(labels)), row[likeliest], color=BLUE)
        for place in np.flatnonzero(~kept):  # a bar of no length can't be told from a short one
            panel.text(0, place, "\u00d7", color=ORANGE, va="center", fontsize=9)
        panel.set_title(f"{name}\n{np.count_nonzero(row):,} tokens possible", fontsize=10)
        panel.grid(axis="x", alpha=0.25)
    panels[0].set_yticks(range(len(labels)), labels, fontsize=9)
    panels[0].invert_yaxis()
    figure.supxlabel("Probability", fontsize=10)
    return figure


def plot_runs(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Return losses, learning rate and gradient norm of training runs, a panel each.

    Training losses are drawn light, validation losses on top of them, with points.

    Args:
        runs: name -> lines of the log: dicts with `step` and `loss`, `lr`, `grad_norm`, or
            `val_loss` (`llm_scratch.training.run_folder.read_metrics`).

    Raises:
        ValueError: if there is no run.
    """
    if not runs:
        raise ValueError("there is no run to draw; give at least one")
    figure, panels = _figure(7.0, 7.0, rows=3, sharex=True, height_ratios=(2, 1, 1))
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


def _plot_curves(named: Mapping[str, Any], label: str, seen_label: str) -> Figure:
    """Return curves of both parts over epochs (the first series), with what was seen on top."""
    series = {name: _array(values) for name, values in named.items()}
    if len({values.shape for values in series.values()}) > 1:
        found = ", ".join(f"{name} {len(values)}" for name, values in series.items())
        raise ValueError(f"the series differ in length: {found}")
    epochs, seen, train, val = series.values()
    figure, axes = _figure(6.4, 4.0)
    # Markers on few points: a line through a single one can't be seen.
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


def _figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Any, Any]:
    """Return a figure of this size in inches, and its one pair of axes or the panels in it."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(width, height), layout=layout)
    return figure, figure.subplots(rows, columns, **options)


def _array(values: Any) -> np.ndarray:
    """Return floats, from a list, an array, or a tensor of any type on any device."""
    if isinstance(values, torch.Tensor):
        values = values.detach().float().cpu().numpy()
    return np.asarray(values, dtype=float)


def _spans(values: np.ndarray) -> float:
    return float(np.ptp(values)) if len(values) else 0.0


def _add_seen_axis(axes: Any, epochs: np.ndarray, seen: np.ndarray, label: str) -> None:
    """Put the tokens or examples seen on top, with the limits that line the two axes up."""
    top = axes.twiny()
    top.set_xlabel(label)
    top.xaxis.set_major_formatter("{x:,.0f}")
    if _spans(epochs) > 0 and _spans(seen) > 0:
        slope, start = np.polyfit(epochs, seen, 1)
        top.set_xlim(*(start + slope * limit for limit in axes.get_xlim()))
    else:  # nothing to measure a scale by: mark the points themselves
        axes.set_xticks(epochs)
        top.set_xlim(axes.get_xlim())
        top.set_xticks(epochs, [f"{count:,.0f}" for count in seen])


def _label_tokens(panel: Any, tokens: Sequence[str] | None, T: int) -> None:
    """Write the tokens at both axes, or leave the positions where there are too many to read."""
    if tokens is None or T > MOST_LABELS:
        panel.locator_params(integer=True)
        return
    names = [_shown(token) for token in tokens]
    panel.set_xticks(range(T), names, rotation=90, fontsize=8)
    panel.set_yticks(range(T), names, fontsize=8)


def _shown(token: str) -> str:
    """Return a token as a label: line ends visible, no dollar sign that starts a formula."""
    return token.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("$", r"\$")
