"""Arrays in several files, read as one array."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np


class JoinedArray:
    """Flat arrays of one type, joined; only the numbers that are read are copied.

    Args:
        arrays: the arrays, in order; empty ones are left out.
        added: one number per array, which is added to the numbers read from it.
    """

    def __init__(self, arrays: Sequence[np.ndarray], added: Sequence[int] | None = None) -> None:
        pairs = zip(arrays, added or [0] * len(arrays), strict=True)
        kept = [(np.asarray(array), shift) for array, shift in pairs if len(array)]
        self._arrays = [array for array, _ in kept]
        self._added = [shift for _, shift in kept]
        self._ends = list(accumulate(map(len, self._arrays)))
        self.dtype = arrays[0].dtype

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def shape(self) -> tuple[int]:
        """The shape, (n,), as of an array."""
        return (len(self),)

    def __repr__(self) -> str:
        return f"JoinedArray({len(self):,} numbers of {self.dtype} in {len(self._arrays)} arrays)"

    def __getitem__(self, place: int | slice) -> Any:
        """Return one number, or the numbers between two positions as an array."""
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            if step < 0:
                return np.asarray(self)[place]
            return self._read(start, stop)[::step]
        at = range(len(self))[
            place
        ]  # negative positions count from the end; those outside raise IndexError
        return self._read(at, at + 1)[0]

    def __iter__(self) -> Iterator[Any]:
        for array, added in zip(self._arrays, self._added, strict=True):
            yield from array + self.dtype.type(added) if added else array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("numbers in several files make one array only as a copy")
        return self._read(0, len(self)).astype(dtype or self.dtype)

    def tolist(self) -> list[int]:
        """Return all numbers as a list."""
        return np.asarray(self).tolist()

    def between(self, start: int, stop: int) -> JoinedArray | np.ndarray:
        """Return the numbers between two positions, not copied: an array if one holds them all."""
        pieces = self._pieces(start, stop)
        if len(pieces) == 1 and not pieces[0][1]:
            return pieces[0][0]
        arrays, added = [array for array, _ in pieces], [shift for _, shift in pieces]
        return JoinedArray(arrays, added) if arrays else np.empty(0, self.dtype)

    def _pieces(self, start: int, stop: int) -> list[tuple[np.ndarray, int]]:
        pieces, number = [], bisect_right(self._ends, start)
        while start < stop:
            array, end = self._arrays[number], self._ends[number]
            first = end - len(array)
            pieces.append((array[start - first : stop - first], self._added[number]))
            start, number = end, number + 1
        return pieces

    def _read(self, start: int, stop: int) -> np.ndarray:
        pieces = [
            array + self.dtype.type(added) if added else array
            for array, added in self._pieces(start, stop)
        ]
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty(0, self.dtype)


Row = np.ndarray | JoinedArray


def between(row: Row, start: int, stop: int) -> Row:
    """Return the numbers between two positions without a copy."""
    return row.between(start, stop) if isinstance(row, JoinedArray) else row[start:stop]
