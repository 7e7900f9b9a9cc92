"""Vocabularies as files: this library's JSON and OpenAI's two formats.

Each writer takes a `Recipe`, and each reader returns one; `BytePairTokenizer(*recipe)` is the
tokenizer. `tokenizer_json` has Hugging Face's format.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from llm_scratch.files import (
    FileError,
    PathLike,
    first_line,
    lines_of,
    read_json,
    read_text,
    write_text,
)
from llm_scratch.tokenizers.bpe_vocabulary import (
    BYTE_TOKENS,
    SpecialTokens,
    Vocabulary,
    build_vocabulary,
    recover_merges,
    spell,
    unspell,
)
from llm_scratch.tokenizers.gpt2 import GPT2_PATTERN
from llm_scratch.tokenizers.simple import END_OF_TEXT

LONGEST_FILE = 256 << 20
# The second version has added words, which a reader of the first would silently omit.
FORMAT, VERSION, VERSION_WITH_WORDS = "llm_scratch.BytePairTokenizer", 1, 2


class TokenizerFileError(FileError):
    """A tokenizer file that is damaged, incomplete, or not of the requested kind."""


class Recipe(NamedTuple):
    """The arguments of `BytePairTokenizer` that make a tokenizer."""

    merges: list[tuple[bytes, bytes]]
    special_tokens: SpecialTokens
    pattern: str
    name: str
    added_words: Mapping[str, int] = MappingProxyType({})

    def vocabulary(self) -> Vocabulary:
        """Number the tokens."""
        return build_vocabulary(self.merges, self.special_tokens, self.added_words)


def read_tokenizer_file(path: PathLike) -> dict[str, Any]:
    """Read the object in a tokenizer's JSON file; large vocabularies take 17 MB."""
    return read_json(path, most_bytes=LONGEST_FILE)


@contextmanager
def file_errors(path: PathLike, kind: str) -> Iterator[None]:
    """Turn any error that a damaged file causes in its reader into a `TokenizerFileError`."""
    try:
        yield
    except (OSError, TokenizerFileError):
        raise
    except FileError as err:
        raise TokenizerFileError(err.path, err.hint) from err
    except Exception as err:  # a foreign file can break its reader in any way
        cause = f"key {err} is missing" if type(err) is KeyError else first_line(err)
        hint = f"is not a complete {kind}: {cause}; save or download it again"
        raise TokenizerFileError(path, hint) from err


# This library's own file: JSON with a version and a checksum.


def saved_text(recipe: Recipe) -> str:
    """Return a tokenizer as JSON: merges as pairs of token numbers, tokens in readable spelling."""
    vocabulary = recipe.vocabulary()
    numbers = {token: i for i, token in enumerate(vocabulary.ordinary)}
    content = {
        "format": FORMAT,
        "version": VERSION_WITH_WORDS if recipe.added_words else VERSION,
        "name": recipe.name,
        "pattern": recipe.pattern,
        "special_tokens": vocabulary.special,
        **({"added_words": vocabulary.words} if recipe.added_words else {}),
        "merges": [[numbers[left], numbers[right]] for left, right in recipe.merges],
        "tokens": [spell(token) for token in numbers],
    }
    content["sha256"] = _checksum(content)
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    return f"{{\n{lines}\n}}\n"


def saved_recipe(path: PathLike, content: dict[str, Any]) -> Recipe:
    """Return the recipe in the JSON that `saved_text` wrote, after verifying its checksum."""
    if content.get("format") != FORMAT:
        hint = f"{FORMAT!r} is not in it"
        if isinstance(content.get("model"), dict):
            hint = "from_tokenizer_json reads Hugging Face's files"
        raise TokenizerFileError(path, f"was not written by BytePairTokenizer.save: {hint}")
    if (version := content["version"]) not in (VERSION, VERSION_WITH_WORDS):
        hint = f"has version {version!r}, this library reads {VERSION_WITH_WORDS}; update it"
        raise TokenizerFileError(path, hint)
    if content.pop("sha256", None) != _checksum(content):
        raise TokenizerFileError(path, "was changed after it was saved: its checksum is wrong")
    tokens = [unspell(word) for word in content["tokens"]]
    merges = [(tokens[left], tokens[right]) for left, right in content["merges"]]
    if tokens != [*BYTE_TOKENS, *(left + right for left, right in merges)]:
        raise ValueError("its tokens do not match its merges")
    words = content["added_words"] if version == VERSION_WITH_WORDS else {}
    return Recipe(merges, content["special_tokens"], content["pattern"], content["name"], words)


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# tiktoken's format: one line per token, with its bytes in base64 and its rank. The file has neither
# the pattern nor the special tokens.


def write_tiktoken(recipe: Recipe, path: PathLike) -> None:
    """Write a `.tiktoken` file."""
    ranks = mergeable_ranks(recipe)
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()]
    write_text(path, "".join(lines))


def mergeable_ranks(recipe: Recipe) -> dict[bytes, int]:
    """Return tiktoken's table: bytes -> rank of all ordinary tokens.

    Raises:
        ValueError: if tiktoken would derive other merges from it, or there are added words.
    """
    if recipe.added_words:
        raise ValueError(
            f"{min(recipe.added_words)!r} is an added word that is not special, which tiktoken "
            "cannot hold; use to_tokenizer_json"
        )
    ranks = recipe.vocabulary().ordinary
    if recover_merges(list(ranks)) != recipe.merges:
        raise ValueError(
            "these merges cannot be written for tiktoken, which stores only the tokens and would "
            "merge other pairs; use to_tokenizer_json, which stores the merges"
        )
    return ranks


def read_tiktoken(
    path: PathLike, special_tokens: SpecialTokens = (END_OF_TEXT,), pattern: str = GPT2_PATTERN
) -> Recipe:
    """Read a `.tiktoken` file; the merges are recovered from the ranks."""
    lines = [line.split() for line in lines_of(read_text(path)) if line.strip()]
    ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    if len(ranks) < len(lines):
        raise TokenizerFileError(path, "holds a token twice")
    tokens = sorted(ranks, key=ranks.__getitem__)
    merges = recover_merges(tokens)
    found = [ranks[token] for token in tokens]
    expected = [*build_vocabulary(merges, special_tokens).ordinary.values()]
    if found != expected:
        at = next(i for i, pair in enumerate(zip(found, expected, strict=True)) if len({*pair}) > 1)
        raise TokenizerFileError(
            path,
            f"has rank {found[at]} where {expected[at]} was expected: either lines are missing, "
            "or that number is the id of a special token (then pass it: "
            f"special_tokens={{{END_OF_TEXT!r}: {expected[at]}}})",
        )
    return Recipe(merges, special_tokens, pattern, Path(path).stem)


# GPT-2's own two files: the merges, one per line, and the ids of all tokens, special ones included.


def write_openai_files(vocabulary: Vocabulary, vocab_bpe: PathLike, encoder_json: PathLike) -> None:
    """Write `vocab.bpe` and `encoder.json` as OpenAI's release of GPT-2 has them."""
    lines = [f"{spell(left)} {spell(right)}\n" for left, right in vocabulary.merges]
    write_text(vocab_bpe, "".join(["#version: 0.2\n", *lines]))
    write_text(encoder_json, json.dumps(spelled_ids(vocabulary)))


def spelled_ids(vocabulary: Vocabulary) -> dict[str, int]:
    """Return token -> id in the order of the ids: ordinary tokens spelled, others unchanged.

    Raises:
        ValueError: if a special token looks like the spelling of an ordinary one.
    """
    ids = {spell(token): i for token, i in vocabulary.ordinary.items()}
    if twice := ids.keys() & vocabulary.special.keys():
        raise ValueError(
            f"{min(twice)!r} is a special token and an ordinary one; a file of words holds only one"
        )
    known = set(ids.values())
    words = {word: i for word, i in vocabulary.words.items() if i not in known}
    if twice := ids.keys() & words.keys():
        raise ValueError(
            f"{min(twice)!r} is an added word and spells another token; a file of words holds one"
        )
    return dict(sorted({**ids, **vocabulary.special, **words}.items(), key=lambda item: item[1]))


def read_openai_files(
    vocab_bpe: PathLike, encoder_json: PathLike, special_tokens: Sequence[str] = (END_OF_TEXT,)
) -> Recipe:
    """Read `vocab.bpe` and `encoder.json` (Hugging Face calls them merges.txt and vocab.json).

    Special tokens that `encoder.json` does not number come after its last id.
    """
    lines = lines_of(read_text(vocab_bpe))
    merges = [line for line in lines if line.strip() and line[:9] != "#version:"]
    vocab = read_tokenizer_file(encoder_json)
    special = {name: vocab[name] for name in special_tokens if name in vocab}
    after = max(vocab.values()) + 1
    special |= {
        name: after + i for i, name in enumerate(n for n in special_tokens if n not in vocab)
    }
    return recipe_of_words(vocab, merges, special, GPT2_PATTERN, Path(vocab_bpe).stem)


def recipe_of_words(
    vocab: Mapping[str, int],
    merges: Sequence[Any],
    special: dict[str, int],
    pattern: str,
    name: str,
    added_words: Mapping[str, int] = MappingProxyType({}),
) -> Recipe:
    """Combine the parts of a format of words, and check that ids and merges belong together.

    Args:
        vocab: spelled token -> id, special tokens included.
        merges: pairs of spelled tokens, or strings of two with a space between them.
        special: special token -> id.
        pattern: the regular expression that splits a text into pieces.
        name: the tokenizer's name.
        added_words: added word that is not special -> id.

    Raises:
        ValueError: if they do not belong together.
    """
    words = [tuple(merge.split(" ")) if isinstance(merge, str) else merge for merge in merges]
    pairs = [(unspell(left), unspell(right)) for left, right in words]
    made = {left + right for left, right in pairs}
    plain = {*map(spell, BYTE_TOKENS), *map(spell, made)}
    if missing := [token for token in plain if token not in vocab]:
        raise ValueError(f"token {min(missing)!r} has no id")
    if unmade := vocab.keys() - plain - special.keys() - added_words.keys():
        raise ValueError(f"no merge makes token {min(unmade)!r}, which is not a special token")
    # Some files list several ways to make a token; the one by which its bytes merge counts.
    tokens = [unspell(token) for token in sorted(plain, key=vocab.__getitem__)]
    recovered = recover_merges(tokens)
    used = set(recovered)
    if [pair for pair in pairs if pair in used] != recovered:
        raise ValueError("the merges are not in the order of the ids of the tokens they make")
    found = build_vocabulary(recovered, special, added_words).ordinary
    for token, i in found.items():
        if vocab[spell(token)] != i:
            raise ValueError(
                f"{spell(token)!r} has id {vocab[spell(token)]}, not {i} as its merge says"
            )
    return Recipe(recovered, special, pattern, name, added_words)
