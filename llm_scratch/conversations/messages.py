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
