"""Estimates beside the fine-tuning series' measurements, and the savings of a loss in chunks.

Source:
    "Messing around with fine-tuning LLMs", parts 6 to 9 (Giles Thomas, 2024), and the repository
    gpjt/fine-tune-2024-04: the peaks of active memory on a GPU, their mean over GPUs, at a length
    of 2,048; single figures are quoted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llm_scratch.memory.estimate import Estimate, estimate_memory
from llm_scratch.training.config import CHUNK
from llm_scratch.training.division import Division

MIB = 2**20
LENGTH = 2048
KNEE = 929  # tokens: (10,896 - 8,150) / 2.955, from the curve of the 0.5B model


@dataclass(frozen=True)
class Setup:
    """A set-up of the series and its measurements.

    Args:
        name: the name used here.
        model: the model's name.
        measured: batch -> MiB of active memory.
        options: options of the step.
        bar: the allowed difference of an estimate in per cent; None where no formula applies.
        first: the first batch to which the bar applies.
        slope: MiB per further sequence, where measured.
        note: what the estimates lack.
    """

    name: str
    model: str
    measured: dict[int, int]
    options: dict[str, Any] = field(default_factory=dict)
    bar: float | None = 5.0
    first: int = 1
    slope: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A measurement beside estimates, in bytes.

    Args:
        batch: sequences on each GPU.
        measured: the measurement.
        estimated: the estimate.
        chunked: the estimate with the loss in chunks.
        bar: the allowed difference in per cent; None if there is none.
    """

    batch: int
    measured: float
    estimated: int
    chunked: int
    bar: float | None

    @property
    def difference(self) -> float:
        """The error of the estimate in per cent."""
        return 100 * (self.estimated / self.measured - 1)


_EIGHT = {"ranks": 8, "division": Division("full")}
_OFFLOADED = {"ranks": 8, "division": Division("full", reshard=False, offload=True)}
_AGAIN = {"checkpoint_blocks": 1}

MEASURED = (
    Setup("0.5B, one RTX 3090", "qwen1.5-0.5b", {1: 14_048, 2: 20_228}, slope=6180),
    Setup("0.5B, checkpointing", "qwen1.5-0.5b", {1: 11_926, 2: 15_605, 3: 19_288}, _AGAIN,
          slope=3680),
    Setup("8B, ZeRO-3", "llama3-8b", {1: 49_086, 2: 64_180}, _EIGHT, slope=15_094),
    Setup("8B, ZeRO-3, checkpointing", "llama3-8b",
          {1: 26_529, 4: 35_382, 8: 50_416, 12: 64_688}, {**_EIGHT, **_AGAIN}, 6.0, 2),
    Setup("8B, ZeRO-2, offload, checkpointing", "llama3-8b",
          {1: 22_050, 2: 24_652, 17: 78_422}, {**_OFFLOADED, **_AGAIN}, None, slope=3588.6,
          note="offload's own buffers, about 6 GiB, are in no formula"),
)  # fmt: skip
"""The set-ups, with measurements by batch."""


def estimated(setup: Setup, batch: int, loss_chunk: int | None = None) -> Estimate:
    """Return the estimate of a set-up for a batch."""
    return estimate_memory(setup.model, rows=batch, length=LENGTH, engine="deepspeed",
                           loss_chunk=loss_chunk, **setup.options)  # fmt: skip


def compared(setup: Setup) -> list[Row]:
    """Return the measurements of a set-up beside the estimates."""
    return [
        Row(
            batch,
            size * MIB,
            estimated(setup, batch).bytes,
            estimated(setup, batch, CHUNK).bytes,
            setup.bar if batch >= setup.first else None,
        )
        for batch, size in setup.measured.items()
    ]


def knee_of(model: str, longest: int = LENGTH) -> int:
    """Return the length from which the backward pass is the peak, on one GPU under DeepSpeed."""
    low, high = 1, longest
    while low < high:
        middle = (low + high) // 2
        step = estimate_memory(model, rows=1, length=middle, engine="deepspeed", loss_chunk=None)
        low, high = (low, middle) if step.winner == "backward" else (middle + 1, high)
    return low


def as_table() -> str:
    """Return all comparisons as a Markdown table for the documentation."""
    heading = "set-up", "batch", "measured, MiB", "estimated", "difference", f"chunks of {CHUNK:,}"
    lines = [f"| {' | '.join(heading)} |", "|---" * len(heading) + "|"]
    for setup in MEASURED:
        for row in compared(setup):
            sizes = (f"{size / MIB:,.0f}" for size in (row.measured, row.estimated, row.chunked))
            measured, ours, chunked = sizes
            lines.append(f"| {setup.name} | {row.batch} | {measured} | {ours} | "
                         f"{row.difference:+.1f} % | {chunked} |")  # fmt: skip
    return "\n".join(lines)
