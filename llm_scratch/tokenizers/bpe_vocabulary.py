"""The numbers of the tokens: the order of the bytes, the merges and the special tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from operator import index
from typing import Any

from llm_scratch.tokenizers.any_tokenizer import check_surrogates
from llm_scratch.tokenizers.bpe_merging import RANKS_ARE_IDS, Pairs, merge_piece
from llm_scratch.tokenizers.simple import END_OF_TEXT, UnknownIdError

Merges = Sequence[tuple[bytes, bytes]]
SpecialTokens = Sequence[str] | Mapping[str, int]


def _bytes_in_order() -> list[int]:
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]  # ! to ~, ¡ to ¬, ® to ÿ
    return [*visible, *(byte for byte in range(256) if byte not in visible)]


# GPT-2 first numbers the bytes that Latin-1 prints as visible characters, then the others.
BYTE_TOKENS = [bytes([byte]) for byte in _bytes_in_order()]

# Text files spell a token with one letter per byte. A visible byte is its own letter, the others
# get the letters from U+0100 on, so a space is 'Ġ' (U+0120) and a line break 'Ċ' (U+010A).
_LETTERS = [chr(token[0]) if i < 188 else chr(256 + i - 188) for i, token in enumerate(BYTE_TOKENS)]
_LETTER_OF_BYTE = {token[0]: letter for token, letter in zip(BYTE_TOKENS, _LETTERS, strict=True)}
_BYTE_OF_LETTER = {letter: byte for byte, letter in _LETTER_OF_BYTE.items()}
_LATIN_1 = str.maketrans({letter: chr(byte) for letter, byte in _BYTE_OF_LETTER.items()})


def spell(token: bytes) -> str:
    """Spell a token with one printable letter per byte, as GPT-2's files do: b" a" -> "Ġa"."""
    return "".join([_LETTER_OF_BYTE[byte] for byte in token])


def unspell(word: str) -> bytes:
    """Read a token from its letters: "Ġa" -> b" a".

    Raises:
        ValueError: if a letter does not stand for a byte.
    """
    try:
        return bytes([_BYTE_OF_LETTER[letter] for letter in word])
    except KeyError as err:
        raise ValueError(f"{err.args[0]!r} in {word!r} does not stand for a byte") from None


def unspell_all(words: Sequence[str]) -> list[bytes]:
    """Read many tokens from their letters as `unspell` does, in a fraction of the time."""
    if not set("".join(words)) <= _BYTE_OF_LETTER.keys():
        return [unspell(word) for word in words]  # finds the offending word
    return [word.translate(_LATIN_1).encode("latin-1") for word in words]


@dataclass(frozen=True)
class Vocabulary:
    """The numbers of a tokenizer.

    Args:
        tokens: id -> bytes of every token, special ones included, in the order of the ids.
        pairs: the pairs that merge: (left id, right id) -> rank.
        ordinary: bytes -> id of the tokens that are not special.
        special: special token -> id.
        words: added word -> id.
        made: rank -> id of the token that the merge makes.
    """

    tokens: dict[int, bytes]
    pairs: Pairs
    ordinary: dict[bytes, int]
    special: dict[str, int]
    words: dict[str, int]
    made: Sequence[int] = RANKS_ARE_IDS

    @property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The pairs of tokens that merge, in the order of their ranks."""
        in_order = sorted(self.pairs, key=self.pairs.__getitem__)
        return [(self.tokens[left], self.tokens[right]) for left, right in in_order]

    def bytes_of(self, token_id: Any, where: str = "") -> bytes:
        """Return the bytes of an id.

        Raises:
            UnknownIdError: if no token has it.
        """
        try:
            return self.tokens[index(token_id)]
        except TypeError:
            raise TypeError(f"an id must be a whole number, got {token_id!r}{where}") from None
        except KeyError:
            raise UnknownIdError(
                f"id {token_id}{where} is not in this vocabulary (its highest id is "
                f"{max(self.tokens)}): was the text encoded with another tokenizer?"
            ) from None


def build_vocabulary(
    merges: Merges, special_tokens: SpecialTokens, added_words: Mapping[str, int] | None = None
) -> Vocabulary:
    """Number bytes, merges and special tokens.

    The bytes come first, in GPT-2's order, then the tokens that the merges make, then the special
    tokens. Special tokens and added words with ids of their own keep them, and the others fill the
    free numbers. An added word that is also an ordinary token has that token's id.

    Raises:
        ValueError: if a merge uses a token that no earlier merge made, or makes an existing token,
            or if an added word is a special token or has another token's id.
    """
    special = number_special_tokens(special_tokens, first=len(BYTE_TOKENS) + len(merges))
    words = number_special_tokens(dict(added_words or {}), first=0)
    own = set(words.values()) - _ids_of_ordinary(words, merges)
    taken = {*special.values(), *own}
    if len(taken) < len(special) + len(own) or words.keys() & special.keys():
        raise ValueError("an added word and a special token are the same, or have the same id")
    ids = list(islice((i for i in count() if i not in taken), len(BYTE_TOKENS) + len(merges)))
    ordinary = dict(zip(BYTE_TOKENS, ids, strict=False))
    pairs: Pairs = {}
    for number, (merge, new) in enumerate(zip(merges, ids[len(BYTE_TOKENS) :], strict=True)):
        left, right = _parts(merge, number, ordinary)
        pairs[ordinary[left], ordinary[right]] = new
        ordinary[left + right] = new
    tokens = {i: token for token, i in ordinary.items()}
    for token, i in {**special, **words}.items():
        if token in words and i not in own and ordinary[token.encode("utf-8")] != i:
            raise ValueError(f"{token!r} is the token {ordinary[token.encode()]}, not {i}")
        tokens[i] = token.encode("utf-8")
    return Vocabulary(dict(sorted(tokens.items())), pairs, ordinary, special, words)


def _ids_of_ordinary(words: Mapping[str, int], merges: Merges) -> set[int]:
    """Return the ids of the added words that are also ordinary tokens."""
    if not words:
        return set()
    made = {left + right for left, right in merges}
    return {i for word, i in words.items() if len(b := word.encode("utf-8")) == 1 or b in made}


def _parts(merge: Any, number: int, known: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    try:
        left, right = merge
        if not isinstance(left, bytes) or not isinstance(right, bytes):
            raise TypeError
    except (TypeError, ValueError):
        raise TypeError(f"merge {number} must be a pair of bytes, got {merge!r}") from None
    for part in (left, right):
        if part not in known:
            raise ValueError(
                f"merge {number} joins {left!r} and {right!r}, but {part!r} is not a byte and no "
                "earlier merge makes it; pass the merges in the order in which they were learned"
            )
    if left + right in known:
        raise ValueError(f"merge {number} makes {left + right!r}, which is already a token")
    return left, right


def number_special_tokens(special_tokens: SpecialTokens, first: int) -> dict[str, int]:
    """Give each special token its id: its own, or the next number from `first` on.

    Raises:
        ValueError: if a token or an id is given twice, or a token is empty.
        TypeError: if a token is not a str.
    """
    if not isinstance(special_tokens, (tuple, list, Mapping)):  # a set has no order for the ids
        raise TypeError(
            "special_tokens must be a tuple or list of names, or {name: id}, "
            f"got {special_tokens!r}; write a single one as ({END_OF_TEXT!r},)"
        )
    names = list(special_tokens)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"a special token must be a str, got {name!r}")
        if not name:
            raise ValueError("a special token must not be empty: it would be found everywhere")
        check_surrogates(name)
    _refuse_twice(names, "special token")
    if isinstance(special_tokens, Mapping):
        ids = [index(i) for i in special_tokens.values()]
    else:
        ids = list(range(first, first + len(names)))
    if min(ids, default=0) < 0:
        raise ValueError(f"the id of a special token must be 0 or more, got {min(ids)}")
    _refuse_twice(ids, "the id of a special token,")
    return dict(zip(names, ids, strict=True))


def _refuse_twice(values: Sequence[Any], what: str) -> None:
    if len(set(values)) < len(values):
        twice = next(value for value in values if list(values).count(value) > 1)
        raise ValueError(f"{what} {twice!r} is given twice; each may occur only once")


def recover_merges(tokens: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Recover the merges from a list of tokens in the order of learning, bytes first.

    A token was made from the two tokens into which its bytes merge when only the earlier merges
    are known.

    Raises:
        ValueError: if the list does not begin with the 256 bytes, or a token is not made of two.
    """
    if list(tokens[: len(BYTE_TOKENS)]) != BYTE_TOKENS:
        raise ValueError("the first 256 tokens are not the single bytes in GPT-2's order")
    byte_ids = {token[0]: i for i, token in enumerate(BYTE_TOKENS)}
    pairs: Pairs = {}
    merges = []
    for new in range(len(BYTE_TOKENS), len(tokens)):
        parts = merge_piece([byte_ids[byte] for byte in tokens[new]], pairs)
        if len(parts) != 2:
            raise ValueError(
                f"token {new}, {tokens[new]!r}, is made of {len(parts)} earlier tokens, not of 2"
            )
        left, right = parts
        pairs[left, right] = new
        merges.append((tokens[left], tokens[right]))
    return merges
