"""The methods of tiktoken's `Encoding`, which both BPE tokenizers offer under the same names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import chain
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from llm_scratch.tokenizers.any_tokenizer import check_special_tokens, check_surrogates
from llm_scratch.tokenizers.simple import END_OF_TEXT, UnknownTokenError

if TYPE_CHECKING:
    import numpy as np

Specials = Literal["all"] | Collection[str]
ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")

In = TypeVar("In")
Out = TypeVar("Out")


class TiktokenMethods(ABC):
    """The methods of tiktoken's `Encoding`, built on a table of tokens and two abstract methods.

    They have tiktoken's signatures and results, with two exceptions. A lone surrogate, which
    tiktoken replaces, is a `ValueError` with its position. An unknown id or token is an
    `UnknownIdError` or an `UnknownTokenError` that names it. Ids may be a tensor or an array.
    """

    # Attributes read by code that extends a tiktoken encoding with tokens of its own.
    _mergeable_ranks: dict[bytes, int]
    _special_tokens: dict[str, int]
    _added_words: Mapping[str, int] = MappingProxyType({})

    # The id that belongs before every text: other programs add it, `encode` here never does.
    begin_of_text_id: int | None = None
    # The ids that begin a text, end one, and pad rows, if known.
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    @abstractmethod
    def _ids(self, text: str, allowed: set[str]) -> list[int]:
        """Encode a checked text; each allowed special token becomes one id."""

    @abstractmethod
    def decode_tokens_bytes(self, tokens: Iterable[int]) -> list[bytes]:
        """Return the bytes of each id: T ids -> T pieces."""

    # Text -> ids.

    def encode(
        self,
        text: str,
        *,
        allowed_special: Specials = frozenset(),
        disallowed_special: Specials = "all",
    ) -> list[int]:
        """Encode a text: str -> list of ids.

        Args:
            text: the text.
            allowed_special: special tokens that become their one id, or "all".
            disallowed_special: tokens whose text is an error; "all" means those not allowed,
                () reads special tokens as ordinary text.

        Raises:
            ValueError: if the text holds a disallowed token or a lone surrogate.
        """
        check_text(text)
        special = self._special_tokens
        allowed = check_special_tokens(text, special, allowed_special, disallowed_special)
        return self._ids(text, allowed & special.keys())

    def encode_ordinary(self, text: str) -> list[int]:
        """Encode a text without special tokens: `<|endoftext|>` is ordinary text."""
        check_text(text)
        return self._ids(text, set())

    def encode_to_numpy(self, text: str, **specials: Any) -> np.ndarray:
        """Encode a text as `encode` does, with its options, to a uint32 array: (T,)."""
        import numpy as np

        return np.array(self.encode(text, **specials), dtype=np.uint32)

    def encode_batch(
        self, text: list[str], *, num_threads: int = 8, **specials: Any
    ) -> list[list[int]]:
        """Encode several texts in parallel, as `encode` does, with its options."""
        return _in_threads(partial(self.encode, **specials), text, num_threads)

    def encode_ordinary_batch(self, text: list[str], *, num_threads: int = 8) -> list[list[int]]:
        """Encode several texts in parallel, as `encode_ordinary` does."""
        return _in_threads(self.encode_ordinary, text, num_threads)

    def encode_single_token(self, text_or_bytes: str | bytes) -> int:
        """Return the id of one token, special or not.

        Raises:
            UnknownTokenError: if it is not a single token.
        """
        token = text_or_bytes
        if isinstance(token, str):
            check_surrogates(token)
            token = token.encode("utf-8")
        added = {**self._added_words, **self._special_tokens}
        special = {name.encode("utf-8"): i for name, i in added.items()}
        if (found := self._mergeable_ranks.get(token, special.get(token))) is None:
            raise UnknownTokenError(f"{text_or_bytes!r} is not a single token; use encode()")
        return found

    # Ids -> text.

    def decode(self, tokens: Iterable[int], errors: str = "replace") -> str:
        """Decode ids: list, array or tensor of T ids -> str.

        Args:
            tokens: the ids.
            errors: how to treat bytes that are not UTF-8, as in `bytes.decode`.

        Raises:
            UnknownIdError: if an id is not in the vocabulary.
        """
        return self.decode_bytes(tokens).decode("utf-8", errors=errors)

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """Decode ids to bytes: list, array or tensor of T ids -> bytes."""
        return b"".join(self.decode_tokens_bytes(tokens))

    def decode_with_offsets(self, tokens: Iterable[int]) -> tuple[str, list[int]]:
        """Return the text and, for each id, the index of its first character in it."""
        pieces = self.decode_tokens_bytes(tokens)
        offsets, begun = [], 0  # number of characters whose first byte was seen
        for token in pieces:
            within = 0x80 <= token[0] < 0xC0  # the token begins inside a character
            offsets.append(max(0, begun - within))
            begun += sum(not 0x80 <= byte < 0xC0 for byte in token)
        return b"".join(pieces).decode("utf-8"), offsets

    def decode_batch(
        self, batch: Sequence[Sequence[int]], *, errors: str = "replace", num_threads: int = 8
    ) -> list[str]:
        """Decode several lists of ids in parallel, as `decode` does."""
        return _in_threads(partial(self.decode, errors=errors), batch, num_threads)

    def decode_bytes_batch(
        self, batch: Sequence[Sequence[int]], *, num_threads: int = 8
    ) -> list[bytes]:
        """Decode several lists of ids in parallel, as `decode_bytes` does."""
        return _in_threads(self.decode_bytes, batch, num_threads)

    # What is in the vocabulary.

    @cached_property
    def max_token_value(self) -> int:
        """The highest id."""
        added = chain(self._special_tokens.values(), self._added_words.values())
        return max(chain(self._mergeable_ranks.values(), added))

    @property
    def n_vocab(self) -> int:
        """The number of ids that a model needs: the highest id plus one."""
        return self.max_token_value + 1

    @cached_property
    def unused_ids(self) -> tuple[int, ...]:
        """The ids below `n_vocab` that no token has."""
        tables = (self._mergeable_ranks, self._special_tokens, self._added_words)
        taken = set(chain.from_iterable(table.values() for table in tables))
        return tuple(i for i in range(self.n_vocab) if i not in taken)

    @property
    def special_tokens_set(self) -> set[str]:
        """The special tokens."""
        return set(self._special_tokens)

    @property
    def ends(self) -> dict[str, int]:
        """The ids under the names bos_token_id, eos_token_id and pad_token_id, if known."""
        return known_ends(self)

    @property
    def eot_token(self) -> int:
        """The id that ends a text, which is that of `<|endoftext|>` unless stated otherwise."""
        end = self.eos_token_id
        return self.encode_single_token(END_OF_TEXT) if end is None else end

    def is_special_token(self, token: int) -> bool:
        """Return whether an id belongs to a special token."""
        return token in self._special_tokens.values()

    def token_byte_values(self) -> list[bytes]:
        """Return the bytes of all ordinary tokens, sorted by bytes."""
        return sorted(self._mergeable_ranks)


def known_ends(tokenizer: Any) -> dict[str, int]:
    """Return the ids of a tokenizer's marks by the names of their attributes, if known."""
    ids = {name: getattr(tokenizer, name) for name in ENDS}
    return {name: i for name, i in ids.items() if i is not None}


def as_ids(tokens: Any) -> list[int]:
    """Return ids as a list, from a list, a tensor, an array or any other iterable."""
    if hasattr(tokens, "tolist"):
        tokens = tokens.tolist()
    return tokens if isinstance(tokens, list) else list(tokens)


def check_text(text: Any) -> None:
    """Refuse a value that is not a text, or that UTF-8 cannot encode.

    Raises:
        TypeError: if it is not a str.
        ValueError: if it holds a lone surrogate; the message names its position.
    """
    if not isinstance(text, str):
        raise TypeError(f"the text to encode must be a str, got {type(text).__name__}")
    check_surrogates(text)


def _in_threads(one: Callable[[In], Out], batch: Iterable[In], num_threads: int) -> list[Out]:
    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(one, batch))
