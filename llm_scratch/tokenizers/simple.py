"""Words as tokens: the first two tokenizers of chapter 2."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

# A piece is a punctuation mark, a double dash, white space, or the text between them.
WORD_PATTERN = r"""([,.:;?_!"()']|--|\s)"""

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unk|>"


class UnknownIdError(ValueError, KeyError, OverflowError):
    """An id that the vocabulary does not hold.

    It is a `ValueError`, and also the errors that tiktoken raises instead, so that code written
    for tiktoken still catches it.
    """

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would print the message in quotes


class UnknownTokenError(ValueError, KeyError):
    """A piece of text that the vocabulary does not hold; a `KeyError` too, as in the book."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would print the message in quotes


def split_words(text: str, keep_spaces: bool = False) -> list[str]:
    r"""Split a text into words and punctuation: str -> list of str.

    Args:
        text: the text.
        keep_spaces: keep each space and line break as a piece of its own, so that the joined
            pieces are the text; the book drops them.

    Source:
        Book 2.2.
    """
    pieces = re.split(WORD_PATTERN, text)
    return [piece for piece in pieces if (piece if keep_spaces else piece.strip())]


def build_vocab(tokens: Iterable[str], special_tokens: Sequence[str] = ()) -> dict[str, int]:
    """Number the distinct tokens in sorted order, special ones last: tokens -> {token: id}.

    Source:
        Book 2.3 and 2.4.
    """
    if isinstance(tokens, str):
        raise TypeError("build_vocab needs tokens, got a text; split it with split_words(text)")
    words = sorted(set(tokens) - set(special_tokens))
    return {token: i for i, token in enumerate([*words, *dict.fromkeys(special_tokens)])}


class SimpleTokenizerV1:
    """A tokenizer of words, for texts made of known words only.

    Decoding puts one space between words and none before `, . ? ! " ( ) '`, so line breaks and
    the spaces around dashes and quotes are not those of the text. With `keep_spaces=True` (and a
    vocabulary built from `split_words(text, keep_spaces=True)`) decode(encode(text)) is the text.

    Args:
        vocab: {token: id}, from `build_vocab`.
        keep_spaces: treat white space as tokens, so that nothing is lost.

    Source:
        Book 2.3.
    """

    _no_blank_before = r""",.?!"()'"""

    def __init__(self, vocab: Mapping[str, int], *, keep_spaces: bool = False) -> None:
        self.str_to_int = vocab
        self.int_to_str = {i: token for token, i in vocab.items()}
        self.keep_spaces = keep_spaces

    @property
    def n_vocab(self) -> int:
        """The number of ids that a model for this tokenizer needs."""
        return max(self.int_to_str, default=-1) + 1

    def encode(self, text: str) -> list[int]:
        """Encode a text: str -> list of ids.

        Raises:
            UnknownTokenError: if a piece of the text is not in the vocabulary.
        """
        pieces = split_words(text, self.keep_spaces)
        try:
            return [self.str_to_int[piece] for piece in pieces]
        except KeyError as err:
            raise UnknownTokenError(
                f"{err.args[0]!r} is not in the vocabulary of {len(self.str_to_int)} tokens; "
                "SimpleTokenizerV2 reads unknown words as <|unk|>"
            ) from err

    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids: T ids -> str.

        Raises:
            UnknownIdError: if an id is not in the vocabulary.
        """
        numbers = [int(i) for i in ids]
        try:
            words = [self.int_to_str[i] for i in numbers]
        except KeyError as err:
            raise UnknownIdError(
                f"id {err.args[0]} is not in the vocabulary of {len(self.int_to_str)} tokens; "
                "was the text encoded with another vocabulary?"
            ) from err
        if self.keep_spaces:
            return "".join(words)
        return re.sub(rf"\s+([{self._no_blank_before}])", r"\1", " ".join(words))


class SimpleTokenizerV2(SimpleTokenizerV1):
    """A tokenizer of words that encodes an unknown word as `<|unk|>`.

    It recognises `<|endoftext|>` between spaces. Decoding works as in `SimpleTokenizerV1`, and also
    puts no space before `:` and `;`.

    Args:
        vocab: {token: id} with `<|unk|>` in it, from `build_vocab(tokens, special_tokens)`.
        keep_spaces: treat white space as tokens, so that only unknown words are lost.

    Source:
        Book 2.4.
    """

    _no_blank_before = r""",.:;?!"()'"""

    def __init__(self, vocab: Mapping[str, int], *, keep_spaces: bool = False) -> None:
        if UNKNOWN not in vocab:
            raise ValueError(
                f"the vocabulary lacks {UNKNOWN!r}; build it with "
                f"build_vocab(tokens, special_tokens=({END_OF_TEXT!r}, {UNKNOWN!r}))"
            )
        super().__init__(vocab, keep_spaces=keep_spaces)

    @property
    def special_tokens_set(self) -> set[str]:
        """The special tokens of the vocabulary."""
        return {END_OF_TEXT, UNKNOWN} & set(self.str_to_int)

    def encode(self, text: str) -> list[int]:
        """Encode a text: str -> list of ids; unknown words become `<|unk|>`."""
        unknown = self.str_to_int[UNKNOWN]
        pieces = split_words(text, self.keep_spaces)
        return [self.str_to_int.get(piece, unknown) for piece in pieces]
