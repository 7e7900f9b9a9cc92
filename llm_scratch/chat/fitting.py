"""A conversation cut to fit the context: the oldest turns go, system text and newest stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llm_scratch.conversations.messages import Message


class NoRoomError(ValueError):
    """A conversation that does not fit the context.

    Args:
        prompt_tokens: the number of ids in the prompt.
        answer_tokens: the room reserved for an answer.
        context: the maximum number of tokens.
        what: the parts of the prompt, and the way out.
    """

    def __init__(
        self, prompt_tokens: int, answer_tokens: int, context: int, what: tuple[str, str]
    ) -> None:
        super().__init__(
            f"{what[0]} {prompt_tokens:,} tokens, {answer_tokens:,} are reserved for an answer, "
            f"and the context is {context:,}; {what[1]}"
        )
        self.prompt_tokens, self.answer_tokens, self.context = (
            prompt_tokens,
            answer_tokens,
            context,
        )


NEWEST = ("the message and the system text have", "shorten them, or ask for shorter answers")
WHOLE = ("the conversation has", "take turns back, clear it, or let the oldest turns go")
OPEN = ("question and answer have", "ask again, or clear the conversation")


@dataclass(frozen=True)
class Forgotten:
    """The part of a conversation that was dropped so that the rest fits.

    Args:
        messages: the messages, oldest first.
        tokens: the number of tokens that the prompt lost.
        context: the context that it was made to fit.
    """

    messages: tuple[Message, ...] = ()
    tokens: int = 0
    context: int = 0

    @property
    def turns(self) -> int:
        """The number of questions, with their answers."""
        return sum(message.role == "user" for message in self.messages)

    def __str__(self) -> str:
        turns = f"{self.turns} oldest turns" if self.turns > 1 else "oldest turn"
        return f"forgot the {turns} ({self.tokens:,} tokens) to fit {self.context:,}"


@dataclass(frozen=True)
class Fitted:
    """A conversation that fits.

    Args:
        messages: the messages that are left.
        ids: their prompt.
        forgotten: the part that was dropped.
    """

    messages: tuple[Message, ...]
    ids: tuple[int, ...]
    forgotten: Forgotten


def room_for_answer(max_new_tokens: int, context: int) -> int:
    """Return the room reserved for an answer: at most a quarter of the context."""
    return min(max_new_tokens, max(1, context // 4))


def fit(
    messages: Sequence[Message],
    encode: Callable[[Sequence[Message]], list[int]],
    *,
    context: int,
    room: int,
    drop: bool,
) -> Fitted:
    """Return the part of a conversation that fits the context together with an answer.

    Args:
        messages: an optional system text, then user and assistant in turn; the last is the user's.
        encode: returns the prompt of messages.
        context: the maximum number of tokens.
        room: how many of them are reserved for the answer.
        drop: whether the oldest turns are dropped if needed; the system text and the last message
            never are.

    Raises:
        NoRoomError: if the conversation does not fit.
    """
    system = tuple(message for message in messages[:1] if message.role == "system")
    turns = tuple(messages[len(system) :])
    ids = encode([*system, *turns])
    before, gone = len(ids), 0
    while len(ids) + room > context:
        if gone + 2 >= len(turns):
            raise NoRoomError(len(ids), room, context, NEWEST)
        if not drop:
            raise NoRoomError(len(ids), room, context, WHOLE)
        gone += 2
        ids = encode([*system, *turns[gone:]])
    forgotten = Forgotten(turns[:gone], before - len(ids), context) if gone else Forgotten()
    return Fitted((*system, *turns[gone:]), tuple(ids), forgotten)
