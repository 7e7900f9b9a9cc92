"""The byte-level BPE in a GGUF file, read and written.

It is read as the equivalent `tokenizer.json`. Reading and writing share one table of llama.cpp's
names for the rules that split texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from llm_scratch.files import PathLike
from llm_scratch.foreign import check_settings
from llm_scratch.tokenizers.bpe_files import TokenizerFileError
from llm_scratch.tokenizers.bpe_foreign import ForeignBPE
from llm_scratch.tokenizers.bpe_merging import SelfMade, merge_piece
from llm_scratch.tokenizers.bpe_splitting import Splitting
from llm_scratch.tokenizers.bpe_vocabulary import Vocabulary, spell
from llm_scratch.tokenizers.known_patterns import LLAMA3_PATTERN, QWEN2_PATTERN
from llm_scratch.tokenizers.simple import END_OF_TEXT
from llm_scratch.tokenizers.tokenizer_json import BYTE_LEVEL, PLAIN_MODEL, foreign_of_json
from llm_scratch.tokenizers.tokenizer_json_parts import read_steps

KEY = "tokenizer.ggml."
NORMAL, CONTROL, USERS_OWN, UNUSED, BYTE = 1, 3, 4, 5, 6
KINDS = {NORMAL, CONTROL, USERS_OWN, BYTE}

_GPT2 = [{**BYTE_LEVEL, "use_regex": True}]
_BY_DIGIT = [{"type": "Digits", "individual_digits": True}, *_GPT2]


def _by_pattern(pattern: str) -> list[dict[str, Any]]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    return [{**split, "invert": False}, {**BYTE_LEVEL, "use_regex": False}]


_LLAMA3_NAMES = ("llama-bpe", "llama3", "llama-v3")

# The meaning of the names of splitting rules: the steps of a split, whether a text is first
# normalised to NFC, and whether a piece that is a token becomes it without merging. Files hold only
# the name, so an unknown one cannot be guessed. Of several names for a rule, the first is written.
# (The models' own tokenizers normalise to NFC; llama.cpp never does.)
SPLITS: dict[str, tuple[list[dict[str, Any]], bool, bool]] = {
    **dict.fromkeys(("gpt-2", "phi-2"), (_GPT2, False, False)),
    "olmo": (_GPT2, True, False),
    **dict.fromkeys(("smollm", "starcoder"), (_BY_DIGIT, False, False)),
    **dict.fromkeys(_LLAMA3_NAMES, (_by_pattern(LLAMA3_PATTERN), False, True)),
    "smaug-bpe": (_by_pattern(LLAMA3_PATTERN), False, False),
    "qwen2": (_by_pattern(QWEN2_PATTERN), True, False),
    "grok-2": (_by_pattern(QWEN2_PATTERN), False, False),
}

# Special tokens that begin or end a text if a vocabulary has them and does not say otherwise.
_BEGINS_OF_TEXT = ("<|begin_of_text|>", "<s>")
_ENDS_OF_TEXT = (END_OF_TEXT, "<|end_of_text|>", "</s>")


def foreign_of_gguf(path: PathLike, metadata: Mapping[str, Any]) -> ForeignBPE:
    """Return the tokenizer in a GGUF file's key-value pairs.

    Tokens marked as unused are left out.
    """
    content = tokenizer_json_of(path, metadata)
    data = json.dumps(content, ensure_ascii=False).encode("utf-8")
    return foreign_of_json(path, data, content, ends=_ends(metadata))


def tokenizer_json_of(path: PathLike, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the `tokenizer.json` that is equivalent to a GGUF file's keys.

    Raises:
        TokenizerFileError: if the tokenizer is of another kind, or its splitting rule is unknown.
    """
    if (kind := metadata.get(KEY + "model")) != "gpt2":
        raise TokenizerFileError(
            path,
            f"has a tokenizer of the kind {kind!r} ({KEY}model), which is not supported; 'gpt2', "
            "byte-level BPE, is: pass the model's tokenizer.json as tokenizer=",
        )
    if (rule := metadata.get(KEY + "pre")) not in SPLITS:
        raise TokenizerFileError(
            path,
            f"splits text by the unknown rule {rule!r} ({KEY}pre; known: "
            f"{', '.join(SPLITS)}); pass the model's tokenizer.json as tokenizer=",
        )
    steps, nfc, whole = SPLITS[rule]
    tokens = [str(token) for token in metadata[KEY + "tokens"]]
    types = list(map(int, metadata.get(KEY + "token_type") or [NORMAL] * len(tokens)))
    if len(types) != len(tokens):
        raise ValueError(f"it has {len(types)} token types for {len(tokens)} tokens")
    ids = {token: i for i, token in enumerate(tokens) if types[i] in KINDS}
    added = [(i, token) for i, token in enumerate(tokens) if types[i] in (CONTROL, USERS_OWN)]
    if len(ids) + types.count(UNUSED) < len(tokens):
        raise ValueError("it lists a token twice, or one of an unknown type")
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
    """Return the ids of the marks that the file names, under the names that tokenizers use."""
    keys = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    ids = {name: metadata.get(f"{KEY}{mark}_token_id") for name, mark in keys.items()}
    count = len(metadata[KEY + "tokens"])
    return {name: int(i) for name, i in ids.items() if i is not None and 0 <= int(i) < count}


def _post_processor(tokens: list[str], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the template that puts a mark before a text, if the file asks for it."""
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


def keys_of_bpe(
    vocabulary: Vocabulary,
    splitting: Splitting,
    foreign: ForeignBPE | None,
    ends: Mapping[str, int],
    n_ids: int,
) -> dict[str, Any]:
    """Return the key-value pairs that describe a byte-level BPE in a GGUF file.

    Args:
        vocabulary: the numbers of its tokens.
        splitting: how it splits a text.
        foreign: the foreign tokenizer it came from, None for one of this library.
        ends: the ids under the names bos_token_id, eos_token_id and pad_token_id, if known.
        n_ids: the model's number of ids; those without a token are filled.

    Raises:
        ValueError: if llama.cpp has no name for its splitting rule, or a file cannot hold its
            tokens, marks or merges.
    """
    if not vocabulary.pairs:
        raise ValueError(
            "a vocabulary of bytes alone has no merges, and llama.cpp does not open a file without "
            "them; use a tokenizer with at least one merge"
        )
    if n_ids <= (highest := max(vocabulary.tokens)):
        raise ValueError(f"{n_ids=} must be above {highest}, the highest id of a token")
    tokens, types = _tokens_of(vocabulary, n_ids)
    special = vocabulary.special
    eos = _first(ends.get("eos_token_id"), *map(special.get, _ENDS_OF_TEXT))
    if eos is None:
        raise ValueError(
            "no special token ends a text, and llama.cpp would use the one with id 11; "
            f"train the tokenizer with special_tokens=({END_OF_TEXT!r},)"
        )
    begins = map(special.get, (*_BEGINS_OF_TEXT, END_OF_TEXT))
    bos, pad = _first(ends.get("bos_token_id"), *begins, eos), ends.get("pad_token_id")
    pairs = {
        "model": "gpt2",
        "pre": rule_of(vocabulary, splitting, foreign),
        "tokens": tokens,
        "token_type": types,
        "merges": [f"{spell(left)} {spell(right)}" for left, right in vocabulary.merges],
        "bos_token_id": bos,
        "eos_token_id": eos,
        **({} if pad is None else {"padding_token_id": pad}),
        "add_bos_token": foreign is not None and foreign.begins,
    }
    return {KEY + name: value for name, value in pairs.items()}


def _first(*ids: int | None) -> int | None:
    return next((i for i in ids if i is not None), None)


def _tokens_of(vocabulary: Vocabulary, n_ids: int) -> tuple[list[str], list[int]]:
    """Return the text and the kind of every id; ids without a token count as unused."""
    special, words = vocabulary.special, vocabulary.words
    texts = {i: spell(token) for token, i in vocabulary.ordinary.items()}
    kinds = dict.fromkeys(texts, NORMAL)
    for added, kind in ((special, CONTROL), (words, USERS_OWN)):
        for text, i in added.items():
            if texts.setdefault(i, text) != text:
                raise ValueError(
                    f"{text!r} is an added token and also made by merges, which GGUF files spell "
                    f"{texts[i]!r}; they cannot hold both, so use a tokenizer without it"
                )
            kinds[i] = kind
    taken = set(texts.values())
    if len(taken) < len(texts):
        twice = next(t for t in (*special, *words) if list(texts.values()).count(t) > 1)
        raise ValueError(
            f"the added token {twice!r} is spelled like another token, which llama.cpp refuses; "
            "use a tokenizer that spells it differently"
        )
    for i in range(n_ids):
        if i not in texts:
            filled = f"[PAD{i}]"
            while filled in taken:
                filled = f"[{filled}]"
            texts[i], kinds[i] = filled, UNUSED
    return [texts[i] for i in range(n_ids)], [kinds[i] for i in range(n_ids)]


def rule_of(vocabulary: Vocabulary, splitting: Splitting, foreign: ForeignBPE | None) -> str:
    """Return llama.cpp's name for the rule by which a tokenizer splits texts.

    Raises:
        ValueError: if it has none.
    """
    split = splitting.pattern or splitting.steps
    nfc, whole = (False, True) if foreign is None else (foreign.nfc, foreign.whole)
    names = {
        rule_whole: name
        for name, (steps, rule_nfc, rule_whole) in reversed(SPLITS.items())
        if rule_nfc == nfc and _split_of(steps) == split
    }
    if not names:
        form = " after NFC" if nfc else ""
        raise ValueError(
            f"texts are split by {str(split)[:200]}{form}, for which llama.cpp has no name "
            f"(it has {', '.join(SPLITS)}); use a tokenizer with one of these rules"
        )
    if whole not in names and (unmade := _unmade(vocabulary)):
        taken, name = next(iter(names.items()))
        raise ValueError(
            f"{len(unmade)} tokens, such as {unmade[0]!r}, are not what their bytes merge to, and "
            f"llama.cpp's rule {name!r} {'takes' if taken else 'does not take'} them whole, unlike "
            "this tokenizer"
        )
    return names.get(whole) or next(iter(names.values()))


def _split_of(steps: list[dict[str, Any]]) -> Any:
    """Return what identifies a split: its pattern, or its steps."""
    sequence = {"type": "Sequence", "pretokenizers": steps}
    split = Splitting(read_steps("a rule", sequence, partial(check_settings, "a rule")))
    return split.pattern or split.steps


def _unmade(vocabulary: Vocabulary) -> list[bytes]:
    """Return the tokens that the merges do not make from their bytes."""
    sure, ids = SelfMade(vocabulary.pairs, vocabulary.made), vocabulary.ordinary
    return [
        token
        for token, i in ids.items()
        if i not in sure
        and merge_piece([ids[bytes([b])] for b in token], vocabulary.pairs, vocabulary.made) != [i]
    ]
