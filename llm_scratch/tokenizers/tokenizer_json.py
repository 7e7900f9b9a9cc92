"""Hugging Face's `tokenizer.json`, for byte-level BPE: read and written."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from llm_scratch.files import PathLike, write_text
from llm_scratch.foreign import NOTHING, OFF, USED, Rule, check_settings
from llm_scratch.tokenizers.bpe_files import (
    Recipe,
    TokenizerFileError,
    read_tokenizer_file,
    recipe_of_words,
    spelled_ids,
)
from llm_scratch.tokenizers.bpe_vocabulary import spell
from llm_scratch.tokenizers.gpt2 import GPT2_PATTERN

# What becomes of each key. (No byte is unknown, so `unk_token` and its like do nothing; nor does
# `ignore_merges`, which takes a piece that is a token as it is: `recipe_of_words` sees to it that
# the merges come to the same. What cuts or fills up texts, or puts marks around them, is no part of
# the ids of a text: transformers leaves the first two out as well.)
_RULES: dict[str, Rule] = {
    **dict.fromkeys(("added_tokens", "pre_tokenizer", "model"), USED),
    **dict.fromkeys(("version", "truncation", "padding", "post_processor"), NOTHING),
    "normalizer": OFF,
    "decoder": USED,
}
_MODEL: dict[str, Rule] = {
    **dict.fromkeys(("vocab", "merges"), USED),
    "type": ("BPE",),
    **dict.fromkeys(("dropout", "continuing_subword_prefix", "end_of_word_suffix"), OFF),
    **dict.fromkeys(("unk_token", "fuse_unk", "byte_fallback", "ignore_merges"), NOTHING),
}
_ADDED: dict[str, Rule] = {
    **dict.fromkeys(("id", "content", "special", "normalized"), USED),
    **dict.fromkeys(("single_word", "lstrip", "rstrip"), OFF),
}
_BYTE_LEVEL_RULES: dict[str, Rule] = {
    "type": ("ByteLevel",),
    "add_prefix_space": OFF,
    "use_regex": USED,
    "trim_offsets": NOTHING,
}
_SPLIT: dict[str, Rule] = {
    "type": ("Split",),
    "pattern": USED,
    "behavior": ("Isolated",),
    "invert": OFF,
}
_PLAIN_MODEL: dict[str, Any] = {
    "type": "BPE",
    "dropout": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
}
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def write_tokenizer_json(recipe: Recipe, path: PathLike) -> None:
    """Write a `tokenizer.json` that `tokenizers.Tokenizer.from_file` reads."""
    plainly = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special, words = recipe.vocabulary().special, recipe.added_words
    by_id = sorted({**special, **words}.items(), key=lambda item: item[1])
    added = [{"id": i, "content": t, "special": t in special, **plainly} for t, i in by_id]
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


def read_tokenizer_json(path: PathLike, ignore_keys: Collection[str] = ()) -> Recipe:
    """Read a `tokenizer.json` with a byte-level BPE.

    What a template puts around a text is left out: `encode` gives the ids of the text alone.
    """
    check = partial(check_settings, path, ignore_keys=ignore_keys, error=TokenizerFileError)
    content = check(read_tokenizer_file(path), _RULES)
    model = check({"type": "BPE", **content["model"]}, _MODEL, where="model")
    if (decoder := content.get("decoder")) is not None:
        check(decoder, {**_BYTE_LEVEL_RULES, "add_prefix_space": NOTHING}, where="decoder")
    added = content.get("added_tokens") or []
    keys = {key for token in added for key in token}
    having = {key: [t["content"] for t in added if t.get(key)] for key in sorted(keys)}
    check(having, _ADDED, where="added_tokens")
    special = {token["content"]: token["id"] for token in added if token.get("special")}
    words = {token["content"]: token["id"] for token in added if not token.get("special")}
    later = set(having.get("normalized", ()))
    _refuse_overlaps(path, {*special, *words} - later, later)
    pattern = _pattern_of(path, content.get("pre_tokenizer") or {}, check)
    name = Path(path).stem
    return recipe_of_words(model["vocab"], model["merges"], special, pattern, name, words)


def _refuse_overlaps(path: PathLike, first: set[str], later: set[str]) -> None:
    """Refuse added words that `tokenizers` looks for one after the other where it matters.

    Those without "normalized" come first, even where one with it begins earlier in the text.
    """
    for one, other in product(first, later):
        lengths = range(1, min(len(one), len(other)))
        meets = any(one[:n] == other[-n:] or other[:n] == one[-n:] for n in lengths)
        if meets or one in other or other in one:
            raise TokenizerFileError(
                path, f'{one!r} and {other!r} overlap, and only one of them is "normalized"'
            )


def _pattern_of(path: PathLike, split: Mapping[str, Any], check: Callable[..., Any]) -> str:
    """Return the pattern of a pre-tokenizer: ByteLevel's own, or the one that stands before it."""
    steps = split["pretokenizers"] if split.get("type") == "Sequence" else [split]
    kinds = [step.get("type") for step in steps]
    by_itself = steps[-1].get("use_regex", True) if steps else False
    if kinds == ["ByteLevel"] and by_itself:
        check(steps[0], _BYTE_LEVEL_RULES, where="pre_tokenizer")
        return GPT2_PATTERN
    if kinds == ["Split", "ByteLevel"] and not by_itself:
        check(steps[0], _SPLIT, where="pre_tokenizer")
        check(steps[1], _BYTE_LEVEL_RULES, where="pre_tokenizer")
        check(steps[0]["pattern"], {"Regex": USED}, where="pre_tokenizer.pattern")
        return str(steps[0]["pattern"]["Regex"])
    raise TokenizerFileError(
        path,
        f"splits text by {' + '.join(map(str, kinds))} (pre_tokenizer), which this library does "
        "not know; it reads ByteLevel without a prefix space, alone or behind one isolating Split",
    )
