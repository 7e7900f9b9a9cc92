"""Vocabularies as files: this library's JSON, OpenAI's two formats and Hugging Face's.

Each reader gives a `Recipe`, from which `BytePairTokenizer(**recipe._asdict())` is made.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_scratch.files import read_json, write_text
from llm_scratch.tokenizers.bpe_vocabulary import (
    BYTE_TOKENS,
    SpecialTokens,
    build_vocabulary,
    recover_merges,
    spell,
    unspell,
)
from llm_scratch.tokenizers.gpt2 import END_OF_TEXT, GPT2_PATTERN

if TYPE_CHECKING:
    from llm_scratch.tokenizers.bpe import BytePairTokenizer

PathLike = str | os.PathLike[str]

LONGEST_FILE = 256 << 20
FORMAT, VERSION = "llm_scratch.BytePairTokenizer", 1


class TokenizerFileError(ValueError):
    """A tokenizer file that is damaged, incomplete, or of another kind than asked for."""


class Recipe(NamedTuple):
    """What makes a tokenizer: the arguments of `BytePairTokenizer`."""

    merges: list[tuple[bytes, bytes]]
    special_tokens: SpecialTokens
    pattern: str
    name: str


def read_tokenizer_file(path: PathLike) -> dict[str, Any]:
    """Return the object in a tokenizer's JSON file; those of large vocabularies have 17 MB."""
    return read_json(path, most_bytes=LONGEST_FILE)


@contextmanager
def file_errors(path: object, kind: str) -> Iterator[None]:
    """Turn whatever a damaged file makes its reader raise into one `TokenizerFileError`."""
    try:
        yield
    except (OSError, TokenizerFileError):
        raise
    except Exception as err:  # a foreign file can break its reader in any way
        cause = f"key {err} is missing" if type(err) is KeyError else str(err) or type(err).__name__
        raise TokenizerFileError(
            f"{path} is not a whole {kind}: {cause.splitlines()[0]}; save or download it again"
        ) from err


# This library's own file: JSON with a version and a checksum.


def write_saved(tokenizer: BytePairTokenizer, path: PathLike) -> None:
    """Write a tokenizer as JSON: merges as pairs of token numbers, tokens spelled for the eye."""
    numbers = {token: i for i, token in enumerate(BYTE_TOKENS)}
    numbers |= {left + right: 256 + i for i, (left, right) in enumerate(tokenizer.merges)}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "name": tokenizer.name,
        "pattern": tokenizer.pattern,
        "special_tokens": tokenizer.special_tokens,
        "merges": [[numbers[left], numbers[right]] for left, right in tokenizer.merges],
        "tokens": [spell(token) for token in numbers],
    }
    content["sha256"] = _checksum(content)
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    write_text(path, f"{{\n{lines}\n}}\n")


def read_saved(path: PathLike) -> Recipe:
    """Read what `write_saved` wrote, checked against its checksum."""
    content = read_tokenizer_file(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        known = isinstance(content, dict) and isinstance(content.get("model"), dict)
        hint = (
            "from_tokenizer_json reads Hugging Face's files"
            if known
            else f"{FORMAT!r} is not in it"
        )
        raise TokenizerFileError(f"{path} was not written by BytePairTokenizer.save: {hint}")
    if content["version"] != VERSION:
        raise TokenizerFileError(
            f"{path} has version {content['version']!r}, this library reads {VERSION}: update it"
        )
    if content.pop("sha256", None) != _checksum(content):
        raise TokenizerFileError(f"{path} was changed since it was saved: its checksum is wrong")
    tokens = [unspell(word) for word in content["tokens"]]
    merges = [(tokens[left], tokens[right]) for left, right in content["merges"]]
    if tokens != [*BYTE_TOKENS, *(left + right for left, right in merges)]:
        raise ValueError("its tokens are not those that its merges make")
    return Recipe(merges, content["special_tokens"], content["pattern"], content["name"])


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# tiktoken: a line a token, its bytes in base64 and its rank. Neither the pattern nor the special
# tokens are in the file.


def write_tiktoken(tokenizer: BytePairTokenizer, path: PathLike) -> None:
    """Write a `.tiktoken` file."""
    ranks = mergeable_ranks(tokenizer)
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()]
    write_text(path, "".join(lines))


def mergeable_ranks(tokenizer: BytePairTokenizer) -> dict[bytes, int]:
    """Return the table that tiktoken works from: bytes -> rank of all ordinary tokens.

    Raises:
        ValueError: if tiktoken would read other merges out of it.
    """
    tokens = [*BYTE_TOKENS, *(left + right for left, right in tokenizer.merges)]
    if recover_merges(tokens) != tokenizer.merges:
        raise ValueError(
            "these merges can't be written for tiktoken, which knows the tokens only and would "
            "merge other pairs; to_tokenizer_json keeps the merges themselves"
        )
    return {token: tokenizer.encode_single_token(token) for token in tokens}


def read_tiktoken(
    path: PathLike, special_tokens: SpecialTokens = (END_OF_TEXT,), pattern: str = GPT2_PATTERN
) -> Recipe:
    """Read a `.tiktoken` file; the merges are recovered from the ranks."""
    lines = [line.split() for line in Path(path).read_bytes().splitlines() if line.strip()]
    ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    if len(ranks) < len(lines):
        raise TokenizerFileError(f"{path} holds a token twice")
    tokens = sorted(ranks, key=ranks.__getitem__)
    merges = recover_merges(tokens)
    found = [ranks[token] for token in tokens]
    expected = [*build_vocabulary(merges, special_tokens).ordinary.values()]
    if found != expected:
        at = next(i for i, pair in enumerate(zip(found, expected, strict=True)) if len({*pair}) > 1)
        raise TokenizerFileError(
            f"{path} has rank {found[at]} where {expected[at]} was expected: either lines are "
            "missing, or that number is a special token's (then give it with its id: "
            f"special_tokens={{{END_OF_TEXT!r}: {expected[at]}}})"
        )
    return Recipe(merges, special_tokens, pattern, Path(path).stem)


# GPT-2's own two files: the merges, one a line, and the ids of all tokens, special ones included.


def write_openai_files(
    tokenizer: BytePairTokenizer, vocab_bpe: PathLike, encoder_json: PathLike
) -> None:
    """Write `vocab.bpe` and `encoder.json` as OpenAI's release of GPT-2 has them."""
    lines = [f"{spell(left)} {spell(right)}\n" for left, right in tokenizer.merges]
    write_text(vocab_bpe, "".join(["#version: 0.2\n", *lines]))
    write_text(encoder_json, json.dumps(spelled_ids(tokenizer)))


def spelled_ids(tokenizer: BytePairTokenizer) -> dict[str, int]:
    """Return token -> id in the order of the ids: ordinary tokens spelled, special ones as such.

    Raises:
        ValueError: if a special token looks like the spelling of an ordinary one.
    """
    tokens = [*BYTE_TOKENS, *(left + right for left, right in tokenizer.merges)]
    ids = {spell(token): tokenizer.encode_single_token(token) for token in tokens}
    if twice := ids.keys() & tokenizer.special_tokens.keys():
        raise ValueError(
            f"{min(twice)!r} is a special token and an ordinary one, a file of words holds one only"
        )
    return dict(sorted({**ids, **tokenizer.special_tokens}.items(), key=lambda item: item[1]))


def read_openai_files(
    vocab_bpe: PathLike, encoder_json: PathLike, special_tokens: Sequence[str] = (END_OF_TEXT,)
) -> Recipe:
    """Read `vocab.bpe` and `encoder.json` (Hugging Face calls them merges.txt and vocab.json).

    Special tokens that `encoder.json` does not number come after its last id.
    """
    lines = Path(vocab_bpe).read_bytes().decode("utf-8").split("\n")
    merges = [line.rstrip("\r") for line in lines if line.strip() and line[:9] != "#version:"]
    vocab = read_tokenizer_file(encoder_json)
    special = {name: vocab[name] for name in special_tokens if name in vocab}
    after = max(vocab.values()) + 1
    special |= {
        name: after + i for i, name in enumerate(n for n in special_tokens if n not in vocab)
    }
    return _recipe(vocab, merges, special, GPT2_PATTERN, Path(vocab_bpe).stem)


# tokenizer.json of Hugging Face's `tokenizers`.

# What would change the ids. (Not among it: what is done with unknown bytes, as none are; and
# ignore_merges, which takes a piece that is a token as it is: `_recipe` sees to it that the
# merges come to the same.)
_PLAIN_MODEL = {
    "type": "BPE",
    "dropout": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
}
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def write_tokenizer_json(tokenizer: BytePairTokenizer, path: PathLike) -> None:
    """Write a `tokenizer.json` that `tokenizers.Tokenizer.from_file` reads."""
    plainly = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    by_id = sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
    added = [{"id": i, "content": token, "special": True, **plainly} for token, i in by_id]
    split: dict[str, Any] = {**_BYTE_LEVEL, "use_regex": True}
    if tokenizer.pattern != GPT2_PATTERN:
        by_pattern = {"type": "Split", "pattern": {"Regex": tokenizer.pattern}}
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
            "vocab": spelled_ids(tokenizer),
            "merges": [[spell(left), spell(right)] for left, right in tokenizer.merges],
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
            raise TokenizerFileError(f"{path} is no byte-level BPE: its {key} is {model[key]!r}")
    if content.get("normalizer") is not None:
        raise TokenizerFileError(f"{path} changes the text before it is encoded (normalizer)")
    special = {}
    for token in content.get("added_tokens") or []:
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
            raise TokenizerFileError(f"{path}: {token['content']!r} takes in the blanks around it")
        special[token["content"]] = token["id"]
    pattern = _pattern_of(path, content.get("pre_tokenizer") or {})
    return _recipe(model["vocab"], model["merges"], special, pattern, Path(path).stem)


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
        f"{path} splits text by {' + '.join(map(str, kinds))}, which this library does not know; "
        "it reads ByteLevel without a prefix space, alone or behind one isolating Split"
    )


def _recipe(
    vocab: Mapping[str, int],
    merges: Sequence[Any],
    special: dict[str, int],
    pattern: str,
    name: str,
) -> Recipe:
    """Put together what both text formats hold, and check that ids and merges belong together."""
    words = [tuple(merge.split(" ")) if isinstance(merge, str) else merge for merge in merges]
    pairs = [(unspell(left), unspell(right)) for left, right in words]
    made = {left + right for left, right in pairs}
    plain = {*map(spell, BYTE_TOKENS), *map(spell, made)}
    if missing := [token for token in plain if token not in vocab]:
        raise ValueError(f"token {min(missing)!r} has no id")
    if unmade := vocab.keys() - plain - special.keys():
        raise ValueError(f"token {min(unmade)!r} is made by no merge and is not a special token")
    # Some files list several ways to one token; the one that its bytes merge into counts.
    tokens = [unspell(token) for token in sorted(plain, key=vocab.__getitem__)]
    recovered = recover_merges(tokens)
    used = set(recovered)
    if [pair for pair in pairs if pair in used] != recovered:
        raise ValueError("the merges are not in the order of the ids of the tokens they make")
    found = build_vocabulary(recovered, special).ordinary
    for token, i in found.items():
        if vocab[spell(token)] != i:
            raise ValueError(
                f"{spell(token)!r} has id {vocab[spell(token)]}, not {i} as its merge says"
            )
    return Recipe(recovered, special, pattern, name)
