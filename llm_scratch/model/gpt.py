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
            attention: the other arguments of `MultiHeadAttention.forward`: mask, cache, layer.
        """
        x = x + self.drop_shortcut(self.att(self.norm1(x), **attention))
        return x + self.drop_shortcut(self.ff(self.norm2(x)))


class GPTModel(nn.Module):
    """A GPT: token ids (B, T) -> logits (B, T, V) for the token that follows each.

    Parameters are created in the book's order with PyTorch's default initialisation, so that the
    book's seeds give the book's numbers. `init_weights` is a better start for real runs. A tied
    model always uses it, since its head would otherwise start far off.

    A tied model stays tied when it is loaded (also with `assign=True`), copied or moved. It accepts
    state dicts with and without a head; a head that differs from the embedding is a `ValueError`.

    Args:
        cfg: a `GPTConfig`, or the book's dict. Kept, as a `GPTConfig`, in `.cfg`.

    Source:
        Book 4.6; Radford et al. 2019 (GPT-2).
    """

    checkpoint_blocks: int = 0
    """Which blocks are recomputed in the backward pass instead of keeping their activations: 1
    means every block, k every k-th, 0 none. It trades time for memory in training."""

    class_names: tuple[str, ...] | None = None
    """The class names of a classification head, in the order of its outputs."""

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
        """Make a model with unset parameters, for a file to fill; draw no random numbers."""
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
            cache: the cache of the S tokens before these, which are added to it.
            attention_mask: (B, S + T) booleans, False where a token is padding, which no token
                sees; rows are best padded on the left. Or (B, T, S + T), True where a token (T) may
                look at another, for texts side by side in one row.
            positions: (B, T) or (T,) positions in the sequence. By default they continue from the
                cache or, with `attention_mask`, count the real tokens of each row.

        Raises:
            ValueError: if `in_idx` does not have two dimensions, S + T is above the context length
                or the cache's capacity, an id is outside the vocabulary, or a mask has another
                shape.
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
        """Compute all but the head: (B, T) ids -> (B, T, C); arguments as in `forward`."""
        mask, where = decoder.placed(self, in_idx, cache, attention_mask, positions)
        follow = isinstance(where, slice)
        places = self.pos_emb.weight[where] if follow else self.pos_emb(where)
        x = self.drop_emb(decoder.embedded(self.tok_emb, in_idx) + places)  # (B, T, C)
        mask = decoder.shared_by_blocks(mask, x)
        plain = mask is None and cache is None  # then a replaced block needs no options
        for layer, block in enumerate(self.trf_blocks):
            options = {} if plain else {"mask": mask, "cache": cache, "layer": layer}
            x = decoder.through_block(self, layer, block, x, **options)
        if cache is not None:
            cache.advance(in_idx.shape[1])
        return self.final_norm(x)

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

    def init_weights(
        self,
        std: float = 0.02,
        position_std: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Initialise all weights as GPT-2's were, in place: the first loss is about ln V.

        Weights are normal with mean 0. The two projections of a block that write to the residual
        stream are scaled by 1 / sqrt(2 * n_layers), so that its variance does not grow with depth.
        Biases are 0, and layer norms have no effect. Layers that wrap others (LoRA) keep their own
        parameters.

        Args:
            std: standard deviation of the normal distribution.
            position_std: standard deviation of the position embedding; None means `std`. (OpenAI's
                code has 0.01, later reimplementations 0.02; both train equally well.)
            generator: the random generator; None means PyTorch's global one.

        Source:
            Radford et al. 2019 (GPT-2), section 2.3.
        """
        init_normal(self, self.cfg.n_layers, std, position_std, generator)

    def num_parameters(self, *, head: bool = True, trainable_only: bool = False) -> int:
        """Count the model's parameters (single numbers), a shared one once.

        Args:
            head: whether the output head counts; without it, an untied model has as many as the
                tied one, which is how GPT-2 gets its "124M".
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
