"""Common parts of all pictures: figures, colours, numbers from tensors, tokens as labels.

The figures are made without pyplot, so that nothing global changes and no window opens:
`figure.savefig("loss.png")` saves one, and in a notebook `llm_scratch.chapter.show` displays it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

# Okabe and Ito's colours, which colour-blind readers can distinguish.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BLUE, ORANGE = COLOURS[:2]


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Any, Any]:
    """Make a figure of this size in inches; return it and its axes, one pair or several panels."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(width, height), layout=layout)
    return figure, figure.subplots(rows, columns, **options)


def as_array(values: Any) -> np.ndarray:
    """Convert a list, an array, or a tensor of any type on any device to an array of floats."""
    if isinstance(values, torch.Tensor):
        values = values.detach().float().cpu().numpy()
    return np.asarray(values, dtype=float)


def shown_token(token: str) -> str:
    """Format a token as a label: line ends visible, no dollar sign that starts a formula."""
    return token.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("$", r"\$")
