"""Tokenizers other than byte-level BPE (Llama 2's, Mistral's), run by the `tokenizers` package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from operator import index
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any, Literal

from llm_scratch.files import PathLike, parse_json, read_bytes, write_bytes
from llm_scratch.tokenizers.any_tokenizer import check_special_tokens, fingerprint
from llm_scratch.tokenizers.bpe_files import LONGEST_FILE, TokenizerFileError, file_errors
from llm_scratch.tokenizers.simple import END_OF_TEXT, UnknownIdError
from llm_scratch.tokenizers.tiktoken_methods import as_ids, check_text, known_ends
from llm_scratch.tokenizers.tokenizer_json_parts import begin_of_text

Specials = Literal["all"] | Collection[str]


class WrappedTokenizer:
    """A `tokenizer.json` of any kind, with the methods of this library's tokenizers.

    The file's treatment of whole texts (marks, padding, truncation) is left out: `encode` returns
    the ids of the text alone. Whether decoding returns the text depends on the file's rules.

    Args:
        data: the file's bytes.
        path: the file, for its name and for errors.
        ends: ids under the names bos_token_id, eos_token_id and pad_token_id.

    Raises:
        ImportError: if the package `tokenizers` is missing.
        TokenizerFileError: if the file is damaged.
    """

    pattern = None  # it is unknown where texts may be cut

    def __init__(
        self,
        data: bytes,
        path: PathLike = "the tokenizer",
        ends: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        try:
            import tokenizers
        except ImportError as err:
            raise ImportError(
                f"{path} needs the package tokenizers; pip install tokenizers gets it"
            ) from err
        with file_errors(path, "tokenizer.json"):
            self._content = parse_json(path, data, error=TokenizerFileError)
            self._theirs = tokenizers.Tokenizer.from_str(data.decode("utf-8-sig"))
            begin = begin_of_text(self._content.get("post_processor"))
            all_ends = {**begin, **ends}
        self.begin_of_text_id = begin.get("bos_token_id")
        self.bos_token_id = all_ends.get("bos_token_id")
        self.eos_token_id = all_ends.get("eos_token_id")
        self.pad_token_id = all_ends.get("pad_token_id")
        self._theirs.no_truncation()
        self._theirs.no_padding()
        self._data, self._lock = data, Lock()
        self.name = Path(path).stem
        added = self._theirs.get_added_tokens_decoder()
        self.special_tokens = {t.content: i for i, t in added.items() if t.special}
        self.added_words = {t.content: i for i, t in added.items() if not t.special}
        self.n_vocab = max(self._theirs.get_vocab().values(), default=-1) + 1

    @classmethod
    def load(
        cls, path: PathLike, ends: Mapping[str, int] = MappingProxyType({})
    ) -> WrappedTokenizer:
        """Read a `tokenizer.json`; see the class for `ends`."""
        return cls(read_bytes(path, most_bytes=LONGEST_FILE, error=TokenizerFileError), path, ends)

    def save(self, path: PathLike) -> None:
        """Write the file unchanged, byte for byte."""
        write_bytes(path, self._data)

    to_tokenizer_json = save

    def to_bytes(self) -> bytes:
        """Return the bytes that `save` writes."""
        return self._data

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
            allowed_special: special tokens that become their one id: "all", or none.
            disallowed_special: tokens whose text is an error; "all" means those not allowed,
                () reads special tokens as ordinary text.

        Raises:
            ValueError: if the text holds a disallowed token, or only some special tokens are
                allowed, which the package does not support.
        """
        check_text(text)
        specials = self.special_tokens_set
        allowed = check_special_tokens(text, specials, allowed_special, disallowed_special)
        some = {name for name in specials if name in text}
        if 0 < len(some & allowed) < len(some):
            raise ValueError(
                f"{self!r} reads all special tokens or none: allowed_special must be 'all' or ()"
            )
        with self._lock:  # the switch is the tokenizer's, not the call's
            self._theirs.encode_special_tokens = not some & allowed
            return list(self._theirs.encode(text, add_special_tokens=False).ids)

    def encode_ordinary(self, text: str) -> list[int]:
        """Encode a text without special tokens: their text is ordinary text."""
        return self.encode(text, disallowed_special=())

    def decode(self, tokens: Iterable[int]) -> str:
        """Decode ids: list, array or tensor of T ids -> str.

        Raises:
            UnknownIdError: if an id is not in the vocabulary.
        """
        ids = [index(i) for i in as_ids(tokens)]
        for position, i in enumerate(ids):
            if not 0 <= i < self.n_vocab or self.id_to_token(i) is None:
                raise UnknownIdError(
                    f"id {i} at position {position} is not in this vocabulary of {self.n_vocab} "
                    "ids: was the text encoded with another tokenizer?"
                )
        return str(self._theirs.decode(ids, skip_special_tokens=False))

    def id_to_token(self, token: int) -> str | None:
        """Return a token as its file spells it, None for an unused id."""
        return self._theirs.id_to_token(token)

    @cached_property
    def unused_ids(self) -> tuple[int, ...]:
        """The ids below `n_vocab` that no token has."""
        return tuple(i for i in range(self.n_vocab) if self.id_to_token(i) is None)

    @property
    def special_tokens_set(self) -> set[str]:
        """The special tokens."""
        return set(self.special_tokens)

    def is_special_token(self, token: int) -> bool:
        """Return whether an id belongs to a special token."""
        return token in self.special_tokens.values()

    @property
    def ends(self) -> dict[str, int]:
        """The ids under the names bos_token_id, eos_token_id and pad_token_id, if known."""
        return known_ends(self)

    @property
    def eot_token(self) -> int:
        """The id that ends a text, which is that of `<|endoftext|>` unless stated otherwise."""
        end = self.eos_token_id
        return self.special_tokens[END_OF_TEXT] if end is None else end

    @cached_property
    def fingerprint(self) -> str:
        """The 64 hex digits stored with token files, equal for tokenizers that give equal ids."""
        return fingerprint(self)

    @cached_property
    def rules_beyond_tokens(self) -> bytes:
        """The digest that distinguishes it from a tokenizer with the same tokens, other rules."""
        around = ("truncation", "padding", "post_processor")
        rules = {key: value for key, value in self._content.items() if key not in around}
        return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).digest()

    def __repr__(self) -> str:
        return f"WrappedTokenizer(name={self.name!r}, n_vocab={self.n_vocab})"

    def __reduce__(self) -> tuple[Callable[..., WrappedTokenizer], tuple[Any, ...]]:
        return type(self), (self._data, self.name, self.ends)
