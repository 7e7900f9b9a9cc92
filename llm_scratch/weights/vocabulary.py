"""Adding special tokens to the vocabulary of a tokenizer and its model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_scratch.model.families import language_model
from llm_scratch.model.resizing import grow_vocabulary, start_at_mean
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.growing import free_ids, with_special_tokens
from llm_scratch.tokenizers.wrapped import WrappedTokenizer
from llm_scratch.weights.export import as_exportable
from llm_scratch.weights.folder import check_vocabulary, tensors_of

MULTIPLE = 64
"""The number of which a grown vocabulary's size is a multiple, which makes kernels faster."""


def add_tokens(
    model: Any, tokenizer: Any, tokens: Sequence[str]
) -> BytePairTokenizer | WrappedTokenizer:
    """Add rows for more special tokens to the model, in place; return the tokenizer with them.

    Unused rows of the model are taken first; only beyond them does its vocabulary grow, to a
    multiple of 64. In the embedding, and in an untied head, each new row starts at the mean of the
    others. Training the whole model learns them; LoRA leaves them at the mean.

    Args:
        model: a language model without LoRA.
        tokenizer: the model's tokenizer, one of this library's or GPT-2's.
        tokens: special tokens; those that the tokenizer already has are unchanged.

    Raises:
        ValueError: if a token is empty or already another kind of token, if the model has LoRA or
            a head for classes, or if model and tokenizer do not belong together.
        TypeError: if the tokenizer is of another kind.
    """
    if isinstance(tokens, str):
        raise TypeError("tokens is one text; give a list of them")
    inner: Any = language_model(model)
    tensors_of(inner)  # refuses LoRA
    known = as_exportable(tokenizer)
    check_vocabulary(inner, known)
    new = [token for token in dict.fromkeys(tokens) if token not in known.special_tokens]
    if not new:
        return known
    size = inner.cfg.vocab_size
    free = free_ids(known, size)
    ids = [*free, *range(size, size + len(new))][: len(new)]
    made = with_special_tokens(known, dict(zip(new, ids, strict=True)))
    others = sorted(set(range(size)) - set(free))
    if ids[-1] >= size:
        grow_vocabulary(inner, -(-(ids[-1] + 1) // MULTIPLE) * MULTIPLE)
    start_at_mean(inner, ids, others)
    return made
