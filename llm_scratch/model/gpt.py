"""The transformer block and the GPT model (book 4.4 to 4.6).

Shape letters: B batch, T tokens, C emb_dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.model import decoder
from llm_scratch.model.attention import MultiHeadAttention
from llm_scratch.model.cache import KVCache
from llm_scratch.model.config import GPTConfig, as_config
from llm_scratch.model.initialization import SkipInitialization, init_normal
from llm_scratch.model.layers import FeedForward, LayerNorm
from llm_scratch.model.linear import Linear


class TransformerBlock(nn.Module):
    """Attention, then a feed-forward network, each on normalised input and around a shortcut.

    Args:
        cfg: a `GPTConfig` or the book's dict.

    Source:
        Book 4.5; Radford et al. 2019 (GPT-2) for the norm before instead of after.
    """

    attention_class = MultiHeadAttention

    def __init__(self, cfg: GPTConfig | Mapping[str, Any]) -> None:
        super().__init__()
        cfg = as_config(cfg)
        self.att = MultiHeadAttention(
            d_in=cfg.emb_dim,
            d_out=cfg.emb_dim,
            context_length=cfg.context_length,
            dropout=cfg.attention_dropout,
            num_heads=cfg.n_heads,
            qkv_bias=cfg.qkv_bias,
        )
        self.ff = FeedForward(cfg)
        self.norm1 = LayerNorm(cfg.emb_dim)
        self.norm2 = LayerNorm(cfg.emb_dim)
        self.drop_shortcut = nn.Dropout(cfg.shortcut_dropout)

    def forward(self, x: Tensor, **attention: Any) -> Tensor:
        """Mix the tokens, then transform each: (B, T, C) -> (B, T, C).

        Args:
            x: (B, T, C).
            attention: what `MultiHeadAttention.forward` takes beside x: mask, cache, layer.
        """
        x = x + self.drop_shortcut(self.att(self.norm1(x), **attention))
        return x + self.drop_shortcut(self.ff(self.norm2(x)))


class GPTModel(nn.Module):
    """A GPT: token ids (B, T) -> logits (B, T, V) for the token that follows each.

    Parameters are created in the book's order with PyTorch's default initialisation, so that
    the book's seeds give the book's numbers; `init_weights` is the better start for real runs
    and the one that a tied model gets, whose head would else start far off.

    A tied model stays tied when it is loaded (also with `assign=True`), copied or moved. It takes
    state dicts with and without a head; a head that differs from the embedding is a `ValueError`.

    Args:
        cfg: a `GPTConfig`, or the book's dict. Kept, as a `GPTConfig`, in `.cfg`.

    Source:
        Book 4.6; Radford et al. 2019 (GPT-2).
    """

    checkpoint_blocks: int = 0
    """In training, 1 computes every block again in the backward pass instead of keeping what it
    needs, k every k-th, 0 none: less memory for more time."""

    class_names: tuple[str, ...] | None = None
    """The classes of a head that sorts texts, in the order of its outputs."""

    trf_blocks: nn.Sequential
    final_norm: nn.Module
    out_head: nn.Module

    def __init__(self, cfg: GPTConfig | Mapping[str, Any]) -> None:
        super().__init__()
        cfg = as_config(cfg)
        self.cfg = cfg
        if cfg.tie_weights:
            with SkipInitialization():
                self._build(cfg)
            self.init_weights()
        else:
            self._build(cfg)

    def _build(self, cfg: GPTConfig) -> None:
        self.tok_emb = nn.Embedding(cfg.vocab_size, cfg.emb_dim)
        self.pos_emb = nn.Embedding(cfg.context_length, cfg.emb_dim)
        self.drop_emb = nn.Dropout(cfg.embedding_dropout)
        self.trf_blocks = nn.Sequential(*(TransformerBlock(cfg) for _ in range(cfg.n_layers)))
        self.final_norm = LayerNorm(cfg.emb_dim)
        self.out_head = Linear(cfg.emb_dim, cfg.vocab_size, bias=False)
        if cfg.tie_weights:
            decoder.keep_tied(self)

    @classmethod
    def empty(cls, cfg: GPTConfig | Mapping[str, Any]) -> GPTModel:
        """A model whose parameters are not set yet, for a file to fill; draws nothing random."""
        cfg = as_config(cfg)
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model.cfg = cfg
        with SkipInitialization():
            model._build(cfg)
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
            cache: holds the S tokens that came before these, and gets these too.
            attention_mask: (B, S + T) booleans, False where a token is padding, which nobody looks
                at; rows are best padded on the left. Or (B, T, S + T), True where a token (T) may
                look at another, for texts side by side in one row.
            positions: (B, T) or (T,) places in the sequence. By default they count on from the
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
        """Everything but the head: (B, T) ids -> (B, T, C). Arguments and errors as `forward`."""
        mask, where = decoder.placed(self, in_idx, cache, attention_mask, positions)
        follow = isinstance(where, slice)
        places = self.pos_emb.weight[where] if follow else self.pos_emb(where)
        x = self.drop_emb(decoder.embedded(self.tok_emb, in_idx) + places)  # (B, T, C)
        mask = decoder.shared_by_blocks(mask, x)
        plain = mask is None and cache is None  # then a block of one's own needs no options
        for layer, block in enumerate(self.trf_blocks):
            options = {} if plain else {"mask": mask, "cache": cache, "layer": layer}
            x = decoder.through_block(self, layer, block, x, **options)
        if cache is not None:
            cache.advance(in_idx.shape[1])
        return self.final_norm(x)

    def new_cache(
        self, batch: int, length: int | None = None, dtype: torch.dtype | None = None
    ) -> KVCache:
        """Return an empty cache that fits this model, on its device.

        Args:
            batch: B.
            length: most tokens it can hold, at most the context length, which is the default.
            dtype: type of the keys and values; the model's own by default.

        Raises:
            ValueError: if `length` is above the model's context length or below 1.
        """
        return decoder.new_cache(self.cfg, self.tok_emb.weight, batch, length, dtype)

    def tie_weights(self) -> None:
        """Make the output head and the token embedding one and the same parameter."""
        self.out_head.weight = self.tok_emb.weight

    def init_weights(
        self,
        std: float = 0.02,
        position_std: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Start all weights as GPT-2's were, in place: the first loss is about ln V.

        Normal with mean 0; the two projections of a block that write to the residual stream are
        scaled by 1 / sqrt(2 * n_layers), so that its variance does not grow with depth; biases
        are 0, layer norms change nothing. Layers that wrap others (LoRA) keep their own parameters.

        Args:
            std: standard deviation of the normal distribution.
            position_std: of the position embedding; None means `std`. (OpenAI's code has 0.01
                there, later reimplementations 0.02; both train alike.)
            generator: where random numbers come from; None is PyTorch's global generator.

        Source:
            Radford et al. 2019 (GPT-2), section 2.3.
        """
        init_normal(self, self.cfg.n_layers, std, position_std, generator)

    def num_parameters(self, *, head: bool = True, trainable_only: bool = False) -> int:
        """How many parameters the model has (single numbers), a shared one counted once.

        Args:
            head: whether the output head counts; without it, an untied model has as many as the
                tied one, which is how GPT-2 comes to "124M".
            trainable_only: whether frozen parameters are left out.
        """
        return decoder.num_parameters(self, head, trainable_only)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GPTModel:
        # A move off the meta device gives the head a parameter of its own.
        tied = decoder.is_tied(self)
        super()._apply(fn, recurse)
        if tied:
            self.tie_weights()
        return self
