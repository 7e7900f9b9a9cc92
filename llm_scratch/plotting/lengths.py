"""Pictures of the lengths of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from llm_scratch.plotting.figures import BLUE, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARS = 40


def plot_lengths(
    lengths: Sequence[int], learned: Sequence[int] = (), context: int | None = None
) -> Figure:
    """Draw a histogram of the number of tokens per text.

    Args:
        lengths: the number of tokens of each text.
        learned: the number of learned tokens of each text, drawn as separate bars.
        context: a length to compare with, as a dashed line, with the share of texts above it.

    Raises:
        ValueError: if there is nothing to draw, or the numbers of texts differ.
    """
    if not len(lengths) or len(learned) not in (0, len(lengths)):
        raise ValueError(
            f"{len(lengths)} lengths and {len(learned)} of what is learned; one or more are "
            "needed, and as many of each"
        )
    figure, axes = new_figure(7.0, 3.8)
    edges = np.linspace(0, max(lengths) + 1, min(BARS, max(lengths) + 1) + 1)
    axes.hist(lengths, edges, color=BLUE, alpha=0.75, label="all tokens")
    if len(learned):
        axes.hist(learned, edges, histtype="step", color=ORANGE, lw=1.8, label="learned tokens")
    if context is not None:
        above = sum(length > context for length in lengths) / len(lengths)
        text = f"{context:,} tokens: {above:.1%} are longer"
        axes.axvline(context, color="#555555", lw=1, ls="--", label=text)
    axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    axes.set(xlabel="Tokens of a conversation", ylabel="Conversations", xlim=(0, None))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    return figure
