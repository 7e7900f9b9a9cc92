"""Hugging Face's `tokenizer.json`, for byte-level BPE: read and written.

`tokenizer_json_parts` reads how a file splits texts and what it does before and after.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llm_scratch.files import PathLike, parse_json, read_bytes, write_text
from llm_scratch.foreign import NOTHING, OFF, USED, Rule, check_settings
from llm_scratch.tokenizers.bpe_files import (
    LONGEST_FILE,
    Recipe,
    TokenizerFileError,
    spelled_ids,
)
from llm_scratch.tokenizers.bpe_foreign import ForeignBPE, foreign_vocabulary
from llm_scratch.tokenizers.bpe_splitting import Splitting
from llm_scratch.tokenizers.bpe_vocabulary import BYTE_TOKENS, number_special_tokens, spell
from llm_scratch.tokenizers.gpt2 import GPT2_PATTERN
from llm_scratch.tokenizers.tokenizer_json_parts import (
    Check,
    begin_of_text,
    check_decoder,
    is_nfc,
    read_steps,
    without,
)

# How each key is treated. (Truncation and padding do not belong to the ids of a text; transformers
# leaves them out too. Of the marks that are put around texts, the one that begins a text is noted,
# and never added. Since every byte has a token, none is unknown, so `unk_token` and similar keys
# have no effect.)
_RULES: dict[str, Rule] = {
    **dict.fromkeys(("added_tokens", "pre_tokenizer", "post_processor", "model", "decoder"), USED),
    **dict.fromkeys(("version", "truncation", "padding"), NOTHING),
    "normalizer": OFF,
}
_MODEL: dict[str, Rule] = {
    **dict.fromkeys(("vocab", "merges"), USED),
    "type": ("BPE",),
    **dict.fromkeys(("dropout", "continuing_subword_prefix", "end_of_word_suffix"), OFF),
    **dict.fromkeys(("unk_token", "fuse_unk", "byte_fallback"), NOTHING),
    "ignore_merges": USED,
}
_ADDED: dict[str, Rule] = {
    **dict.fromkeys(("id", "content", "special", "normalized"), USED),
    **dict.fromkeys(("single_word", "lstrip", "rstrip"), OFF),
}
PLAIN_MODEL: dict[str, Any] = {
    "type": "BPE",
    "dropout": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "unk_token": None,
    "fuse_unk": False,
    "byte_fallback": False,
}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def write_tokenizer_json(recipe: Recipe, path: PathLike) -> None:
    """Write a `tokenizer.json` that `tokenizers.Tokenizer.from_file` reads."""
    plainly = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special, words = recipe.vocabulary().special, recipe.added_words
    by_id = sorted({**special, **words}.items(), key=lambda item: item[1])
    added = [{"id": i, "content": t, "special": t in special, **plainly} for t, i in by_id]
    split: dict[str, Any] = {**BYTE_LEVEL, "use_regex": True}
    if recipe.pattern != GPT2_PATTERN:
        by_pattern = {"type": "Split", "pattern": {"Regex": recipe.pattern}}
        first = {**by_pattern, "behavior": "Isolated", "invert": False}
        then = {**BYTE_LEVEL, "use_regex": False}
        split = {"type": "Sequence", "pretokenizers": [first, then]}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": split,
        "post_processor": {**BYTE_LEVEL, "trim_offsets": False, "use_regex": True},
        "decoder": {**BYTE_LEVEL, "use_regex": True},
        "model": {
            **PLAIN_MODEL,
            "ignore_merges": True,
            "vocab": spelled_ids(recipe.vocabulary()),
            "merges": [[spell(left), spell(right)] for left, right in recipe.merges],
        },
    }
    write_text(path, json.dumps(content, ensure_ascii=False))


def read_tokenizer_json(path: PathLike, ignore_keys: Collection[str] = ()) -> ForeignBPE:
    """Read the file of a byte-level BPE."""
    data = read_bytes(path, most_bytes=LONGEST_FILE)
    return foreign_of_json(path, data, parse_json(path, data), ignore_keys)


def foreign_of_json(
    path: PathLike,
    data: bytes,
    content: Mapping[str, Any],
    ignore_keys: Collection[str] = (),
    ends: Mapping[str, int] = MappingProxyType({}),
) -> ForeignBPE:
    """Return the tokenizer that a file's content describes.

    The marks that a template puts around a text are left out: `encode` returns the ids of the text
    alone.

    Args:
        path: the file's name in errors.
        data: the file's bytes.
        content: the JSON in the bytes.
        ignore_keys: settings to ignore; a file saved later does not contain them.
        ends: ids of marks under the names bos_token_id, eos_token_id and pad_token_id.
    """
    if ignore_keys:
        check_settings(path, {}, {}, ignore_keys=ignore_keys)  # refuses a single str
        content = without(content, frozenset(ignore_keys))
        data = json.dumps(content, ensure_ascii=False).encode("utf-8")
    check = partial(check_settings, path, error=TokenizerFileError)
    nfc = is_nfc(content.get("normalizer"))
    checked = check({**content, "normalizer": None} if nfc is not None else content, _RULES)
    model = check({"type": "BPE", **checked["model"]}, _MODEL, where="model")
    check_decoder(checked.get("decoder"), check)
    special, words = _added_tokens(path, checked.get("added_tokens") or [], bool(nfc), check)
    vocabulary = foreign_vocabulary(model["vocab"], model["merges"], special, words)
    if len(BYTE_TOKENS) > sum(token in vocabulary.ordinary for token in BYTE_TOKENS):
        lacking = {key: OFF for key in ("unk_token", "byte_fallback")}
        check({key: model.get(key) for key in lacking}, lacking, where="model")
    begin = begin_of_text(checked.get("post_processor"))
    return ForeignBPE(
        data,
        Path(path).stem,
        vocabulary,
        Splitting(read_steps(path, checked.get("pre_tokenizer"), check)),
        whole=bool(model.get("ignore_merges")),
        nfc=bool(nfc),
        ends={**begin, **ends},
        begins=bool(begin),
    )


def _added_tokens(
    path: PathLike, added: list[Mapping[str, Any]], nfc: bool, check: Check
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the special tokens and the other added words with their ids."""
    keys = {key for token in added for key in token}
    having = {key: [t["content"] for t in added if t.get(key)] for key in sorted(keys)}
    # A search in the normal form may find a word that the text as given does not contain.
    check(having, {**_ADDED, "normalized": OFF if nfc else USED}, where="added_tokens")
    ids = number_special_tokens({token["content"]: token["id"] for token in added}, first=0)
    special = {t["content"]: ids[t["content"]] for t in added if t.get("special")}
    words = {word: i for word, i in ids.items() if word not in special}
    later = set(having.get("normalized", ()))
    _refuse_overlaps(path, ids.keys() - later, later)
    return special, words


def _refuse_overlaps(path: PathLike, first: set[str], later: set[str]) -> None:
    """Refuse added words that overlap and that `tokenizers` looks for in two passes.

    Words without "normalized" come first, even if one with it begins earlier in the text.
    """
    for one, other in product(first, later):
        lengths = range(1, min(len(one), len(other)))
        meets = any(one[:n] == other[-n:] or other[:n] == one[-n:] for n in lengths)
        if meets or one in other or other in one:
            raise TokenizerFileError(
                path, f'{one!r} and {other!r} overlap, and only one of them is "normalized"'
            )
