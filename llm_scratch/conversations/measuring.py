"""How long conversations are as ids, how much of them is learned, and what a context would cut."""

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
    """The loss of conversations that do not fit into a context.

    Whole turns are kept, from the first one up to an answer that fits with what ends it.

    Args:
        shortened: conversations that lose their last turns.
        dropped: conversations of which no answer that is learned fits.
        tokens: tokens that are lost with both.
    """

    shortened: int
    dropped: int
    tokens: int


@dataclass(frozen=True)
class ConversationLengths:
    """Conversations in numbers, one of each for a conversation.

    Args:
        turns: questions.
        tokens: tokens.
        learned: tokens that are learned.
        ends: where a conversation can be cut, at the end of an answer that is learned: how many
            tokens a model reads up to there. The last one is for the whole conversation.
    """

    turns: tuple[int, ...]
    tokens: tuple[int, ...]
    learned: tuple[int, ...]
    ends: tuple[tuple[int, ...], ...]

    @property
    def learned_share(self) -> float:
        """The share of all tokens that is learned, between 0 and 1."""
        return sum(self.learned) / sum(self.tokens)

    def cut(self, context: int) -> Cut:
        """Return what is lost where a model sees `context` tokens at once."""
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
        ValueError: naming the conversation by its number from 1, if the format can't write it, or
            there is none.
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
    """Return where a conversation can be cut, and how many tokens are read of the whole."""
    if any(message.is_learned for message in messages if message.role != "assistant"):
        parts = encode_first_turns(messages, format, tokenizer)
        return (*(part.tokens_read for part in parts), encoded.tokens_read)
    after = (*encoded.learned[1:], False)  # the assistant alone is learned: an end is an answer's
    marks = enumerate(zip(encoded.learned, after, strict=True))
    return tuple(place for place, (now, then) in marks if now and not then)
