"""Several corpora read as one, each with its share of the tokens.

All windows of a run have the same length, so a share of the windows is a share of the tokens. The
number of a window in the run alone determines its corpus and its place there: the number of the
step is the only state, and processes share a step without communication.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from llm_scratch.text.step_rows import Piece, rows_of_step
from llm_scratch.text.token_parts import TokenPart

Share = str | float | Fraction
ROUNDING = Fraction(1, 1000)  # how far from 1 the sum of shares may be: a third is 0.333
LONGEST_PERIOD = 200_000  # windows


class Mixture:
    """Parts of several corpora that batches are cut from, each with its share of the windows.

    After any number of windows, each part has supplied its share of them to within one window. Each
    part goes through its windows as it would alone, pass after pass, in an order of its own; small
    parts are read several times while large ones are read once.

    Args:
        parts: the parts by name; their order matters, since another one gives other windows.
        shares: their shares, by the same names in the same order; see `exact_shares`.

    Raises:
        ValueError: if the names differ, the parts have vocabularies of different sizes, or the
            shares are invalid.
    """

    def __init__(self, parts: Mapping[str, TokenPart], shares: Mapping[str, Share]) -> None:
        if list(parts) != list(shares):
            raise ValueError(
                f"there are parts {', '.join(parts)} and shares of {', '.join(shares)}; "
                "give a share for each part, in the same order"
            )
        self.shares = exact_shares(shares)
        self.parts = dict(parts)
        sizes = {name: part.vocab_size for name, part in parts.items()}
        if len(set(sizes.values())) > 1:
            shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise ValueError(
                f"the parts have vocabularies of several sizes ({shown}); prepare all of them with "
                "the same tokenizer"
            )
        self.vocab_size = next(iter(sizes.values()))
        period = math.lcm(*(share.denominator for share in self.shares.values()))
        self._weights = tuple(int(share * period) for share in self.shares.values())

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}: {float(share):.4g}" for name, share in self.shares.items())
        return f"Mixture({shown}; {len(self):,} tokens, vocab_size={self.vocab_size})"

    def num_rows(self, length: int) -> int:
        """Return the number of windows in all parts together.

        Raises:
            ValueError: naming a part that has none.
        """
        return sum(self.rows_of_parts(length).values())

    def rows_of_parts(self, length: int) -> dict[str, int]:
        """Return the number of windows in each part, by name.

        Raises:
            ValueError: naming a part that has none.
        """
        found = {}
        for name, part in self.parts.items():
            try:
                found[name] = part.num_rows(length)
            except ValueError as err:
                raise ValueError(f"{name}: {err}") from None
        return found

    def passes(self, rows: int, length: int) -> dict[str, float]:
        """Return how often a run of `rows` windows reads each part, by name."""
        found = self.rows_of_parts(length)
        return {name: float(share * rows) / found[name] for name, share in self.shares.items()}

    def outlook(self, rows: int, length: int) -> list[str]:
        """Return one line per part: how often a run of `rows` windows reads it, and its share."""
        own, passes = self.rows_of_parts(length), self.passes(rows, length)
        return [
            f"{name} will be read {times(passes[name])} times: it has {own[name]:,} windows, and "
            f"{float(share):.4g} of the {rows:,} of this run"
            for name, share in self.shares.items()
        ]

    def batch(
        self, seed: int, step: int, rows: int, length: int, **piece: Unpack[Piece]
    ) -> tuple[Tensor, Tensor]:
        """Return the windows of a training step, inputs and targets: each (rows, length) int64.

        The result depends only on the arguments; see `rows_of_step`.

        Args:
            seed: 0 or more; each seed gives another order within each part.
            step: number of the step, from 0.
            rows: number of windows.
            length: number of tokens in a window.
            piece: for a step that is taken in pieces, `first_row`, the number of windows to skip,
                and `step_rows`, the number of windows in the whole step.

        Raises:
            ValueError: if a part has no window, or an argument is below its range.
            TokenFileError: if an id is not in the vocabulary.
        """
        owners, places = self._places(step, rows, **piece)  # (rows,) each
        inputs = torch.empty(rows, length, dtype=torch.int64)
        targets = torch.empty_like(inputs)
        for number, part in enumerate(self.parts.values()):
            chosen = np.flatnonzero(owners == number)
            if not len(chosen):
                continue
            # A part's windows in a step are consecutive in the part's own order, too.
            first, count = int(places[chosen[0]]), len(chosen)
            own = _own_seed(seed, number)
            found = part.batch(own, 0, count, length, first_row=first, step_rows=first + count)
            index = torch.from_numpy(chosen)
            inputs[index], targets[index] = found
        return inputs, targets

    def rows_in_order(self, length: int, rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of one part after another, each as `TokenPart.rows_in_order` does.

        Raises:
            ValueError: if a part has no window, or `rows` is below 1.
        """
        self.num_rows(length)
        found = [part.rows_in_order(length, rows) for part in self.parts.values()]
        return (batch for batches in found for batch in batches)

    def mean(self, losses: Mapping[str, float]) -> float:
        """Return the mean of the parts' losses, weighted by their shares."""
        return sum(float(share) * losses[name] for name, share in self.shares.items())

    def _places(
        self, step: int, rows: int, **piece: Unpack[Piece]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the part of each window in a step, and its place in that part: (rows,) each."""
        owners, places = _period(self._weights)
        weights = np.array(self._weights)
        found = [
            (owners[begin:end], places[begin:end] + cycle * weights[owners[begin:end]])
            for cycle, begin, end in rows_of_step(len(owners), step, rows, **piece)
        ]
        one, other = zip(*found, strict=True)
        return np.concatenate(one), np.concatenate(other)


def times(number: float) -> str:
    """Format a number of times with three digits and without an exponent."""
    return f"{number:.3g}" if number < 100 else f"{number:,.0f}"


def exact_shares(shares: Mapping[str, Share]) -> dict[str, Fraction]:
    """Return shares as fractions that sum to 1.

    They are taken as written: 0.45 is 9/20, "1/3" is a third. If they sum to 1 up to rounding
    (within 0.001), each is divided by the sum.

    Args:
        shares: the shares by name: numbers, or strings such as "0.45" and "1/3".

    Raises:
        ValueError: if a share is not above 0, they do not sum to 1, or whole windows match them
            exactly only after more than 200,000.
    """
    found = {name: _share(name, share) for name, share in shares.items()}
    total = sum(found.values(), Fraction())
    if abs(total - 1) > ROUNDING:
        shown = " ".join(f"{name}:{float(share / total):.4g}" for name, share in found.items())
        raise ValueError(
            f"the shares sum to {float(total):g}, which is not 1 within {float(ROUNDING):g}"
            + (f"; in these proportions they are {shown}" if total else "; there is none")
        )
    found = {name: share / total for name, share in found.items()}
    period = math.lcm(*(share.denominator for share in found.values()))
    if period > LONGEST_PERIOD:
        raise ValueError(
            f"the shares come out even only after {period:,} windows, at most {LONGEST_PERIOD:,} "
            "are possible; write them with at most five decimals"
        )
    return found


def _share(name: str, share: Share) -> Fraction:
    try:
        found = Fraction(str(share).strip())
    except (ValueError, ZeroDivisionError):
        found = Fraction(0)
    if not 0 < found <= 1:
        raise ValueError(
            f"the share of {name} is {share!r}; it must be a number above 0 and up to 1, as 0.45 "
            "or 1/3"
        )
    return found


@lru_cache(maxsize=8)
def _period(weights: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of each window in a period, and its place in that part: (W,) each.

    Part k has w = `weights[k]` of the W windows, where W is the sum. Its window j may not come
    before slot j W / w (rounded down) and must have come by slot (j + 1) W / w (rounded up).
    Choosing, at each slot, the allowed window with the earliest deadline meets all deadlines, which
    keeps each part within one window of its share.

    Source:
        Baruah et al. 1996, "Proportionate Progress: A Notion of Fairness in Resource Allocation".
    """
    period = sum(weights)
    owners, places = np.empty(period, np.int64), np.empty(period, np.int64)
    given = [0] * len(weights)
    for slot in range(period):
        _, owner = min(
            (-(-(given[k] + 1) * period // weight), k)
            for k, weight in enumerate(weights)
            if given[k] * period // weight <= slot
        )
        owners[slot], places[slot] = owner, given[owner]
        given[owner] += 1
    return owners, places


def _own_seed(seed: int, number: int) -> int:
    """Return the seed of a part, so that parts of the same size are read in different orders.

    The first part has the run's seed, so a mixture of one part is that part.
    """
    if number == 0:
        return seed
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])
