"""Functions for any tokenizer: encode, decode, stream, and tell tokenizers apart.

They take this library's tokenizers, tiktoken's, Hugging Face's, or any object with
`encode(text)` and `decode(ids)`.
"""

from __future__ import annotations

import codecs
import hashlib
import inspect
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from llm_scratch.tokenizers.simple import END_OF_TEXT

if TYPE_CHECKING:
    from torch import Tensor

Special = Literal["allow", "text", "raise"]

# Letters, contractions, digits, runs of blanks, line breaks and characters of two to four bytes:
# two tokenizers that agree on it split text by the same rule.
PROBE_TEXT = (
    "Don't panic:  it's 1908,\n\n\tna\u00efve \u20ac5 \u6f22\u5b57 \U0001f525!  we'll see ..."
)


def encode(tokenizer: Any, text: str, special: Special = "allow") -> list[int]:
    """Encode a text with any tokenizer: str -> list of ids.

    The signature of `tokenizer.encode` decides how it is called. Start and end marks that the
    tokenizer would add are left out: the ids are those of the text alone.

    Args:
        tokenizer: anything with `encode(text)`.
        text: the text.
        special: how to treat a special token written in the text. "allow": as its one id (right
            for a corpus); "text": as ordinary characters (right for user input); "raise": an error.

    Raises:
        ValueError: if `special` is "raise" and the text holds a special token, or "text" and
            the tokenizer cannot read its special tokens as ordinary text.
    """
    if not isinstance(text, str):
        raise TypeError(f"the text to encode must be a str, got {type(text).__name__}")
    if special not in ("allow", "text", "raise"):
        raise ValueError(f"{special=} must be 'allow', 'text' or 'raise'")
    names = _parameters(tokenizer.encode)
    if "disallowed_special" in names and "allowed_special" in names:
        ids = tokenizer.encode(text, **_TIKTOKEN_ARGUMENTS[special])
    elif "add_special_tokens" in names:
        ids = _encode_hugging_face(tokenizer, text, special, names)
    else:
        ids = _encode_plain(tokenizer, text, special, names)
    return _as_list(ids)


_TIKTOKEN_ARGUMENTS: dict[str, dict[str, Any]] = {
    "allow": {"allowed_special": "all", "disallowed_special": ()},
    "text": {"allowed_special": frozenset(), "disallowed_special": ()},
    "raise": {"allowed_special": frozenset(), "disallowed_special": "all"},
}


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Decode ids with any tokenizer: list of ids -> str, special tokens and spaces kept."""
    names = _parameters(tokenizer.decode)
    options: dict[str, Any] = {}
    if "skip_special_tokens" in names:
        options["skip_special_tokens"] = False
        if "kwargs" in names or "clean_up_tokenization_spaces" in names:
            options["clean_up_tokenization_spaces"] = False
    return tokenizer.decode(_as_list(ids), **options)


def vocab_size_of(tokenizer: Any) -> int | None:
    """Return the number of ids that a model for this tokenizer needs, None if it is unknown."""
    if isinstance(size := getattr(tokenizer, "n_vocab", None), int):
        return size
    if callable(count := getattr(tokenizer, "get_vocab_size", None)):  # tokenizers
        return int(count())
    if isinstance(size := getattr(tokenizer, "vocab_size", None), int):
        # In transformers `vocab_size` leaves out the tokens added later, `len` counts them.
        return max(size, len(tokenizer)) if hasattr(tokenizer, "__len__") else size
    for name in ("str_to_int", "vocab"):
        if isinstance(table := getattr(tokenizer, name, None), dict) and table:
            ids = [i for pair in table.items() for i in pair if isinstance(i, int)]
            return max(ids) + 1 if ids else None
    return None


def special_tokens_of(tokenizer: Any) -> set[str]:
    """Return the special tokens that a tokenizer knows; the set may be empty."""
    if (names := getattr(tokenizer, "special_tokens_set", None)) is not None:
        return set(names)
    if (names := getattr(tokenizer, "all_special_tokens", None)) is not None:  # transformers
        return set(names)
    if callable(added := getattr(tokenizer, "get_added_tokens_decoder", None)):  # tokenizers
        return {token.content for token in added().values() if token.special}
    return set()


def end_of_text_id(tokenizer: Any) -> int | None:
    """Return the end-of-text id of a tokenizer's vocabulary, None if there is none.

    It is the end-of-sequence id, as transformers calls it, that the tokenizer states, or else the
    id of `<|endoftext|>` if that is a special token.
    """
    if isinstance(token_id := getattr(tokenizer, "eos_token_id", None), int):
        return token_id
    name = getattr(tokenizer, "eos_token", None) or END_OF_TEXT
    ids = encode(tokenizer, name) if name in special_tokens_of(tokenizer) else []
    return ids[0] if len(ids) == 1 else None


def begin_of_text_id(tokenizer: Any) -> int | None:
    """Return the id that a tokenizer puts before a text, None if it puts none."""
    if hasattr(tokenizer, "begin_of_text_id"):  # this library's
        return tokenizer.begin_of_text_id
    if "add_special_tokens" not in _parameters(tokenizer.encode):
        return None
    ids, bare = _as_list(tokenizer.encode("a")), encode(tokenizer, "a")
    return ids[0] if len(ids) > len(bare) and ids[: len(bare)] != bare else None


def fingerprint(tokenizer: Any) -> str:
    """Return 64 hex digits that distinguish tokenizers with other vocabularies or other rules.

    The hash covers the bytes of every token in id order, the special tokens, and the ids of a
    fixed text. It is equal for this library's GPT-2 tokenizers and tiktoken's. Hugging Face's
    tokenizer spells its tokens with other characters and has another fingerprint.
    """
    if (known := vars(type(tokenizer)).get("FINGERPRINT")) is not None:
        return known
    digest = hashlib.sha256()
    for token in _tokens_in_id_order(tokenizer):
        digest.update(b"-" if token is None else b"%d:%b" % (len(token), token))
    specials = sorted(special_tokens_of(tokenizer))
    digest.update("\0".join(["specials", *specials]).encode("utf-8"))
    if words := getattr(tokenizer, "added_words", None):
        digest.update("\0".join(["words", *sorted(words)]).encode("utf-8"))
    digest.update(getattr(tokenizer, "rules_beyond_tokens", b""))
    try:
        ids = encode(tokenizer, PROBE_TEXT)
    except (KeyError, ValueError):  # a vocabulary of words that lacks a word of the probe
        ids = []
    digest.update(f"probe {ids}".encode())
    return digest.hexdigest()


class IncrementalDecoder:
    """A decoder that turns ids into text one at a time and never returns half a character.

    `push` returns the text that an id completes ("" while a character is unfinished), `flush` the
    rest. The joined pieces equal the text of all ids decoded at once.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._bytes_of = _bytes_getter(tokenizer)
        self._reset()

    def _reset(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._ids: list[int] = []
        self._given = ""

    def push(self, token_id: int) -> str:
        """Take the next id and return the text that it completes, often "" or a word."""
        token_id = int(token_id)
        if self._bytes_of is not None:
            return self._utf8.decode(self._bytes_of(token_id))
        text = decode(self._tokenizer, [*self._ids, token_id])
        self._ids.append(token_id)
        # `decode` returns U+FFFD for characters at the end that may still change.
        finished = text.rstrip("\ufffd")
        if len(finished) <= len(self._given) or not text.startswith(self._given):
            return ""
        piece = finished[len(self._given) :]
        self._given = finished
        return piece

    def flush(self) -> str:
        """Return the rest, with U+FFFD for an unfinished character, and start over."""
        if self._bytes_of is not None:
            rest = self._utf8.decode(b"", final=True)
        else:
            text = decode(self._tokenizer, self._ids) if self._ids else ""
            rest = text[len(self._given) :]
        self._reset()
        return rest


def text_to_token_ids(text: str, tokenizer: Any) -> Tensor:
    """Encode a text as a batch of one: str -> (1, T) int64; special tokens become their ids.

    Source:
        Book 5.1.1.
    """
    import torch

    return torch.tensor([encode(tokenizer, text)], dtype=torch.int64)


def token_ids_to_text(token_ids: Tensor, tokenizer: Any) -> str | list[str]:
    """Decode ids: (1, T), (T,) or () -> the text; (B, T) with another B -> a list of B texts.

    Source:
        Book 5.1.1 (which has it for a batch of one).
    """
    import torch

    ids = torch.as_tensor(token_ids)
    if ids.is_floating_point() and ids.numel() > 0:
        raise TypeError(f"token ids must be integers, got a tensor of {ids.dtype}")
    if ids.dim() > 2:
        raise ValueError(f"token ids must be (T,) or (B, T), got shape {tuple(ids.shape)}")
    if ids.dim() == 2 and len(ids) != 1:
        return [decode(tokenizer, row) for row in ids.tolist()]
    return decode(tokenizer, ids.flatten().tolist())


def check_special_tokens(
    text: str,
    specials: Collection[str],
    allowed_special: Literal["all"] | Collection[str],
    disallowed_special: Literal["all"] | Collection[str],
) -> set[str]:
    """Return the special tokens to look for in a text, by tiktoken's rule.

    Raises:
        ValueError: if the text holds one of the disallowed tokens.
    """
    for name, value in (("allowed", allowed_special), ("disallowed", disallowed_special)):
        if isinstance(value, str) and value not in ("all", ""):
            raise TypeError(f"{name}_special must be 'all' or a set of tokens, got {value!r}")
    allowed = set(specials) if allowed_special == "all" else set(allowed_special)
    refused = set(specials) - allowed if disallowed_special == "all" else set(disallowed_special)
    if refused and (found := any_of(frozenset(refused)).search(text)):
        raise ValueError(
            f"Encountered text corresponding to disallowed special token {found.group()!r} at "
            f"position {found.start()}; pass allowed_special={{{found.group()!r}}} to make it one "
            "id, or disallowed_special=() to read it as ordinary text"
        )
    return allowed


def check_surrogates(text: str, name: str = "") -> None:
    """Raise a ValueError that names a text's first surrogate, for which UTF-8 has no bytes."""
    try:
        if not text.isascii():  # checked first, since it costs nothing
            text.encode("utf-8")
    except UnicodeEncodeError as err:
        raise ValueError(
            f"{name}lone surrogate {text[err.start]!r} at position {err.start} cannot be encoded; "
            "read the text as UTF-8, or drop it with text.encode('utf-8', 'ignore').decode('utf-8')"
        ) from err


@lru_cache(maxsize=64)
def any_of(tokens: frozenset[str]) -> re.Pattern[str]:
    """Return a pattern that finds any of some tokens, as a group for `split`."""
    # Longest first: a token may begin with another one.
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")


def _parameters(method: Any) -> frozenset[str]:
    return _parameters_of(getattr(method, "__func__", method))


@lru_cache(maxsize=64)
def _parameters_of(function: Any) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # a compiled method without a signature
        return frozenset()


def _encode_hugging_face(tokenizer: Any, text: str, special: Special, names: frozenset) -> Any:
    if special == "raise":
        check_special_tokens(text, special_tokens_of(tokenizer), (), "all")
    if "kwargs" in names or "split_special_tokens" in names:  # transformers
        return tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=special == "text"
        )
    before = getattr(tokenizer, "encode_special_tokens", None)
    if before is None:
        return _encode_plain(tokenizer, text, special, names, add_special_tokens=False)
    try:
        tokenizer.encode_special_tokens = special == "text"
        return tokenizer.encode(text, add_special_tokens=False)
    finally:
        tokenizer.encode_special_tokens = before


def _encode_plain(
    tokenizer: Any, text: str, special: Special, names: frozenset, **options: Any
) -> Any:
    specials = special_tokens_of(tokenizer)
    if special == "raise":
        check_special_tokens(text, specials, (), "all")
    if "allowed_special" in names:  # the book's own BPE class
        allowed = specials or {END_OF_TEXT}
        options["allowed_special"] = allowed if special == "allow" else set()
    elif special == "text" and specials and (found := any_of(frozenset(specials)).search(text)):
        raise ValueError(
            f"{type(tokenizer).__name__} cannot read its special token {found.group()!r} at "
            f"position {found.start()} as ordinary text; remove it, or pass special='allow'"
        )
    return tokenizer.encode(text, **options)


def _as_list(ids: Any) -> list[int]:
    ids = getattr(ids, "ids", ids)  # the Encoding of Hugging Face's tokenizers
    ids = ids.tolist() if hasattr(ids, "tolist") else ids
    if isinstance(ids, list) and (not ids or type(ids[0]) is int):
        return ids
    return [int(i) for i in ids]


def token_bytes(tokenizer: Any, token_id: int) -> bytes | None:
    """Return the bytes of one token; None if the tokenizer has only text, or no such id.

    For a token that is part of a character, the text is not exact, but the bytes are.
    """
    bytes_of = _bytes_getter(tokenizer)
    try:
        return None if bytes_of is None else bytes_of(token_id)
    except (KeyError, ValueError):  # a gap in the ids
        return None


def _bytes_getter(tokenizer: Any) -> Callable[[int], bytes] | None:
    """Return a function from an id to its bytes, None for a tokenizer that has only text."""
    if hasattr(tokenizer, "decode_single_token_bytes"):
        return tokenizer.decode_single_token_bytes
    if hasattr(tokenizer, "decode_bytes"):
        return lambda token_id: bytes(tokenizer.decode_bytes([token_id]))
    return None


def _tokens_in_id_order(tokenizer: Any) -> Iterator[bytes | None]:
    name_of = getattr(tokenizer, "convert_ids_to_tokens", getattr(tokenizer, "id_to_token", None))
    bytes_of = _bytes_getter(tokenizer)
    for token_id in range(vocab_size_of(tokenizer) or 0):
        try:
            if bytes_of is not None:
                yield bytes_of(token_id)
            else:
                name = name_of(token_id) if name_of else decode(tokenizer, [token_id])
                yield None if name is None else name.encode("utf-8")
        except (KeyError, ValueError):  # a gap in the ids
            yield None
