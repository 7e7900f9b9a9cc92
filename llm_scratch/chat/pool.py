"""Prefixes read for earlier requests, kept for later ones that begin alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from llm_scratch.chat.prefix import ReadPrefix


class PrefixPool:
    """Up to `kept` prefixes that were read, the most recently used last.

    Args:
        model: a language model.
        kept: the maximum number; 0 keeps nothing. Each holds at most one context of keys and
            values.
    """

    def __init__(self, model: Any, kept: int) -> None:
        self._model, self._kept = model, kept
        self._prefixes: list[ReadPrefix] = []

    def __len__(self) -> int:
        """Return the number of kept prefixes."""
        return len(self._prefixes)

    @property
    def num_bytes(self) -> int:
        """Memory of all kept keys and values in bytes."""
        return sum(each.cache.num_bytes for each in self._prefixes if each.cache is not None)

    def take(self, ids: Sequence[int], in_use: Iterable[ReadPrefix] = ()) -> ReadPrefix:
        """Return the prefix that shares most with the ids, or an empty one.

        It leaves the pool if at least half of what it holds is shared. Otherwise, or if it is in
        use, the shared tokens are copied, which takes a fraction of the time of reading them.

        Args:
            ids: the prompt.
            in_use: the prefixes of other running requests.
        """
        if not self._kept:
            return ReadPrefix(self._model)
        shared, kept, best = 0, False, ReadPrefix(self._model)
        candidates = [(each, True) for each in reversed(self._prefixes)]
        for each, free in [*candidates, *((other, False) for other in in_use)]:
            if (found := each.shared_with(ids)) > shared:
                shared, kept, best = found, free, each
        if not shared:
            return best
        if kept and 2 * shared >= best.length:
            self._prefixes.remove(best)
            return best
        if kept:  # used just now
            self._prefixes.remove(best)
            self._prefixes.append(best)
        return best.first(shared)

    def give_back(self, prefix: ReadPrefix) -> None:
        """Keep a prefix; the least recently used one goes if there are too many."""
        if prefix.cache is None or not prefix.length:
            return
        self._prefixes.append(prefix)
        del self._prefixes[: max(len(self._prefixes) - self._kept, 0)]

    def clear(self) -> None:
        """Keep nothing, and free the memory."""
        self._prefixes.clear()
