"""The logits of the next token from the ids before: prefill, then one token per step.

Shape letters: B batch, T tokens of the prompt, S tokens read before, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.generation.single_token import FlatModel
from llm_scratch.model.cache import KVCache
from llm_scratch.model.families import passes_cache
from llm_scratch.model.interface import LanguageModel
from llm_scratch.model.modes import evaluation_mode
from llm_scratch.model.wrappers import has_hooks, unwrapped

Model = Callable[[Tensor], Tensor]
"""Anything that maps (B, T) ids to (B, T, V) logits."""


class Reader:
    """A reader that computes the next token's logits, and reads no id twice if possible.

    With a cache, the prompt is read once (`prefill`) and each new token alone
    (`decode_one_token`). When the window is full, positions shift with every token, and the window
    is read again at each step (`read_window`), which gives the same ids as without a cache.

    Args:
        model: a language model, or any callable that maps ids to logits.
        window: number of last ids that the model sees.
        use_cache: False reads the window at every step, as for a model that takes no cache.
        cache: a cache of the first tokens of the prompt, to which tokens read are added; None makes
            one.
    """

    def __init__(
        self, model: Model, window: int, use_cache: bool = True, cache: KVCache | None = None
    ) -> None:
        self.model: Any = unwrapped(model)  # a compiled one would make a new graph per length
        self.window = window
        self._use_cache = use_cache and passes_cache(self.model)
        if cache is not None and not self._use_cache:
            raise ValueError("a cache was given, and this model or use_cache=False does not use it")
        self._cache = cache
        self._flat: FlatModel | None = None
        self._started = False
        parts = self.model.modules() if isinstance(self.model, nn.Module) else ()
        self._in_training = any(part.training for part in parts)

    def start(self, batch: int, prompt_length: int, total_length: int) -> None:
        """Make a cache for all tokens to be read, if they fit the window; check a given cache.

        Raises:
            ValueError: if a given cache has another number of rows, is too small, or leaves no
                token to read.
        """
        # The last token is chosen and never read.
        room = max(prompt_length, min(self.window, total_length - 1))
        if self._cache is not None:
            _check_cache(self._cache, batch, prompt_length, room)
        elif self._use_cache and prompt_length <= self.window:
            self._cache = self.model.new_cache(batch, room)

    @torch.no_grad()
    def next_logits(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the logits of the token after the ids so far: (B, L) -> (B, V).

        Args:
            ids: (B, L), one token longer with each call.
            mask: (B, L) booleans, False where an id is padding.
        """
        with evaluation_mode(self.model) if self._in_training else nullcontext():
            if self._cache is None or ids.shape[1] > self._cache.capacity:
                self._cache = self._flat = None
                seen = ids[:, -self.window :]
                mask = mask if mask is None else mask[:, -self.window :]
                return read_window(self.model, seen, mask)
            newest = ids[:, self._cache.length :]  # (B, 1) after the prompt
            if not self._started:
                logits = prefill(self.model, newest, self._cache, mask)
                self._flat = FlatModel.of(self.model, len(ids))
                self._started = True
                return logits
            return decode_one_token(self._flat or self.model, newest, self._cache, mask)


def _check_cache(cache: KVCache, batch: int, prompt_length: int, room: int) -> None:
    cache.check_room(batch, 0)
    if cache.length >= prompt_length:
        raise ValueError(
            f"the cache holds {cache.length} tokens, the prompt has {prompt_length}, so no token "
            f"is left to read; cache.truncate({prompt_length - 1}) leaves one"
        )
    if cache.capacity < room:
        raise ValueError(
            f"the cache has room for {cache.capacity} tokens, {room} are needed; make it with "
            f"new_cache(batch, {room})"
        )


def prefill(
    model: LanguageModel, ids: Tensor, cache: KVCache, mask: Tensor | None = None
) -> Tensor:
    """Read the part of a prompt not in the cache: (B, T) -> (B, V), the logits at its end."""
    return _last_logits(model, ids, cache=cache, attention_mask=mask)


def prefill_scored(model: Any, ids: Tensor, cache: KVCache, at_once: int) -> Iterator[Tensor]:
    """Read the part of a prompt that is not in the cache, and yield the logits at its positions.

    Args:
        model: a language model.
        ids: (B, T).
        cache: the cache of the tokens before, to which these are added.
        at_once: number of positions for which the head is computed together, which bounds the
            memory; for a model with hooks, it is computed for all at once.

    Returns:
        (B, n, V) tensors, in order, which together have T positions.
    """
    if has_hooks(model):
        yield from model(ids, cache=cache).split(at_once, dim=1)
        return
    hidden = model.hidden_states(ids, cache=cache)  # (B, T, C)
    yield from map(model.out_head, hidden.split(at_once, dim=1))


def decode_one_token(
    model: LanguageModel | FlatModel, newest: Tensor, cache: KVCache, mask: Tensor | None = None
) -> Tensor:
    """Read one more token of each row: (B, 1) -> (B, V), the logits after it."""
    if isinstance(model, FlatModel):
        return model(newest, cache, mask)
    return _last_logits(model, newest, cache=cache, attention_mask=mask)


def read_window(model: Any, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Read all ids that the model may see, without a cache: (B, L) -> (B, V)."""
    options = {} if mask is None else {"attention_mask": mask}  # a callable may lack it
    return _last_logits(model, ids, **options)


def _last_logits(model: Any, ids: Tensor, **options: Any) -> Tensor:
    """Return the logits at the last position; without hooks, the head skips the others."""
    if passes_cache(model) and not has_hooks(model):
        return model.out_head(model.hidden_states(ids, **options)[:, -1])  # (B, V)
    return model(ids, **options)[:, -1]
