"""Llama and its relatives in one class: Llama 2 to 3.2, Qwen 1.5 to 3, SmolLM2, Mistral.

The papers' changes since GPT-2 (see `gpt`): RMSNorm for LayerNorm, a gated network for GELU's,
positions by turning queries and keys instead of an embedding, keys and values shared by several
queries, and no biases, or only in the query, key and value projections.

Shape letters: B batch, T tokens, S tokens in a cache, C emb_dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.model import decoder
from llm_scratch.model.cache import KVCache
from llm_scratch.model.grouped_attention import GroupedQueryAttention, window_mask
from llm_scratch.model.initialization import SkipInitialization, init_normal
from llm_scratch.model.linear import Linear
from llm_scratch.model.llama_config import LlamaConfig, as_llama_config
from llm_scratch.model.llama_layers import ExpertsFeedForward, GatedFeedForward, RMSNorm
from llm_scratch.model.rope import rope_tables
from llm_scratch.model.together import lay_together


class LlamaBlock(nn.Module):
    """Attention, then a gated network, each on normalised input and around a shortcut.

    Args:
        cfg: a `LlamaConfig` or a dict of its arguments.

    Source:
        Touvron et al. 2023, arXiv:2302.13971.
    """

    attention_class = GroupedQueryAttention

    def __init__(self, cfg: LlamaConfig | Mapping[str, Any]) -> None:
        super().__init__()
        cfg = as_llama_config(cfg)
        self.att = GroupedQueryAttention(cfg)
        if cfg.num_experts:
            self.ff: nn.Module = ExpertsFeedForward(cfg)
        else:
            self.ff = GatedFeedForward(cfg.emb_dim, cfg.hidden_dim)
        self.norm1 = RMSNorm(cfg.emb_dim, cfg.norm_eps)
        self.norm2 = RMSNorm(cfg.emb_dim, cfg.norm_eps)

    def forward(self, x: Tensor, **attention: Any) -> Tensor:
        """Mix the tokens, then transform each: (B, T, C) -> (B, T, C).

        Args:
            x: (B, T, C).
            attention: the other arguments of `GroupedQueryAttention.forward`: rope, mask,
                cache, layer.
        """
        x = x + self.att(self.norm1(x), **attention)
        return x + self.ff(self.norm2(x))


class LlamaModel(nn.Module):
    """A model of Llama's family: token ids (B, T) -> logits (B, T, V) for the token after each.

    Everything that works with a `GPTModel` works with it, under the same names. A tied model starts
    with `init_weights`, an untied one with PyTorch's default initialisation.

    Args:
        cfg: a `LlamaConfig`, or a dict of its arguments. Kept, as a `LlamaConfig`, in `.cfg`.

    Source:
        Touvron et al. 2023, arXiv:2302.13971 and 2307.09288; Dubey et al. 2024, arXiv:2407.21783;
        Yang et al. 2025, arXiv:2505.09388 (Qwen 3); Jiang et al. 2023, arXiv:2310.06825 (Mistral).
    """

    checkpoint_blocks: int = 0
    """Which blocks are recomputed in the backward pass instead of keeping their activations: 1
    means every block, k every k-th, 0 none. It trades time for memory in training."""

    class_names: tuple[str, ...] | None = None
    """The class names of a classification head, in the order of its outputs."""

    trf_blocks: nn.Sequential
    final_norm: nn.Module
    out_head: nn.Module

    def __init__(self, cfg: LlamaConfig | Mapping[str, Any]) -> None:
        super().__init__()
        cfg = as_llama_config(cfg)
        self.cfg = cfg
        if cfg.tie_weights:
            with SkipInitialization():
                self._build(cfg)
            self.init_weights()
        else:
            self._build(cfg)
        if cfg.dtype is not None:
            self.to(getattr(torch, cfg.dtype))

    def _build(self, cfg: LlamaConfig) -> None:
        self.tok_emb = nn.Embedding(cfg.vocab_size, cfg.emb_dim)
        self.trf_blocks = nn.Sequential(*(LlamaBlock(cfg) for _ in range(cfg.n_layers)))
        self.final_norm = RMSNorm(cfg.emb_dim, cfg.norm_eps)
        self.out_head = Linear(cfg.emb_dim, cfg.vocab_size, bias=False)
        if cfg.tie_weights:
            decoder.keep_tied(self)
        lay_together(self)

    @classmethod
    def empty(cls, cfg: LlamaConfig | Mapping[str, Any]) -> LlamaModel:
        """Make a model with unset parameters, for a file to fill; draw no random numbers."""
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model.cfg = as_llama_config(cfg)
        with SkipInitialization():
            model._build(model.cfg)
        return model

    def forward(
        self,
        in_idx: Tensor,
        *,
        cache: KVCache | None = None,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Predict the next token at every position: (B, T) ids -> (B, T, V) logits.

        Args:
            in_idx: (B, T) token ids.
            cache: the cache of the S tokens before these, which are added to it.
            attention_mask: (B, S + T) booleans, False where a token is padding, which no token
                sees; rows are best padded on the left. Or (B, T, S + T), True where a token (T) may
                look at another, for texts side by side in one row.
            positions: (B, T) or (T,) positions in the sequence. By default they continue from the
                cache, or with `attention_mask` the real tokens of each row.

        Raises:
            ValueError: if `in_idx` has no two dimensions, S + T is above the context length or the
                cache's capacity, an id lies outside the vocabulary, or a mask has another shape.
        """
        hidden = self.hidden_states(
            in_idx, cache=cache, attention_mask=attention_mask, positions=positions
        )
        return self.out_head(hidden)

    def hidden_states(
        self,
        in_idx: Tensor,
        *,
        cache: KVCache | None = None,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Compute everything but the head: (B, T) -> (B, T, C). Arguments as `forward`."""
        mask, where = decoder.placed(self, in_idx, cache, attention_mask, positions)
        x = decoder.embedded(self.tok_emb, in_idx)  # (B, T, C)
        rope = rope_tables(self.cfg, where, x.device)
        near = self._windowed(mask, in_idx.shape[1], cache, x.device)
        whole = decoder.shared_by_blocks(mask, x)
        near = whole if near is mask else decoder.shared_by_blocks(near, x)
        for layer, block in enumerate(self.trf_blocks):
            seen = whole if self.cfg.window_of(layer) is None else near
            options = {"rope": rope, "mask": seen, "cache": cache, "layer": layer}
            x = decoder.through_block(self, layer, block, x, **options)
        if cache is not None:
            cache.advance(in_idx.shape[1])
        return self.final_norm(x)

    def _windowed(
        self, mask: Tensor | None, T: int, cache: KVCache | None, device: torch.device
    ) -> Tensor | None:
        """Return the mask of the blocks that look back no further than the window."""
        window, past = self.cfg.sliding_window, 0 if cache is None else cache.length
        if window is None or past + T <= window:
            return mask
        near = window_mask(T, window, past, device)  # (T, S + T)
        return near if mask is None else mask & near

    def new_cache(
        self, batch: int, length: int | None = None, dtype: torch.dtype | None = None
    ) -> KVCache:
        """Make an empty cache that fits this model, on its device.

        Args:
            batch: B.
            length: maximum number of tokens, by default and at most the context length.
            dtype: type of the keys and values; by default the model's.

        Raises:
            ValueError: if `length` is above the model's context length or below 1.
        """
        return decoder.new_cache(self.cfg, self.tok_emb.weight, batch, length, dtype)

    def tie_weights(self) -> None:
        """Make the output head and the token embedding the same parameter."""
        self.out_head.weight = self.tok_emb.weight

    def init_weights(self, std: float = 0.02, generator: torch.Generator | None = None) -> None:
        """Initialise all weights for training from scratch, in place: the first loss is about ln V.

        Weights are normal with mean 0. Those that write to the residual stream are scaled by
        1 / sqrt(2 * n_layers), so that its variance does not grow with depth. Biases are 0, and
        norms have no effect.

        Args:
            std: standard deviation of the normal distribution.
            generator: the random generator; None means PyTorch's global one.
        """
        init_normal(self, self.cfg.n_layers, std, generator=generator)

    def num_parameters(self, *, head: bool = True, trainable_only: bool = False) -> int:
        """Count the parameters (single numbers), a shared one once.

        Args:
            head: whether the output head counts.
            trainable_only: whether frozen parameters are left out.
        """
        return decoder.num_parameters(self, head, trainable_only)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LlamaModel:
        # A move off the meta device gives the head a parameter of its own.
        tied = decoder.is_tied(self)
        super()._apply(fn, recurse)
        if tied:
            self.tie_weights()
        lay_together(self)
        return self


Llama3Model = Qwen3Model = LlamaModel
"""The names of the class in the book's package."""
