"""The parts that all families' models share: ids in, blocks one after another, a tied head.

The functions take the model; each family's class has methods of the same names that call them.

Shape letters: B batch, T tokens, S tokens in a cache, C emb_dim, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llm_scratch.model.attention import attention_mask_of, check_length
from llm_scratch.model.cache import KVCache

if TYPE_CHECKING:
    from llm_scratch.model.interface import ModelConfig


def placed(
    model: Any,
    in_idx: Tensor,
    cache: KVCache | None,
    attention_mask: Tensor | None,
    positions: Tensor | None,
) -> tuple[Tensor | None, Tensor | slice]:
    """Check a model's inputs; return which token may see which, and the tokens' positions.

    Args:
        model: the model.
        in_idx: (B, T) ids.
        cache: the cache of the S tokens before them.
        attention_mask: as in `LanguageModel.forward`.
        positions: as there; by default they continue from the cache or, with `attention_mask`,
            count the real tokens of each row.

    Returns:
        A mask (B, 1, T, S + T), or None for all earlier tokens; and the positions: a slice if they
        are consecutive, else (T,) or (B, T).

    Raises:
        ValueError: if `in_idx` does not have two dimensions, S + T is above the context length or
            the cache's capacity, or a mask has another shape.
        TypeError: if ids are not integers.
    """
    past = 0 if cache is None else cache.length
    if in_idx.dim() != 2:
        raise ValueError(f"expected ids of shape (batch, tokens), got {tuple(in_idx.shape)}")
    if in_idx.is_floating_point() or in_idx.dtype == torch.bool:
        raise TypeError(f"token ids must be integers, got {in_idx.dtype}")
    B, T = in_idx.shape
    check_length(past + T, model.cfg.context_length)
    if cache is not None:
        cache.check_room(B, T)
    mask = None
    if attention_mask is not None:
        mask = attention_mask_of(attention_mask, B, T, past)
        if positions is None and attention_mask.dim() == 2:
            positions = (attention_mask.bool().cumsum(dim=1) - 1).clamp(min=0)[:, past:]
    return mask, slice(past, past + T) if positions is None else positions


def shared_by_blocks(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """Return a mask in the form that all blocks of a forward pass share; None stays None.

    A kernel turns booleans into numbers that it adds to scores, 0 and -inf, and each block would
    keep its own for the backward pass. With gradients, they are therefore made here, once.

    Args:
        mask: booleans, True where a token may look.
        x: (B, T, C), the input of the first block.
    """
    if mask is None or not torch.is_grad_enabled():
        return mask
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    return added_to_scores(mask, dtype)


def added_to_scores(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask as numbers to add to scores: 0 where a token may look, else -inf."""
    added = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return added.masked_fill_(~mask, float("-inf"))


def embedded(tok_emb: nn.Embedding, in_idx: Tensor) -> Tensor:
    """Embed ids: (B, T) -> (B, T, C).

    Raises:
        ValueError: if an id is outside the vocabulary.
    """
    try:
        return tok_emb(in_idx)
    except IndexError as err:
        size = tok_emb.num_embeddings
        raise ValueError(
            f"ids from {int(in_idx.min())} to {int(in_idx.max())} do not fit a vocabulary of "
            f"{size} (0 to {size - 1}); was another tokenizer used?"
        ) from err


def through_block(model: Any, number: int, block: nn.Module, x: Tensor, **options: Any) -> Tensor:
    """Run a block, recomputed in the backward pass if the model asks for it: (B, T, C) -> same.

    Args:
        model: the model.
        number: the block's number in the model, from 0.
        block: the block.
        x: (B, T, C).
        options: the block's arguments other than x.
    """
    every = model.checkpoint_blocks
    asked = every > 0 and number % every == 0 and model.training and torch.is_grad_enabled()
    if asked and options.get("cache") is None:
        return checkpoint(block, x, use_reentrant=False, **options)
    return block(x, **options)


def new_cache(
    cfg: ModelConfig, weight: Tensor, batch: int, length: int | None, dtype: torch.dtype | None
) -> KVCache:
    """Make an empty cache for a model; see `LanguageModel.new_cache`.

    Raises:
        ValueError: if `length` is above the model's context length or below 1.
    """
    length = cfg.context_length if length is None else length
    if not 1 <= length <= cfg.context_length:
        raise ValueError(
            f"a cache of {length} tokens does not fit a context_length of {cfg.context_length}"
        )
    heads, width = cfg.n_kv_heads, cfg.head_dim
    return KVCache(cfg.n_layers, batch, heads, length, width, dtype or weight.dtype, weight.device)


def num_parameters(model: Any, head: bool, trainable_only: bool) -> int:
    """Count the parameters, a shared one once; see `LanguageModel.num_parameters`."""
    parameters = set(model.parameters())
    if not head:
        parameters -= set(model.out_head.parameters()) - {model.tok_emb.weight}
    return sum(p.numel() for p in parameters if p.requires_grad or not trainable_only)


def keep_tied(model: Any) -> None:
    """Tie the head of a new model to its embedding, and keep it tied when weights are loaded."""
    model.tie_weights()
    model.register_load_state_dict_pre_hook(_fill_tied_head)
    model.register_load_state_dict_post_hook(_tie_after_load)


def is_tied(model: Any) -> bool:
    """Return whether head and embedding are one parameter; a replaced head has its own."""
    head = getattr(model.out_head, "weight", None)
    return model.cfg.tie_weights and head is model.tok_emb.weight


def _fill_tied_head(model: Any, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Use the embedding's tensor for a state dict's head; refuse a head that differs from it."""
    embedding = state_dict.get(prefix + "tok_emb.weight")
    if embedding is None or not is_tied(model):
        return
    head = state_dict.get(prefix + "out_head.weight", embedding)
    if head.shape == embedding.shape and not torch.equal(head, embedding):
        raise ValueError(
            "the state dict holds a head that differs from its token embedding, and this model"
            " ties the two; build it with tie_weights=False"
        )
    if head.shape == embedding.shape:
        state_dict[prefix + "out_head.weight"] = embedding


def _tie_after_load(model: Any, _: Any) -> None:
    """Join two parameters of one tensor again, since `assign=True` wraps it twice."""
    head = getattr(model.out_head, "weight", None)
    embedding = model.tok_emb.weight
    if head is not None and head.shape == embedding.shape:
        if head.data_ptr() == embedding.data_ptr():
            model.tie_weights()
