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
    """The source of a run's batches: a `TokenPart`, `TokenRows`, or a class of one's own."""

    @property
    def vocab_size(self) -> int:
        """Every input id is below it."""

    def num_rows(self, length: int) -> int:
        """Return how many rows an epoch has; a ValueError if they can't have `length` tokens."""

    def batch(self, seed: int, step: int, rows: int, length: int, **piece: Unpack[Piece]) -> Batch:
        """Return the rows of a step, or a piece of them: a function of the arguments alone."""

    def rows_in_order(self, length: int, rows: int) -> Iterator[Batch]:
        """Return every row once, `rows` at a time."""


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
    """Return how many targets of a batch count."""
    return int((batch[1] != IGNORE_INDEX).sum())
