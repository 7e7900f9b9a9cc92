"""Ends of a row: ids and sequences of ids, and stop strings that may span tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral

import torch
from torch import Tensor


class Endings:
    """Ids, or sequences of ids, that end a row.

    Args:
        stop: the ids or sequences.
        device: the device of the ids.

    Raises:
        ValueError: if a sequence is empty or holds anything but ids.
    """

    def __init__(
        self, stop: Sequence[int | Sequence[int]], device: torch.device | str | None = None
    ) -> None:
        if isinstance(stop, str):
            raise ValueError(f"{stop=!r} is text; stop takes ids, generate_text takes strings")
        self._sequences = []
        for item in stop:
            sequence = list(item) if isinstance(item, Iterable) else [item]
            if not sequence or not all(isinstance(i, Integral) and i >= 0 for i in sequence):
                raise ValueError(f"stop holds {item!r}; an id or a sequence of ids is needed")
            self._sequences.append(torch.tensor(sequence, device=device))

    def __bool__(self) -> bool:
        """Return whether anything ends a row."""
        return bool(self._sequences)

    def reached(self, new_ids: Tensor) -> Tensor:
        """Return which rows end with one of the sequences: (B, T) new ids -> (B, 1) booleans."""
        found = torch.zeros(len(new_ids), 1, dtype=torch.bool, device=new_ids.device)
        for sequence in self._sequences:
            if len(sequence) <= new_ids.shape[1]:
                tail = new_ids[:, -len(sequence) :]
                found |= (tail == sequence).all(dim=1, keepdim=True)
        return found


class StopStrings:
    """A stream of text, cut before the first stop string, of which no part is ever returned.

    `push` returns the text that can no longer belong to a stop string, `flush` the rest. It does
    not matter how the text is cut into pieces: the first stop string to be complete counts.

    Args:
        stop: the strings.

    Attributes:
        found: the stop string that ended the text, None until then.

    Raises:
        ValueError: if a stop string is empty.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        if not all(isinstance(string, str) and string for string in stop):
            raise ValueError(f"stop strings must not be empty, got {list(stop)!r}")
        self._stop = tuple(stop)
        self._held = ""
        self.found: str | None = None

    def push(self, piece: str) -> str:
        """Take a piece and return the text that is certain to be shown."""
        if self.found is not None:
            return ""
        self._held += piece
        matches = [(self._held.find(string), string) for string in self._stop]
        ends = [(start + len(string), start, string) for start, string in matches if start >= 0]
        if ends:
            _, start, self.found = min(ends)
            text, self._held = self._held[:start], ""
            return text
        kept = max((_overlap(self._held, string) for string in self._stop), default=0)
        split = len(self._held) - kept
        text, self._held = self._held[:split], self._held[split:]
        return text

    def flush(self) -> str:
        """Return the text that was held back in case a stop string followed."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, string: str) -> int:
    """Return how many characters at the end of a text may be the beginning of a string."""
    longest = min(len(text), len(string) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(string[:n])), 0)
