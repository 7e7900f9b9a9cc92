"""The messages of a conversation, and the check of their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


class ConversationError(ValueError):
    """A conversation that a model can't learn from, or that a file can't hold.

    Args:
        reason: the fault, in the same few words for all conversations that have it.
        detail: what is wrong with this one, and the way out.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason

    def __str__(self) -> str:
        return ": ".join(self.args)


Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One turn of one speaker.

    Args:
        role: "system", "user" or "assistant".
        content: what is said, as plain text; marks in it have no meaning.
        learned: whether a model learns to say it; None means only if the assistant says it.
    """

    role: Role
    content: str
    learned: bool | None = None

    @property
    def is_learned(self) -> bool:
        """Whether a model learns to say it."""
        return self.role == "assistant" if self.learned is None else self.learned


Conversation = Sequence[Message]


def check_turns(messages: Conversation, *, prompt: bool = False) -> None:
    """Refuse messages other than an optional system text, then user and assistant in turn.

    Args:
        messages: the conversation.
        prompt: whether an answer is to follow, so that the last message must be the user's.

    Raises:
        ConversationError: naming the message.
    """
    expected = "user"
    for number, message in enumerate(messages, 1):
        if message.role not in ROLES:
            raise ConversationError(
                "unknown role",
                f"message {number} has role {message.role!r}; allowed are {', '.join(ROLES)}",
            )
        if message.role == "system" and number == 1:
            continue
        if message.role != expected:
            raise _out_of_turn(messages, number, expected)
        if not message.content.strip():
            raise ConversationError(
                "an empty turn", f"message {number} ({message.role}) is empty; leave the turn out"
            )
        expected = "assistant" if message.role == "user" else "user"
    if not any(message.role == "user" for message in messages):
        raise ConversationError(
            "no turn of the user", "the conversation has no message from the user"
        )
    if prompt and expected == "user":
        raise ConversationError(
            "an answer last", "the last message is the assistant's; a prompt ends with the user's"
        )


def _out_of_turn(messages: Conversation, number: int, expected: str) -> ConversationError:
    role, before = messages[number - 1].role, messages[number - 2].role if number > 1 else ""
    reason = (
        "two turns of one role in a row"
        if role == before
        else "a system text that is not first"
        if role == "system"
        else "the assistant first"
    )
    return ConversationError(
        reason,
        f"message {number} has role {role!r} where {expected!r} is expected: an optional system "
        "text first, then user and assistant in turn",
    )
