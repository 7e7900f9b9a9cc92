"""Pieces of text and control tokens as ids, each marked as learned or not.

Only a format writes control tokens. What people say is encoded as text, whatever it looks like.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

from llm_scratch.conversations.messages import Conversation, Message
from llm_scratch.tokenizers.any_tokenizer import (
    begin_of_text_id,
    decode,
    encode,
    end_of_text_id,
    special_tokens_of,
)


@dataclass(frozen=True)
class Segment:
    """A piece of a conversation's text.

    Args:
        text: ordinary text, or the text of a control token.
        control: whether it is one control token.
        learned: whether a model learns to write it.
        starts: whether an answer starts with it, so that a prompt ends before it.
    """

    text: str
    control: bool = False
    learned: bool = False
    starts: bool = False


@dataclass(frozen=True)
class EncodedConversation:
    """A conversation as a model reads it.

    Args:
        ids: token ids.
        learned: for each id, whether a model learns to write it.
    """

    ids: tuple[int, ...]
    learned: tuple[bool, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.learned):
            raise ValueError(f"{len(self.ids)} ids and {len(self.learned)} marks; one for each")

    @property
    def tokens_read(self) -> int:
        """The number of tokens that a model reads to learn it: all before the last learned one."""
        return len(self.learned) - 1 - self.learned[::-1].index(True)


class Format(Protocol):
    """The interface that built-in formats and foreign templates share."""

    @property
    def name(self) -> str:
        """The name of the format."""

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts that end an answer if a model writes them instead of the end token."""

    @property
    def before_input(self) -> str:
        """The text between an instruction and its input."""

    @property
    def input_system(self) -> str | None:
        """The system text for instructions with an input, if they have one of their own."""

    def segments(
        self, messages: Sequence[Message], tokenizer: Any, *, prompt: bool = False
    ) -> list[Segment]:
        """Return the pieces of a conversation's text; a prompt ends where an answer starts."""

    def end_ids(self, tokenizer: Any) -> tuple[int, ...]:
        """Return the ids that end an answer."""

    def jinja(self, tokenizer: Any = None) -> str:
        """Return the format as the Jinja text that other programs read."""


def encode_conversation(
    messages: Conversation, format: Format, tokenizer: Any
) -> EncodedConversation:
    """Encode a whole conversation to learn from.

    The assistant's answers are learned, each with the token that ends it. The ids of a prompt, up
    to any of its answers, are a prefix of these ids.

    Args:
        messages: an optional system text, then user and assistant in turn.
        format: how they become text.
        tokenizer: any tokenizer that has the format's control tokens.

    Raises:
        ValueError: if the turns are out of order or empty, if there is nothing to learn, or if the
            tokenizer lacks a control token.
    """
    ids: list[int] = []
    learned: list[bool] = []
    for piece, is_learned in _stretches(format.segments(messages, tokenizer), tokenizer):
        ids += piece
        learned += [is_learned] * len(piece)
    if not any(learned):
        raise ValueError(
            "nothing in the conversation is learned; it needs an answer from the assistant"
        )
    return EncodedConversation(tuple(ids), tuple(learned))


def encode_first_turns(
    messages: Conversation, format: Format, tokenizer: Any
) -> Iterator[EncodedConversation]:
    """Yield a conversation up to each of its learned answers, the shortest first.

    A conversation that is too long is cut to one of these.

    Raises:
        ValueError: as `encode_conversation`.
    """
    for end, message in enumerate(messages, 1):
        if message.role == "assistant" and message.is_learned:
            yield encode_conversation(messages[:end], format, tokenizer)


def encode_prompt(messages: Conversation, format: Format, tokenizer: Any) -> list[int]:
    """Encode a conversation up to the start of the assistant's next answer.

    Args:
        messages: as in `encode_conversation`; the last one is the user's.
        format: how they become text.
        tokenizer: any tokenizer that has the format's control tokens.

    Raises:
        ValueError: as `encode_conversation`, and if the last message is not the user's.
    """
    pieces = format.segments(messages, tokenizer, prompt=True)
    return [i for piece, _ in _stretches(pieces, tokenizer) for i in piece]


def control_ids(tokens: Sequence[str], tokenizer: Any) -> dict[str, int]:
    """Return the ids of special tokens, without those that the tokenizer lacks."""
    known = special_tokens_of(tokenizer)
    ids = {text: encode(tokenizer, text) for text in dict.fromkeys(tokens) if text in known}
    return {text: found[0] for text, found in ids.items() if len(found) == 1}


def _stretches(segments: Sequence[Segment], tokenizer: Any) -> Iterator[tuple[Sequence[int], bool]]:
    """Yield the ids of each control token and each stretch of text, and whether they are learned.

    Adjacent pieces of text are encoded together, as one stretch. A new stretch begins where an
    answer starts, and where learning begins or ends.
    """
    ids = control_ids([piece.text for piece in segments if piece.control], tokenizer)
    for mark in (begin_of_text_id(tokenizer), end_of_text_id(tokenizer)):
        if mark is not None:
            ids.setdefault(decode(tokenizer, [mark]), mark)
    number, numbered = 0, []
    before: Segment | None = None
    for piece in segments:
        if before is None or piece.control or piece.starts or _differ(before, piece):
            number += 1
        numbered.append((number, piece))
        before = piece
    after_text = False
    for _, group in groupby(numbered, key=lambda pair: pair[0]):
        stretch = [piece for _, piece in group]
        text, control = "".join(piece.text for piece in stretch), stretch[0].control
        found = [ids[text]] if control else _encode_text(tokenizer, text, after_text)
        after_text = bool(text) and not control
        yield found, stretch[0].learned


def _differ(one: Segment, other: Segment) -> bool:
    return one.control != other.control or one.learned != other.learned


def _encode_text(tokenizer: Any, text: str, after_text: bool) -> list[int]:
    """Encode a stretch of text, without a leading blank if it continues other text.

    Tokenizers of SentencePiece's kind put a blank before every text that they are given.
    """
    if not after_text or not text:
        return encode(tokenizer, text, "text")
    line, alone = encode(tokenizer, "\n", "text"), encode(tokenizer, "a", "text")
    joined = encode(tokenizer, "\na", "text")
    if joined[: len(line)] != line or joined[len(line) :] == alone:
        return encode(tokenizer, text, "text")
    return encode(tokenizer, "\n" + text, "text")[len(line) :]
