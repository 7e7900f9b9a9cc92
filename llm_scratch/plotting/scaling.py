"""A picture of how training scales with the number of processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llm_scratch.plotting.figures import BLUE, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY = "#777777"


def plot_scaling(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw tokens per second over the number of processes, and their efficiency below.

    The dashed line shows perfect scaling, in which nothing is lost between processes.

    Args:
        rows: dicts with `processes`, `tokens_per_s` and `efficiency` (from 0 to about 1); those
            of failed runs, without a speed, are marked on the axis.

    Raises:
        ValueError: if no row has a speed.
    """
    kept = [row for row in rows if row.get("tokens_per_s")]
    failed = [row["processes"] for row in rows if not row.get("tokens_per_s")]
    if not kept:
        raise ValueError("no number of processes has a speed; there is nothing to draw")
    figure, (speed, share) = new_figure(6.4, 5.2, rows=2, sharex=True, height_ratios=(3, 2))
    counts = [row["processes"] for row in kept]
    tokens = [row["tokens_per_s"] for row in kept]
    shares = [row["efficiency"] for row in kept]
    ideal = [value / part for value, part in zip(tokens, shares, strict=True)]
    speed.plot(counts, ideal, color=GREY, ls="--", lw=1.2, label="Nothing lost")
    speed.plot(counts, tokens, color=BLUE, marker="o", label="Measured")
    if failed:
        bottom = [0] * len(failed)
        speed.plot(failed, bottom, color=ORANGE, marker="x", ls="", label="Failed", clip_on=False)
    speed.set_ylim(0, 1.15 * max(*tokens, *ideal))
    speed.yaxis.set_major_formatter("{x:,.0f}")
    speed.set_ylabel("Tokens per second in total")
    speed.legend(frameon=False, fontsize=9)
    share.bar(counts, [100 * part for part in shares], 0.5, color=BLUE)
    for x, part in zip(counts, shares, strict=True):
        share.annotate(f"{part:.0%}", (x, 100 * part), (0, 2), textcoords="offset points",
                       ha="center", fontsize=9)  # fmt: skip
    share.set(xlabel="Processes", ylabel="Efficiency (%)")
    share.set_ylim(0, 125 * max(1.0, *shares))
    share.set_xticks(sorted({*counts, *failed}))
    for panel in (speed, share):
        panel.grid(axis="y", alpha=0.25)
        panel.set_axisbelow(True)
    return figure
