"""What a run learns from, and what it makes smaller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Unpack

from torch import Tensor

from llm_scratch.text.step_rows import Piece
from llm_scratch.training.losses import IGNORE_INDEX

Batch = tuple[Tensor, ...]
"""Inputs and targets, (B, T) each; more, where an objective wants it."""


class TrainData(Protocol):
    """What a run reads its batches from: a `TokenPart`, `TokenRows`, or something of one's own."""

    @property
    def vocab_size(self) -> int:
        """Every input id is below it."""

    def num_rows(self, length: int) -> int:
        """How many rows an epoch has; a ValueError if rows of `length` tokens can't be made."""

    def batch(self, seed: int, step: int, rows: int, length: int, **piece: Unpack[Piece]) -> Batch:
        """The rows of a step, or a piece of them: a function of the arguments alone."""

    def rows_in_order(self, length: int, rows: int) -> Iterator[Batch]:
        """Every row once, `rows` at a time."""


@dataclass(frozen=True)
class Objective:
    """A loss of one's own.

    Args:
        loss: `loss(model, *batch) -> (sum of losses, count)`, the batch on the model's device.
        count: `count(batch) -> int`, the same count; a step's sum is divided by that of all its
            batches, before any of them is computed.
    """

    loss: Callable[..., tuple[Tensor, Any]]
    count: Callable[[Batch], int]


def count_targets(batch: Batch) -> int:
    """How many targets of a batch count."""
    return int((batch[1] != IGNORE_INDEX).sum())
