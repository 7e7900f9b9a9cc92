"""The training data and the objective of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Unpack

from torch import Tensor

from llm_scratch.text.step_rows import Piece
from llm_scratch.training.losses import IGNORE_INDEX

Batch = tuple[Tensor, ...]
"""Inputs and targets, (B, T) each, and further tensors if an objective needs them."""


class TrainData(Protocol):
    """The source of a run's batches: a `TokenPart`, `TokenRows`, or a class of your own."""

    @property
    def vocab_size(self) -> int:
        """The size of the vocabulary; every input id is below it."""

    def num_rows(self, length: int) -> int:
        """Return the rows per epoch; raise ValueError if they can't have `length` tokens."""

    def batch(self, seed: int, step: int, rows: int, length: int, **piece: Unpack[Piece]) -> Batch:
        """Return the rows of a step, or a piece of them: a function of the arguments alone."""

    def rows_in_order(self, length: int, rows: int) -> Iterator[Batch]:
        """Return every row once, `rows` at a time."""


@dataclass(frozen=True)
class Objective:
    """A custom loss.

    Args:
        loss: `loss(model, *batch) -> (sum of losses, count)`, the batch on the model's device.
        count: `count(batch) -> int`, the same count. It is needed before any loss is computed:
            the losses of a step are divided by the count of all its batches.
    """

    loss: Callable[..., tuple[Tensor, Any]]
    count: Callable[[Batch], int]


def count_targets(batch: Batch) -> int:
    """Return the number of targets in a batch, without masked ones."""
    return int((batch[1] != IGNORE_INDEX).sum())
