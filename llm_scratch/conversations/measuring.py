"""The lengths of conversations in tokens, their learned share, and what a context would cut."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from llm_scratch.conversations.encoding import (
    EncodedConversation,
    Format,
    encode_conversation,
    encode_first_turns,
)
from llm_scratch.conversations.messages import Conversation


class Cut(NamedTuple):
    """The loss from conversations that do not fit into a context.

    Whole turns are kept, from the first one up to the last answer that fits with its end.

    Args:
        shortened: conversations that lose their last turns.
        dropped: conversations without a learned answer that fits.
        tokens: tokens lost with both.
    """

    shortened: int
    dropped: int
    tokens: int


@dataclass(frozen=True)
class ConversationLengths:
    """The lengths of conversations; each field has one entry per conversation.

    Args:
        turns: questions.
        tokens: tokens.
        learned: learned tokens.
        ends: the places where a conversation can be cut, which are the ends of its learned answers,
            as the number of tokens that a model reads up to there. The last one is for the whole
            conversation.
    """

    turns: tuple[int, ...]
    tokens: tuple[int, ...]
    learned: tuple[int, ...]
    ends: tuple[tuple[int, ...], ...]

    @property
    def learned_share(self) -> float:
        """The learned share of all tokens, between 0 and 1."""
        return sum(self.learned) / sum(self.tokens)

    def cut(self, context: int) -> Cut:
        """Return what is lost if a model sees `context` tokens at once."""
        shortened = dropped = lost = 0
        for tokens, ends in zip(self.tokens, self.ends, strict=True):
            if ends[-1] <= context:
                continue
            fitting = [end for end in ends if end <= context]
            shortened += bool(fitting)
            dropped += not fitting
            lost += tokens - (fitting[-1] + 1 if fitting else 0)
        return Cut(shortened, dropped, lost)


def measure_conversations(
    conversations: Iterable[Conversation], format: Format, tokenizer: Any
) -> ConversationLengths:
    """Return the lengths of conversations in a format.

    Raises:
        ValueError: if there is no conversation, or the format can't write one; it is named by its
            number from 1.
    """
    turns, tokens, learned, ends = [], [], [], []
    for number, messages in enumerate(conversations, 1):
        try:
            encoded = encode_conversation(messages, format, tokenizer)
        except ValueError as err:
            raise ValueError(f"conversation {number}: {err}") from err
        turns.append(sum(message.role == "user" for message in messages))
        tokens.append(len(encoded.ids))
        learned.append(sum(encoded.learned))
        ends.append(_ends(messages, encoded, format, tokenizer))
    if not tokens:
        raise ValueError("there is no conversation to measure")
    return ConversationLengths(tuple(turns), tuple(tokens), tuple(learned), tuple(ends))


def _ends(
    messages: Conversation, encoded: EncodedConversation, format: Format, tokenizer: Any
) -> tuple[int, ...]:
    """Return the places where a conversation can be cut; the last is the end of the whole."""
    if any(message.is_learned for message in messages if message.role != "assistant"):
        parts = encode_first_turns(messages, format, tokenizer)
        return (*(part.tokens_read for part in parts), encoded.tokens_read)
    after = (*encoded.learned[1:], False)  # only answers are learned, so every end is an answer's
    marks = enumerate(zip(encoded.learned, after, strict=True))
    return tuple(place for place, (now, then) in marks if now and not then)
