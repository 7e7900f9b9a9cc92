"""GPT-2's tokenizer without a network: this package ships its table, and tiktoken runs it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from llm_scratch.tokenizers.simple import END_OF_TEXT, UnknownIdError
from llm_scratch.tokenizers.tiktoken_methods import TiktokenMethods, as_ids

if TYPE_CHECKING:
    import tiktoken

# GPT-2's split into pieces: contractions, words, numbers and other marks, each with one space
# before it, and white space. Possessive (++) where backtracking cannot help: long runs stay linear.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

TABLE_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"


def load_gpt2_ranks() -> dict[bytes, int]:
    """Load GPT-2's table: the bytes of each of the 50,256 tokens -> its id, in order of merging.

    Raises:
        FileNotFoundError: if the table is not in the package.
        ValueError: if its checksum is wrong.
    """
    table = files("llm_scratch") / "assets" / "gpt2.tiktoken"
    try:
        lines = table.read_bytes().replace(b"\r\n", b"\n")  # git may have changed the line ends
    except FileNotFoundError as err:
        raise FileNotFoundError(f"{table} is missing; reinstall llm_scratch") from err
    if (found := hashlib.sha256(lines).hexdigest()) != TABLE_SHA256:
        raise ValueError(
            f"{table} is damaged (SHA-256 {found[:12]}..., not {TABLE_SHA256[:12]}...); "
            "reinstall llm_scratch"
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


class GPT2Tokenizer(TiktokenMethods):
    """GPT-2's byte-level BPE, a drop-in for `tiktoken.get_encoding("gpt2")` that works offline.

    It returns tiktoken's ids. Its errors differ: they name what is wrong and where. All instances
    share one table.

    Source:
        Book 2.5; Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
    """

    name = "gpt2"
    # What `fingerprint` computes: the table never changes, and every save and load asks.
    FINGERPRINT = "e22695ccac456cb8ac39fabfadec3b1dc950e70c0cd40ce0b5eb88fbcc627b44"

    def __init__(self) -> None:
        self._encoding = _gpt2_encoding()
        self._pat_str = GPT2_PATTERN
        self._mergeable_ranks = self._encoding._mergeable_ranks
        self._special_tokens = self._encoding._special_tokens

    def __repr__(self) -> str:
        return f"GPT2Tokenizer(n_vocab={self.n_vocab})"

    def __reduce__(self) -> tuple[type[GPT2Tokenizer], tuple[()]]:
        return type(self), ()  # pickled by name: the table stays where it is

    def _ids(self, text: str, allowed: set[str]) -> list[int]:
        if not allowed:
            return self._encoding.encode_ordinary(text)
        return self._encoding.encode(text, allowed_special=allowed, disallowed_special=())

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """Decode ids to bytes: list, array or tensor of T ids -> bytes."""
        ids = as_ids(tokens)
        try:
            return self._encoding.decode_bytes(ids)
        except (KeyError, OverflowError):
            self._check_ids(ids)
            raise

    def decode_single_token_bytes(self, token: int) -> bytes:
        """Return the bytes of one id."""
        self._check_ids([token])
        return self._encoding.decode_single_token_bytes(token)

    def decode_tokens_bytes(self, tokens: Iterable[int]) -> list[bytes]:
        """Return the bytes of each id: T ids -> T pieces."""
        ids = as_ids(tokens)
        self._check_ids(ids)
        return self._encoding.decode_tokens_bytes(ids)

    def _check_ids(self, ids: list[int]) -> None:
        for position, token in enumerate(ids):
            if not 0 <= token <= self.max_token_value:
                raise UnknownIdError(
                    f"id {token} at position {position} is not in GPT-2's vocabulary of "
                    f"{self.n_vocab} ids (0 to {self.max_token_value}): was the text encoded "
                    "with another tokenizer, or is the model's vocab_size larger?"
                )
