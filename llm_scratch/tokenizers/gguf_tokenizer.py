"""The byte-level BPE inside of a GGUF file, made into the `tokenizer.json` that says the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llm_scratch.files import PathLike
from llm_scratch.tokenizers.bpe_files import TokenizerFileError
from llm_scratch.tokenizers.bpe_foreign import ForeignBPE
from llm_scratch.tokenizers.known_patterns import LLAMA3_PATTERN, QWEN2_PATTERN
from llm_scratch.tokenizers.tokenizer_json import BYTE_LEVEL, PLAIN_MODEL, foreign_of_json

KEY = "tokenizer.ggml."
NORMAL, CONTROL, USERS_OWN, UNUSED, BYTE = 1, 3, 4, 5, 6
KINDS = {NORMAL, CONTROL, USERS_OWN, BYTE}

_GPT2 = [{**BYTE_LEVEL, "use_regex": True}]
_BY_DIGIT = [{"type": "Digits", "individual_digits": True}, *_GPT2]


def _by_pattern(pattern: str) -> list[dict[str, Any]]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    return [{**split, "invert": False}, {**BYTE_LEVEL, "use_regex": False}]


_LLAMA3_NAMES = ("llama-bpe", "llama3", "llama-v3")

# What the names of splitting rules stand for: the steps of a split, whether a text is brought into
# the form NFC first, and whether a piece that is a token is taken as it is. Files hold no more than
# the name, so that an unknown one can't be guessed.
SPLITS: dict[str, tuple[list[dict[str, Any]], bool, bool]] = {
    **dict.fromkeys(("gpt-2", "phi-2"), (_GPT2, False, False)),
    **dict.fromkeys(("smollm", "starcoder"), (_BY_DIGIT, False, False)),
    **dict.fromkeys(_LLAMA3_NAMES, (_by_pattern(LLAMA3_PATTERN), False, True)),
    "qwen2": (_by_pattern(QWEN2_PATTERN), True, False),
}


def foreign_of_gguf(path: PathLike, metadata: Mapping[str, Any]) -> ForeignBPE:
    """Return the tokenizer in a GGUF file's key-value pairs.

    Tokens that are marked as unused are left out.
    """
    content = tokenizer_json_of(path, metadata)
    data = json.dumps(content, ensure_ascii=False).encode("utf-8")
    return foreign_of_json(path, data, content, ends=_ends(metadata))


def tokenizer_json_of(path: PathLike, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the `tokenizer.json` that says what a GGUF file says.

    Raises:
        TokenizerFileError: if the tokenizer is of another kind, or its splitting rule is unknown.
    """
    if (kind := metadata.get(KEY + "model")) != "gpt2":
        raise TokenizerFileError(
            path,
            f"has a tokenizer of the kind {kind!r} ({KEY}model), which is not read here; 'gpt2', "
            "byte-level BPE, is: give the model's tokenizer.json as tokenizer=",
        )
    if (rule := metadata.get(KEY + "pre")) not in SPLITS:
        raise TokenizerFileError(
            path,
            f"splits text by the rule {rule!r} ({KEY}pre), which is unknown here (known: "
            f"{', '.join(SPLITS)}); give the model's tokenizer.json as tokenizer=",
        )
    steps, nfc, whole = SPLITS[rule]
    tokens = [str(token) for token in metadata[KEY + "tokens"]]
    types = list(map(int, metadata.get(KEY + "token_type") or [NORMAL] * len(tokens)))
    if len(types) != len(tokens):
        raise ValueError(f"{len(types)} types of {len(tokens)} tokens")
    ids = {token: i for i, token in enumerate(tokens) if types[i] in KINDS}
    added = [(i, token) for i, token in enumerate(tokens) if types[i] in (CONTROL, USERS_OWN)]
    if len(ids) + types.count(UNUSED) < len(tokens):
        raise ValueError("a token stands there twice, or is of an unknown type")
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(i, token, types[i] == CONTROL) for i, token in added],
        "normalizer": {"type": "NFC"} if nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": _post_processor(tokens, metadata),
        "decoder": {**BYTE_LEVEL, "use_regex": True},
        "model": {
            **PLAIN_MODEL,
            "ignore_merges": whole,
            "vocab": ids,
            "merges": [_pair(merge) for merge in metadata[KEY + "merges"]],
        },
    }


def _pair(merge: str) -> list[str]:
    left, right = merge.split(" ")
    return [left, right]


def _added(number: int, content: str, special: bool) -> dict[str, Any]:
    plainly = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, **plainly, "special": special}


def _ends(metadata: Mapping[str, Any]) -> dict[str, int]:
    """Return the ids of the marks that the file names, under the names that tokenizers have."""
    keys = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    ids = {name: metadata.get(f"{KEY}{mark}_token_id") for name, mark in keys.items()}
    count = len(metadata[KEY + "tokens"])
    return {name: int(i) for name, i in ids.items() if i is not None and 0 <= int(i) < count}


def _post_processor(tokens: list[str], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the template that puts a mark in front of a text, where the file asks for it."""
    bos = _ends(metadata).get("bos_token_id")
    if bos is None or not metadata.get(KEY + "add_bos_token"):
        return {**BYTE_LEVEL, "trim_offsets": False, "use_regex": True}
    text = [{"Sequence": {"id": part, "type_id": i}} for i, part in enumerate("AB")]
    mark: list[dict[str, Any]] = [{"SpecialToken": {"id": tokens[bos], "type_id": 0}}]
    return {
        "type": "TemplateProcessing",
        "single": [*mark, text[0]],
        "pair": [*mark, *text],
        "special_tokens": {tokens[bos]: {"id": tokens[bos], "ids": [bos], "tokens": [tokens[bos]]}},
    }
