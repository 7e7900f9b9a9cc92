"""Pieces of text, some of them control tokens, as ids and what of them is learned.

Control tokens come from a format alone: what people say is encoded as text, whatever it looks like.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """A piece of a conversation's text.

    Args:
        text: ordinary text; or a control token by its text.
        control: whether it is one control token.
        learned: whether a model learns to write it.
    """

    text: str
    control: bool = False
    learned: bool = False


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
