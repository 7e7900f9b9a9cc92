"""Tokenizers with additional special tokens; all other ids stay the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llm_scratch.files import parse_json
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.wrapped import WrappedTokenizer

Tokenizer = BytePairTokenizer | WrappedTokenizer


def free_ids(tokenizer: Tokenizer, size: int) -> list[int]:
    """Return the ids below a size that no token of a vocabulary has, in order."""
    return [*(i for i in tokenizer.unused_ids if i < size), *range(tokenizer.n_vocab, size)]


def with_special_tokens(tokenizer: Tokenizer, ids: Mapping[str, int]) -> Tokenizer:
    """Return a tokenizer with additional special tokens, under free ids.

    Args:
        tokenizer: the tokenizer to extend, which stays unchanged.
        ids: special token -> id.

    Raises:
        ValueError: if a token is empty, or is an added word of the tokenizer, or if a vocabulary
            of its kind cannot have these ids.
    """
    for token in ids:
        if not token.strip():
            raise ValueError(f"the special token {token!r} is empty; use a text such as <|end|>")
        if token in tokenizer.added_words:
            raise ValueError(
                f"{token!r} is already a word of the vocabulary, which texts may hold; choose "
                "another text for the special token"
            )
    content = parse_json(tokenizer.name, tokenizer.to_bytes())
    if isinstance(tokenizer, BytePairTokenizer) and "model" not in content:
        recipe = tokenizer.recipe
        return BytePairTokenizer(
            *recipe._replace(special_tokens={**tokenizer.special_tokens, **ids})
        )
    data = json.dumps(_with_added(content, ids), ensure_ascii=False).encode("utf-8")
    if isinstance(tokenizer, BytePairTokenizer):
        return BytePairTokenizer.from_bytes(data, tokenizer.name, tokenizer.ends)
    made = WrappedTokenizer(data, tokenizer.name, tokenizer.ends)
    if wrong := [token for token, i in ids.items() if made.special_tokens.get(token) != i]:
        raise ValueError(f"{tokenizer!r} cannot give {wrong[0]!r} the id {ids[wrong[0]]}")
    return made


def _with_added(content: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the content of a `tokenizer.json` with additional special tokens."""
    plainly = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    more = [{"id": i, "content": token, **plainly, "special": True} for token, i in ids.items()]
    before, model = content.get("added_tokens") or [], content["model"]
    if isinstance(model.get("vocab"), dict):  # only this kind may have gaps between ids
        model = {**model, "vocab": {**model["vocab"], **ids}}
    added = sorted([*before, *more], key=lambda each: each["id"])
    return {**content, "added_tokens": added, "model": model}
