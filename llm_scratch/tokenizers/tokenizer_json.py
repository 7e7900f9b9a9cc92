"""Hugging Face's `tokenizer.json`, for byte-level BPE: read and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_scratch.files import PathLike, write_text
from llm_scratch.tokenizers.bpe_files import (
    Recipe,
    TokenizerFileError,
    read_tokenizer_file,
    recipe_of_words,
    spelled_ids,
)
from llm_scratch.tokenizers.bpe_vocabulary import spell
from llm_scratch.tokenizers.gpt2 import GPT2_PATTERN

# What would change the ids. (Not among it: what is done with unknown bytes, as none are; and
# ignore_merges, which takes a piece that is a token as it is: `recipe_of_words` sees to it that the
# merges come to the same.)
_PLAIN_MODEL = {
    "type": "BPE",
    "dropout": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
}
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def write_tokenizer_json(recipe: Recipe, path: PathLike) -> None:
    """Write a `tokenizer.json` that `tokenizers.Tokenizer.from_file` reads."""
    plainly = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    by_id = sorted(recipe.vocabulary().special.items(), key=lambda item: item[1])
    added = [{"id": i, "content": token, "special": True, **plainly} for token, i in by_id]
    split: dict[str, Any] = {**_BYTE_LEVEL, "use_regex": True}
    if recipe.pattern != GPT2_PATTERN:
        by_pattern = {"type": "Split", "pattern": {"Regex": recipe.pattern}}
        first = {**by_pattern, "behavior": "Isolated", "invert": False}
        then = {**_BYTE_LEVEL, "use_regex": False}
        split = {"type": "Sequence", "pretokenizers": [first, then]}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": split,
        "post_processor": {**_BYTE_LEVEL, "trim_offsets": False, "use_regex": True},
        "decoder": {**_BYTE_LEVEL, "use_regex": True},
        "model": {
            **_PLAIN_MODEL,
            "unk_token": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": spelled_ids(recipe),
            "merges": [[spell(left), spell(right)] for left, right in recipe.merges],
        },
    }
    write_text(path, json.dumps(content, ensure_ascii=False))


def read_tokenizer_json(path: PathLike) -> Recipe:
    """Read a `tokenizer.json` with a byte-level BPE.

    What a template puts around a text is left out: `encode` gives the ids of the text alone.
    """
    content = read_tokenizer_file(path)
    model = content["model"]
    for key, plain in _PLAIN_MODEL.items():
        if (model.get(key) or plain) != plain:
            raise TokenizerFileError(path, f"is no byte-level BPE: its {key} is {model[key]!r}")
    if content.get("normalizer") is not None:
        raise TokenizerFileError(path, "changes the text before it is encoded (normalizer)")
    special = {}
    for token in content.get("added_tokens") or []:
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
            raise TokenizerFileError(path, f"{token['content']!r} takes in the blanks around it")
        special[token["content"]] = token["id"]
    pattern = _pattern_of(path, content.get("pre_tokenizer") or {})
    return recipe_of_words(model["vocab"], model["merges"], special, pattern, Path(path).stem)


def _pattern_of(path: PathLike, split: Mapping[str, Any]) -> str:
    """Return the pattern of a pre-tokenizer: ByteLevel's own, or the one that stands before it."""
    steps = split["pretokenizers"] if split.get("type") == "Sequence" else [split]
    kinds = [step.get("type") for step in steps]
    if kinds[-1:] == ["ByteLevel"] and not steps[-1].get("add_prefix_space"):
        by_itself = steps[-1].get("use_regex", True)
        if kinds == ["ByteLevel"] and by_itself:
            return GPT2_PATTERN
        if kinds == ["Split", "ByteLevel"] and not by_itself:
            first = steps[0]
            if first.get("behavior") == "Isolated" and not first.get("invert"):
                return first["pattern"]["Regex"]
    raise TokenizerFileError(
        path,
        f"splits text by {' + '.join(map(str, kinds))}, which this library does not know; it reads "
        "ByteLevel without a prefix space, alone or behind one isolating Split",
    )
