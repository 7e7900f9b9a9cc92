"""What somebody said in a conversation, and which conversations are sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One turn of one speaker.

    Args:
        role: "system", "user" or "assistant".
        content: what is said, as plain text: no mark in it means anything.
        learned: whether a model learns to say it; None means: what the assistant says, it does.
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
    """Refuse what is not a conversation: perhaps a system text, then user and assistant in turn.

    Args:
        messages: the conversation.
        prompt: whether an answer is to come, so that the last message is the user's.

    Raises:
        ValueError: naming the message.
    """
    expected = "user"
    for number, message in enumerate(messages, 1):
        if message.role not in ROLES:
            raise ValueError(
                f"message {number} is of role {message.role!r}; allowed are {', '.join(ROLES)}"
            )
        if message.role == "system" and number == 1:
            continue
        if message.role != expected:
            raise ValueError(
                f"message {number} is of role {message.role!r} where {expected!r} is expected: "
                "perhaps a system text first, then user and assistant in turn"
            )
        if not message.content.strip():
            raise ValueError(f"message {number} ({message.role}) is empty; leave the turn out")
        expected = "assistant" if message.role == "user" else "user"
    if not any(message.role == "user" for message in messages):
        raise ValueError("the conversation has no message of the user's")
    if prompt and expected == "user":
        raise ValueError("the last message is the assistant's; a prompt ends with the user's")
