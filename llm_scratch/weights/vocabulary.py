"""Special tokens for a vocabulary that lacks them: a tokenizer and a model that have them too."""

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
"""A vocabulary that grows has so many rows, or twice as many, and so on: kernels like it."""


def add_tokens(
    model: Any, tokenizer: Any, tokens: Sequence[str]
) -> BytePairTokenizer | WrappedTokenizer:
    """Return the tokenizer with more special tokens, and give the model, in place, rows for them.

    Rows of the model that no token has are taken first; only beyond them its vocabulary grows, to a
    multiple of 64. In the embedding, and in a head of its own, each new row starts at the mean of
    the others. They are learned by training the whole model: LoRA leaves them at the mean.

    Args:
        model: a language model without LoRA.
        tokenizer: its own; one of this library's, or GPT-2's.
        tokens: special tokens; those that the tokenizer has are left as they are.

    Raises:
        ValueError: if a token is empty or another kind of token already, if the model has LoRA or
            a head for classes, or if the two do not belong together.
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
