"""A byte-level BPE as described by another program's file: any ids, any order of merging."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from llm_scratch.tokenizers.bpe_merging import Pairs
from llm_scratch.tokenizers.bpe_splitting import Splitting
from llm_scratch.tokenizers.bpe_vocabulary import BYTE_TOKENS, Vocabulary, spell, unspell_all

MOST_IDS = 1 << 24


@dataclass(frozen=True)
class ForeignBPE:
    """The parts of a tokenizer of another program.

    Args:
        source: the bytes of its file, which are also what is saved.
        name: the tokenizer's name.
        vocabulary: the numbers of its tokens.
        splitting: how it splits a text.
        whole: whether a piece that is a token becomes it, even if merges would not make it.
        nfc: whether it first normalises a text to Unicode's form NFC.
        ends: the ids under the names bos_token_id, eos_token_id and pad_token_id, if known.
        begins: whether the file asks for bos_token_id before every text.
    """

    source: bytes
    name: str
    vocabulary: Vocabulary
    splitting: Splitting
    whole: bool
    nfc: bool
    ends: Mapping[str, int] = field(default_factory=dict)
    begins: bool = False

    @property
    def marks(self) -> dict[str, int]:
        """The ids in `ends`, and the one before every text as begin_of_text_id."""
        begin = {"begin_of_text_id": self.ends["bos_token_id"]} if self.begins else {}
        return {**self.ends, **begin}

    def differences(self) -> bytes:
        """Return a digest of what differs from this library's rules for the same tokens, or b""."""
        vocabulary, splitting, parts = self.vocabulary, self.splitting, []
        made = vocabulary.made
        if any(first >= second for first, second in zip(made, made[1:], strict=False)):
            merges = chain(chain.from_iterable(vocabulary.pairs), vocabulary.pairs.values())
            parts += [b"merges", b"whole" * self.whole, array("q", merges).tobytes()]
        if self.nfc:
            parts += [b"NFC"]
        if splitting.pattern is None:
            parts += [b"split", repr([tuple(step) for step in splitting.steps]).encode()]
        return hashlib.sha256(b"".join(parts)).digest() if parts else b""


def foreign_vocabulary(
    vocab: Mapping[str, int],
    merges: Sequence[Any],
    special: Mapping[str, int],
    words: Mapping[str, int],
) -> Vocabulary:
    """Number the tokens of a file: ids as in the file, ranks in the order of the merges.

    Args:
        vocab: spelled token -> id; special tokens and added words may be among them.
        merges: pairs of spelled tokens, or strings of two with a space between them, in order.
        special: special token -> id.
        words: added word that is not special -> id.

    Raises:
        ValueError: if they do not belong together.
    """
    added = {**special, **words}
    _check_ids(vocab, added)
    pairs: Pairs = {}
    made: list[int] = []
    results: set[str] = set()
    try:
        for merge in merges:
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            token = left + right
            pairs[vocab[left], vocab[right]] = len(made)
            made.append(vocab[token])
            results.add(token)
    except KeyError as err:
        raise ValueError(f"token {err.args[0]!r} has no id") from None
    ordinary = _ordinary(vocab, added, results)
    tokens = {i: token for token, i in ordinary.items()}
    for word, i in added.items():
        if tokens.setdefault(i, token := word.encode("utf-8")) != token:
            raise ValueError(f"{word!r} has the id {i} of another token")
    in_order = {i: tokens[i] for i in sorted(tokens)}
    return Vocabulary(in_order, pairs, ordinary, dict(special), dict(words), made)


def _check_ids(vocab: Mapping[str, int], added: Mapping[str, int]) -> None:
    for ids in (vocab.values(), added.values()):
        _check_numbers(ids)
        if len(set(ids)) < len(ids):
            raise ValueError("two tokens have the same id")
    for word in added.keys() & vocab.keys():
        if vocab[word] != added[word]:
            raise ValueError(f"{word!r} has the ids {vocab[word]} and {added[word]}")


def _check_numbers(ids: Iterable[Any]) -> None:
    if wrong := [i for i in ids if type(i) is not int or not 0 <= i < MOST_IDS]:
        raise ValueError(f"{wrong[0]!r} is not the id of a token (0 to {MOST_IDS - 1:,})")


def _ordinary(
    vocab: Mapping[str, int], added: Mapping[str, int], results: set[str]
) -> dict[bytes, int]:
    """Return bytes -> id of the tokens that are single bytes or made by merges."""
    plain = results.union(map(spell, BYTE_TOKENS))
    if unmade := vocab.keys() - plain - added.keys():
        raise ValueError(f"no merge makes token {min(unmade)!r}, which is not a special token")
    names = [name for name in vocab if name in plain]
    return dict(zip(unspell_all(names), map(vocab.__getitem__, names), strict=True))
