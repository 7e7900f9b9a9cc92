"""Conversations as openassistant-guanaco writes them: one text, with a mark before each turn.

    ### Human: Question### Assistant: Answer### Human: Question

Nothing separates two turns, one blank follows a mark, and a text may end with a question.
"""

from __future__ import annotations

import re
from typing import Any

from llm_scratch.conversations.messages import Conversation, ConversationError, Message, Role
from llm_scratch.conversations.turns import shown

MARKS = {"user": "### Human:", "assistant": "### Assistant:"}
MARK = re.compile("### (?:(Human)|Assistant):( ?)")


def messages_of_text(text: Any) -> list[Message]:
    """Return the turns of a text, with the white space around them.

    Raises:
        ConversationError: if the text does not begin with a mark.
    """
    if not isinstance(text, str):
        raise ConversationError("no text", f"'text' is {shown(text)}; a text is needed")
    marks = list(MARK.finditer(text))
    if not marks:
        raise ConversationError(
            "no marks", f"{shown(text)} has no {MARKS['user']!r} and no {MARKS['assistant']!r}"
        )
    if before := text[: marks[0].start()].strip():
        raise ConversationError("text before the first mark", f"{shown(before)}; remove it")
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    roles: list[Role] = ["user" if mark[1] else "assistant" for mark in marks]
    return [
        Message(role, text[mark.end() : end])
        for role, mark, end in zip(roles, marks, ends, strict=True)
    ]


def text_of_messages(messages: Conversation) -> str:
    """Return a conversation as one text.

    Raises:
        ConversationError: if it has a system text, or a message contains a mark.
    """
    for number, message in enumerate(messages, 1):
        if message.role == "system":
            raise ConversationError("guanaco can't hold a system text", f"message {number} is one")
        if mark := MARK.search(message.content):
            raise ConversationError(
                "guanaco can't hold its own marks in what is said",
                f"message {number} has {mark[0].strip()!r} at position {mark.start()}",
            )
    return "".join(f"{MARKS[message.role]} {message.content}" for message in messages)
