"""From the ids so far to the logits of the next token: prefill, then one token a step.

Shape letters: B batch, T tokens of the prompt, S tokens read before, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.generation.single_token import FlatModel, has_hooks
from llm_scratch.model.attention import MultiHeadAttention
from llm_scratch.model.cache import KVCache
from llm_scratch.model.gpt import GPTModel, TransformerBlock
from llm_scratch.model.modes import evaluation_mode

Model = Callable[[Tensor], Tensor]
"""Anything that maps (B, T) ids to (B, T, V) logits."""


class Reader:
    """Gives the logits of the token that follows the ids so far, reading none twice if it can.

    With a cache, the prompt is read once (`prefill`) and each new token alone
    (`decode_one_token`). When the window is full, positions shift with every token, and the
    window is read again at each step (`read_window`), which gives the same ids as no cache at all.

    Args:
        model: a `GPTModel`, or any callable that maps ids to logits.
        window: how many of the last ids the model sees.
        use_cache: False reads the window at every step; so does a model that takes no cache.
    """

    def __init__(self, model: Model, window: int, use_cache: bool = True) -> None:
        self.model: Any = getattr(model, "_orig_mod", model)  # compiled: a new graph a length
        self.window = window
        self._use_cache = use_cache and takes_cache(self.model)
        self._cache: KVCache | None = None
        self._flat: FlatModel | None = None
        parts = self.model.modules() if isinstance(self.model, nn.Module) else ()
        self._in_training = any(part.training for part in parts)

    def start(self, batch: int, prompt_length: int, total_length: int) -> None:
        """Make room for all that will be read, where it fits the window."""
        if self._use_cache and prompt_length <= self.window:
            # The last token is chosen and never read.
            room = max(prompt_length, min(self.window, total_length - 1))
            self._cache = KVCache.for_model(self.model, batch, room)

    @torch.no_grad()
    def next_logits(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """The logits of the token after the ids so far: (B, L) -> (B, V).

        Args:
            ids: (B, L), with each call a token longer than before.
            mask: (B, L) booleans, False where an id is padding.
        """
        with evaluation_mode(self.model) if self._in_training else nullcontext():
            if self._cache is None or ids.shape[1] > self._cache.capacity:
                self._cache = self._flat = None
                seen = ids[:, -self.window :]
                mask = mask if mask is None else mask[:, -self.window :]
                return read_window(self.model, seen, mask)
            if self._cache.length == 0:
                logits = prefill(self.model, ids, self._cache, mask)
                self._flat = FlatModel.of(self.model, len(ids))
                return logits
            newest = ids[:, self._cache.length :]  # (B, 1)
            return decode_one_token(self._flat or self.model, newest, self._cache, mask)


def prefill(model: GPTModel, ids: Tensor, cache: KVCache, mask: Tensor | None = None) -> Tensor:
    """Read the whole prompt into an empty cache: (B, T) -> (B, V), the logits after its end."""
    return _last_logits(model, ids, cache=cache, attention_mask=mask)


def decode_one_token(
    model: GPTModel | FlatModel, newest: Tensor, cache: KVCache, mask: Tensor | None = None
) -> Tensor:
    """Read one token more of each row: (B, 1) -> (B, V), the logits after it."""
    if isinstance(model, FlatModel):
        return model(newest, cache, mask)
    return _last_logits(model, newest, cache=cache, attention_mask=mask)


def read_window(model: Any, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Read all ids that the model may see, without a cache: (B, L) -> (B, V)."""
    options = {} if mask is None else {"attention_mask": mask}  # which a plain callable lacks
    return _last_logits(model, ids, **options)


def takes_cache(model: Any) -> bool:
    """Whether a model passes a cache on to every layer, as `GPTModel` and its own blocks do."""
    return (
        isinstance(model, GPTModel)
        and type(model).forward is GPTModel.forward
        and type(model).hidden_states is GPTModel.hidden_states
        and type(model.trf_blocks) is nn.Sequential
        and all(_passes_cache_on(block) for block in model.trf_blocks)
    )


def _passes_cache_on(block: Any) -> bool:
    return (
        type(block).forward is TransformerBlock.forward
        and type(block.att).forward is MultiHeadAttention.forward
    )


def _last_logits(model: Any, ids: Tensor, **options: Any) -> Tensor:
    """Logits at the last position; the head is spared the others where nobody watches it."""
    if takes_cache(model) and not has_hooks(model):
        return model.out_head(model.hidden_states(ids, **options)[:, -1])  # (B, V)
    return model(ids, **options)[:, -1]
