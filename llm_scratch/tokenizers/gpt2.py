"""GPT-2's tokenizer without a network: its table ships with this package, tiktoken runs it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from llm_scratch.tokenizers.any_tokenizer import check_special_tokens, check_surrogates
from llm_scratch.tokenizers.simple import END_OF_TEXT, UnknownIdError, UnknownTokenError

if TYPE_CHECKING:
    import numpy as np
    import tiktoken

# GPT-2's split into pieces: contractions, words, numbers and other marks, each with one blank
# before it, and blanks. Possessive (++) where going back can't help: long runs stay linear.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

TABLE_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"

Specials = Literal["all"] | Collection[str]
In = TypeVar("In")
Out = TypeVar("Out")


def load_gpt2_ranks() -> dict[bytes, int]:
    """Return GPT-2's table: the bytes of each of the 50,256 tokens -> its id, in order of merging.

    Raises:
        FileNotFoundError: if the table is not in the package.
        ValueError: if its checksum is wrong.
    """
    table = files("llm_scratch") / "assets" / "gpt2.tiktoken"
    try:
        lines = table.read_bytes().replace(b"\r\n", b"\n")  # git may have changed the line ends
    except FileNotFoundError as err:
        raise FileNotFoundError(f"{table} is missing: install llm_scratch again") from err
    if (found := hashlib.sha256(lines).hexdigest()) != TABLE_SHA256:
        raise ValueError(
            f"{table} is damaged (SHA-256 {found[:12]}..., not {TABLE_SHA256[:12]}...): "
            "install llm_scratch again"
        )
    pairs = (line.split() for line in lines.splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


@cache
def _gpt2_encoding() -> tiktoken.Encoding:
    import tiktoken

    ranks = load_gpt2_ranks()
    return tiktoken.Encoding(
        "gpt2",
        pat_str=GPT2_PATTERN,
        mergeable_ranks=ranks,
        special_tokens={END_OF_TEXT: len(ranks)},
        explicit_n_vocab=len(ranks) + 1,
    )


class GPT2Tokenizer:
    """GPT-2's byte-level BPE, a drop-in for `tiktoken.get_encoding("gpt2")` that works offline.

    It gives tiktoken's ids and differs in its errors: an id outside the vocabulary is an
    `UnknownIdError` that names it, an unknown token an `UnknownTokenError`, and a lone surrogate,
    which tiktoken replaces, is a `ValueError` with its position. Ids may come as a tensor or an
    array. All instances share one table.

    Source:
        Book 2.5; Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
    """

    name = "gpt2"

    def __init__(self) -> None:
        self._encoding = _gpt2_encoding()
        # What code that extends a tiktoken encoding by tokens of its own reads from it.
        self._pat_str = GPT2_PATTERN
        self._mergeable_ranks = self._encoding._mergeable_ranks
        self._special_tokens = self._encoding._special_tokens

    def __repr__(self) -> str:
        return f"GPT2Tokenizer(n_vocab={self.n_vocab})"

    def __reduce__(self) -> tuple[type[GPT2Tokenizer], tuple[()]]:
        return type(self), ()  # pickled by name: the table stays where it is

    @property
    def n_vocab(self) -> int:
        """The number of ids, 50257."""
        return self._encoding.n_vocab

    @property
    def max_token_value(self) -> int:
        """The highest id, 50256."""
        return self._encoding.max_token_value

    @property
    def eot_token(self) -> int:
        """The id of `<|endoftext|>`, 50256."""
        return self._encoding.eot_token

    @property
    def special_tokens_set(self) -> set[str]:
        """The special tokens, `<|endoftext|>` alone."""
        return set(self._special_tokens)

    def is_special_token(self, token: int) -> bool:
        """Say whether an id is a special token's."""
        return token in self._special_tokens.values()

    def token_byte_values(self) -> list[bytes]:
        """Return the bytes of all ordinary tokens, sorted by bytes as tiktoken does."""
        return self._encoding.token_byte_values()

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
            disallowed_special: tokens whose text is an error; "all" are those not allowed,
                () takes special tokens as ordinary text.

        Raises:
            ValueError: if the text holds a disallowed token or a lone surrogate.
        """
        allowed = check_special_tokens(
            text, self._special_tokens, allowed_special, disallowed_special
        )
        check_surrogates(text)
        return self._encoding.encode(text, allowed_special=allowed, disallowed_special=())

    def encode_ordinary(self, text: str) -> list[int]:
        """Encode a text without special tokens: `<|endoftext|>` is text like any other."""
        check_surrogates(text)
        return self._encoding.encode_ordinary(text)

    def encode_to_numpy(
        self,
        text: str,
        *,
        allowed_special: Specials = frozenset(),
        disallowed_special: Specials = "all",
    ) -> np.ndarray:
        """Encode a text like `encode`, as a uint32 array: (T,)."""
        allowed = check_special_tokens(
            text, self._special_tokens, allowed_special, disallowed_special
        )
        check_surrogates(text)
        return self._encoding.encode_to_numpy(text, allowed_special=allowed, disallowed_special=())

    def encode_batch(
        self,
        text: list[str],
        *,
        num_threads: int = 8,
        allowed_special: Specials = frozenset(),
        disallowed_special: Specials = "all",
    ) -> list[list[int]]:
        """Encode several texts at once, as `encode` does."""
        one = partial(
            self.encode, allowed_special=allowed_special, disallowed_special=disallowed_special
        )
        return in_threads(one, text, num_threads)

    def encode_ordinary_batch(self, text: list[str], *, num_threads: int = 8) -> list[list[int]]:
        """Encode several texts at once, as `encode_ordinary` does."""
        return in_threads(self.encode_ordinary, text, num_threads)

    def encode_single_token(self, text_or_bytes: str | bytes) -> int:
        """Return the id of one token, special or not.

        Raises:
            UnknownTokenError: if it is not a single token.
        """
        if isinstance(text_or_bytes, str):
            check_surrogates(text_or_bytes)
        try:
            return self._encoding.encode_single_token(text_or_bytes)
        except KeyError as err:
            raise UnknownTokenError(
                f"{text_or_bytes!r} is not one token of the vocabulary; encode() splits it"
            ) from err

    def decode(self, tokens: Sequence[int], errors: str = "replace") -> str:
        """Decode ids: list, array or tensor of T ids -> str.

        Args:
            tokens: the ids.
            errors: what becomes of bytes that are not UTF-8, as in `bytes.decode`.

        Raises:
            UnknownIdError: if an id is not in the vocabulary.
        """
        return self.decode_bytes(tokens).decode("utf-8", errors=errors)

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        """Decode ids to bytes: list, array or tensor of T ids -> bytes."""
        ids = _as_ids(tokens)
        try:
            return self._encoding.decode_bytes(ids)
        except (KeyError, OverflowError):
            self._check_ids(ids)
            raise

    def decode_single_token_bytes(self, token: int) -> bytes:
        """Return the bytes of one id."""
        self._check_ids([token])
        return self._encoding.decode_single_token_bytes(token)

    def decode_tokens_bytes(self, tokens: Sequence[int]) -> list[bytes]:
        """Return the bytes of each id: T ids -> T pieces."""
        ids = _as_ids(tokens)
        self._check_ids(ids)
        return self._encoding.decode_tokens_bytes(ids)

    def decode_with_offsets(self, tokens: Sequence[int]) -> tuple[str, list[int]]:
        """Return the text and, for each id, the index of its first character in it."""
        ids = _as_ids(tokens)
        self._check_ids(ids)
        return self._encoding.decode_with_offsets(ids)

    def decode_batch(
        self, batch: Sequence[Sequence[int]], *, errors: str = "replace", num_threads: int = 8
    ) -> list[str]:
        """Decode several lists of ids at once, as `decode` does."""
        return in_threads(partial(self.decode, errors=errors), batch, num_threads)

    def decode_bytes_batch(
        self, batch: Sequence[Sequence[int]], *, num_threads: int = 8
    ) -> list[bytes]:
        """Decode several lists of ids at once, as `decode_bytes` does."""
        return in_threads(self.decode_bytes, batch, num_threads)

    def _check_ids(self, ids: list[int]) -> None:
        for position, token in enumerate(ids):
            if not 0 <= token < self.n_vocab:
                raise UnknownIdError(
                    f"id {token} at position {position} is not in GPT-2's vocabulary of "
                    f"{self.n_vocab} ids (0 to {self.max_token_value}): was the text encoded "
                    "with another tokenizer, or is the model's vocab_size larger?"
                )


def _as_ids(tokens: Any) -> list[int]:
    if hasattr(tokens, "tolist"):  # a tensor or an array
        tokens = tokens.tolist()
    return tokens if isinstance(tokens, list) else list(tokens)


def in_threads(one: Callable[[In], Out], batch: Iterable[In], num_threads: int) -> list[Out]:
    """Return what a function makes of each item, worked on side by side, in their order."""
    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(one, batch))
