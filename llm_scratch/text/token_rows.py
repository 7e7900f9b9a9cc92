"""Batches of rows of different lengths: texts to fine-tune on, each with its own targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from llm_scratch.text.shuffling import epoch_order, epoch_shift
from llm_scratch.text.step_rows import Piece, rows_in_turn, rows_of_step

IGNORE_INDEX = -100
"""The target that means "no target here", as in PyTorch's cross entropy."""

POOL = 50  # batches whose rows are sorted by length together


class TokenRows:
    """Rows of ids and targets, padded on the right to the longest row of their batch.

    No token attends to later ones, so padding on the right changes no output at a real token. Rows
    of similar length are batched together, which leaves little to pad; the batches still come in
    random order.

    Args:
        rows: (inputs, targets), two lists of the same length. A target of -100 is
            ignored; the others are to be predicted at that position: the next id, or a class.
        pad_id: the id that pads inputs; any id will do.
        vocab_size: every input id is below it.
        num_targets: every target is below it; None means `vocab_size`.
        buckets: whether rows of similar length are batched together.

    Raises:
        ValueError: naming the first row that is empty, has lists of different lengths, no target,
            or an id out of range.
    """

    def __init__(
        self,
        rows: Sequence[tuple[Sequence[int], Sequence[int]]],
        *,
        pad_id: int,
        vocab_size: int,
        num_targets: int | None = None,
        buckets: bool = True,
    ) -> None:
        if not rows:
            raise ValueError("there are no rows to learn from")
        if not 0 <= pad_id < vocab_size:
            raise ValueError(
                f"{pad_id=} is outside a vocabulary of {vocab_size}; any id in it will do"
            )
        for number, (inputs, targets) in enumerate(rows):
            _check_row(number, inputs, targets, vocab_size, num_targets or vocab_size)
        self.pad_id, self.vocab_size, self.buckets = pad_id, vocab_size, buckets
        self.lengths = np.array([len(inputs) for inputs, _ in rows], dtype=np.int64)  # (n,)
        self._ends = self.lengths.cumsum()
        self._order_key = self.lengths.tobytes() if buckets else b""
        self._inputs, self._targets = (
            np.concatenate([np.asarray(row[part], dtype=np.int64) for row in rows])
            for part in (0, 1)
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        return (
            f"TokenRows({len(self):,} rows of {self.lengths.min()} to {self.lengths.max()} tokens)"
        )

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        """Return one row without padding: inputs and targets, each (T,) int64."""
        inputs, targets = self.padded([row])
        return inputs[0], targets[0]

    def num_rows(self, length: int) -> int:
        """Return the number of rows in an epoch.

        Raises:
            ValueError: if a row is longer than `length`.
        """
        longest = int(self.lengths.argmax())
        if self.lengths[longest] > length:
            raise ValueError(
                f"row {longest} has {self.lengths[longest]} tokens, at most {length} fit; cut it, "
                "or leave it out"
            )
        return len(self)

    def batch(
        self, seed: int, step: int, rows: int, length: int, **piece: Unpack[Piece]
    ) -> tuple[Tensor, Tensor]:
        """Return the rows of a training step: inputs and targets, each (rows, T) int64.

        The result depends only on the arguments; see `rows_of_step`. Every row comes once per
        epoch, in a new order each time.

        Args:
            seed: 0 or more; each seed gives another order.
            step: number of the step, from 0.
            rows: number of rows.
            length: maximum number of tokens in a row.
            piece: for a step that is taken in pieces, `first_row`, the number of rows to skip, and
                `step_rows`, the number of rows in the whole step.

        Raises:
            ValueError: if a row is longer than `length`, or an argument is below its range.
        """
        n = self.num_rows(length)
        chosen: list[int] = []
        for epoch, begin, end in rows_of_step(n, step, rows, **piece):
            order = _epoch_order(seed, epoch, n, piece.get("step_rows") or rows, self._order_key)
            chosen += order[begin:end].tolist()
        return self.padded(chosen)

    def rows_in_order(self, length: int, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every row once, `rows` at a time, short ones first: inputs and targets, (B, T).

        Raises:
            ValueError: if a row is longer than `length`, or `rows` is below 1.
        """
        n = self.num_rows(length)
        order = self.lengths.argsort(kind="stable") if self.buckets else np.arange(n)
        return (self.padded(order[places].tolist()) for places in rows_in_turn(n, rows))

    def padded(self, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return some rows as a batch: inputs and targets, each (B, T) int64."""
        T = int(self.lengths[list(chosen)].max())
        inputs = np.full((len(chosen), T), self.pad_id, dtype=np.int64)
        targets = np.full((len(chosen), T), IGNORE_INDEX, dtype=np.int64)
        for place, row in enumerate(chosen):
            size, end = self.lengths[row], self._ends[row]
            inputs[place, :size] = self._inputs[end - size : end]
            targets[place, :size] = self._targets[end - size : end]
        return torch.from_numpy(inputs), torch.from_numpy(targets)


def _check_row(
    number: int, inputs: Sequence[int], targets: Sequence[int], vocab_size: int, num_targets: int
) -> None:
    if not len(inputs) or len(inputs) != len(targets):
        raise ValueError(
            f"row {number} has {len(inputs)} inputs and {len(targets)} targets; it needs as many "
            "of both, and at least one"
        )
    low, high = min(inputs), max(inputs)
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"row {number} has ids from {low} to {high}, a vocabulary of {vocab_size} ends at "
            f"{vocab_size - 1}; was another tokenizer used?"
        )
    given = [target for target in targets if target != IGNORE_INDEX]
    if not given:
        raise ValueError(f"row {number} has no target, so there is nothing to learn; leave it out")
    if min(given) < 0 or max(given) >= num_targets:
        raise ValueError(
            f"row {number} has targets from {min(given)} to {max(given)}; they go from 0 to "
            f"{num_targets - 1}, and {IGNORE_INDEX} is none"
        )


@lru_cache(maxsize=8)
def _epoch_order(seed: int, epoch: int, n: int, rows: int, lengths: bytes) -> np.ndarray:
    """Return a shuffled order of n rows in which the `rows` rows of a step are similar in length.

    Batches continue across epochs, so the first one of an epoch may have begun in the
    epoch before, and the last one may end in the next.
    """
    order = epoch_order(seed, epoch, n, 0, n)
    if not lengths:
        return order
    of_row = np.frombuffer(lengths, dtype=np.int64)
    begun = -epoch * n % rows  # rows that belong to the batch of the epoch before
    batches: list[np.ndarray] = []
    for first in range(begun, n, POOL * rows):
        pool = order[first : first + POOL * rows]
        pool = pool[of_row[pool].argsort(kind="stable")]
        batches += [pool[i : i + rows] for i in range(0, len(pool), rows)]
    if not batches:
        return order
    whole = len(batches) - (len(batches[-1]) < rows)  # an incomplete batch stays last
    mixed = np.random.default_rng(epoch_shift(seed, epoch)).permutation(whole)
    return np.concatenate([order[:begun], *(batches[i] for i in mixed), *batches[whole:]])
