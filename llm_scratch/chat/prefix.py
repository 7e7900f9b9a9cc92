"""The part of a conversation that a model has read, so that the next turn reads only the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_scratch.model.cache import KVCache
from llm_scratch.model.families import passes_cache
from llm_scratch.model.wrappers import context_length_of, unwrapped

ROUND = 256
"""Caches have room for a multiple of this many tokens, so that they seldom grow."""


class ReadPrefix:
    """The ids that a model has read for one conversation, with their keys and values.

    Args:
        model: a language model; without a cache, everything is read again.
    """

    def __init__(self, model: Any) -> None:
        self._model = unwrapped(model)
        self._most = context_length_of(model)
        self._ids: list[int] = []
        self.cache: KVCache | None = None

    def shared_with(self, ids: Sequence[int]) -> int:
        """Return how many of the first ids have been read; at most all but one."""
        held = 0 if self.cache is None else self.cache.length  # less, after an interrupt
        most = min(len(self._ids), held, len(ids) - 1)
        pairs = zip(self._ids[:most], ids, strict=False)
        return next((n for n, (one, other) in enumerate(pairs) if one != other), max(most, 0))

    @property
    def length(self) -> int:
        """The number of tokens read."""
        return len(self._ids)

    def first(self, tokens: int) -> ReadPrefix:
        """Return a copy of the first tokens; this prefix stays as it is."""
        other = ReadPrefix(self._model)
        other._ids = self._ids[:tokens]
        if self.cache is not None:
            room = min(-(-tokens // ROUND) * ROUND, self._most)
            other.cache = self.cache.with_room(max(room, 1), tokens)
        return other

    def prepare(self, ids: Sequence[int], new_tokens: int) -> int:
        """Keep the part that `ids` begin with, forget the rest, and make room for ids and answer.

        At least one id is left to read, since its logits choose the first new token.

        Args:
            ids: the next prompt, not empty.
            new_tokens: the maximum number of tokens that follow it.

        Returns:
            How many of the ids are already in the cache.
        """
        if not passes_cache(self._model):
            return 0
        kept = self.shared_with(ids)
        room = min(len(ids) + new_tokens, self._most)
        capacity = min(-(-room // ROUND) * ROUND, self._most)
        if self.cache is not None:
            self.cache.truncate(kept)
        if self.cache is None or kept == 0 and self.cache.capacity < room:
            self.cache = self._model.new_cache(1, capacity)
        elif self.cache.capacity < room:
            self.cache = self.cache.with_room(capacity)
        self._ids = list(ids[:kept])
        return kept

    def note(self, ids: Sequence[int]) -> None:
        """Remember the ids read since `prepare`: as many of `ids` as the cache holds.

        Args:
            ids: the prompt and the ids written after it; the last one is not read yet.
        """
        if self.cache is not None:
            self._ids = list(ids[: self.cache.length])

    def forget(self) -> None:
        """Drop the cache and its memory."""
        self._ids, self.cache = [], None
