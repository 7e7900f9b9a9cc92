"""Batches from one long row of ids: shuffled for training, in order for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Unpack

import numpy as np
from torch import Tensor

from llm_scratch.checks import check_count
from llm_scratch.text.joined_array import JoinedArray, Row
from llm_scratch.text.shuffling import epoch_order, epoch_shift
from llm_scratch.text.step_rows import Piece, rows_in_turn, rows_of_step
from llm_scratch.text.token_header import TokenFileError
from llm_scratch.text.token_ids import as_token_array, check_ids, inputs_and_targets, outside


class TokenPart:
    """A row of ids that batches are cut from: the training or the validation part of a corpus.

    Nothing is kept per window, so a part of 100 GB takes no more memory than one of 20 kB.

    Args:
        tokens: the ids, one flat row; a mapped file is not copied.
        vocab_size: the size of the vocabulary; every id is below it.
        reopen: (function, arguments) that open the part again in another process; without it, the
            ids themselves are sent there.
    """

    def __init__(
        self,
        tokens: Row,
        vocab_size: int,
        *,
        reopen: tuple[Callable[..., TokenPart], tuple[Any, ...]] | None = None,
    ) -> None:
        self.tokens = tokens
        self.vocab_size = vocab_size
        joined = isinstance(tokens, JoinedArray)
        self._array = tokens if joined else np.asarray(tokens)  # sliced faster than a memmap
        self._reopen = reopen

    @classmethod
    def from_tokens(cls, array: Any, vocab_size: int) -> TokenPart:
        """Make a part from ids in memory: a list, an array or a tensor of n ids.

        Raises:
            ValueError: if an id is negative or not below `vocab_size`, or there are no ids.
        """
        tokens = as_token_array(array)
        if not len(tokens):
            raise ValueError("there are no token ids; give one flat row of them")
        check_ids(tokens, vocab_size)
        return cls(tokens, vocab_size)

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        return f"TokenPart({len(self):,} tokens, vocab_size={self.vocab_size})"

    def __reduce__(self) -> tuple[Callable[..., TokenPart], tuple[Any, ...]]:
        return self._reopen or (TokenPart, (self._array, self.vocab_size))

    def num_rows(self, length: int) -> int:
        """Return the number of windows in an epoch; each takes `length` inputs and one more token.

        Raises:
            ValueError: if there is none.
        """
        check_count("length", length, note="the number of tokens in a window")
        if len(self) <= length:
            raise ValueError(
                f"got {len(self)} tokens, need at least length + 1 = {length + 1}; "
                "give a longer text or a smaller length"
            )
        return (len(self) - 1) // length

    def batch(
        self, seed: int, step: int, rows: int, length: int, **piece: Unpack[Piece]
    ) -> tuple[Tensor, Tensor]:
        """Return the windows of a training step, inputs and targets: each (rows, length) int64.

        The result depends only on the arguments; see `rows_of_step`. Every window comes once per
        epoch, in a new order each time. In each epoch, the grid of windows begins at another token,
        up to `length` later, so that a token does not always follow the same ones. The last window
        then ends with the part, and tokens before the grid wait for another epoch.

        Args:
            seed: 0 or more; each seed gives another order.
            step: number of the step, from 0.
            rows: number of windows.
            length: number of tokens in a window.
            piece: for a step that is taken in pieces, `first_row`, the number of windows to skip,
                and `step_rows`, the number of windows in the whole step.

        Raises:
            ValueError: if there is no window, or an argument is below its range.
            TokenFileError: if an id is not in the vocabulary.
        """
        windows = self.num_rows(length)
        starts: list[int] = []
        for epoch, begin, end in rows_of_step(windows, step, rows, **piece):
            order = epoch_order(seed, epoch, windows, begin, end)
            moved = order * length + epoch_shift(seed, epoch) % length
            starts += np.minimum(moved, len(self) - 1 - length).tolist()
        return self._cut(starts, length)

    def rows_in_order(self, length: int, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the whole part in order: inputs and targets, each (rows, length) int64.

        Every token but the first is a target once. The last batch of full windows may have fewer
        rows, and a last, shorter window comes alone: (1, remaining tokens).

        Raises:
            ValueError: if there is no window, or `rows` is below 1.
        """
        return self._in_order(rows_in_turn(self.num_rows(length), rows), length)

    def _in_order(self, turns: Iterator[range], length: int) -> Iterator[tuple[Tensor, Tensor]]:
        for places in turns:
            yield self._cut([i * length for i in places], length)
        if left := (len(self) - 1) % length:
            yield self._cut([len(self) - 1 - left], left)

    def _cut(self, starts: list[int], length: int) -> tuple[Tensor, Tensor]:
        rows = np.stack([self._array[start : start + length + 1] for start in starts])
        if (highest := int(rows.max())) >= self.vocab_size:
            raise TokenFileError(
                f"the file of these ids is damaged: {outside(highest, self.vocab_size)} "
                "llm-scratch prepare --verify compares a file with its checksum"
            )
        return inputs_and_targets(rows)
