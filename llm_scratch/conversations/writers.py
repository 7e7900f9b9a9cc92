"""Conversations written as files of each kind, if the kind can hold them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from llm_scratch.conversations.encoding import Format
from llm_scratch.conversations.guanaco import text_of_messages
from llm_scratch.conversations.kinds import ALPACA, COMPLETION, GUANACO, KINDS, OPENAI, SHARE
from llm_scratch.conversations.messages import Conversation, ConversationError, Message
from llm_scratch.conversations.repairs import repaired
from llm_scratch.conversations.turns import SHAREGPT
from llm_scratch.data_files import LINES
from llm_scratch.files import FileError, write_text
from llm_scratch.tokenizers.any_tokenizer import any_of, check_surrogates, special_tokens_of

Row = dict[str, Any]


def write_conversations(
    conversations: Iterable[Conversation],
    path: str | os.PathLike[str],
    kind: str,
    *,
    skip_bad: bool = False,
) -> dict[str, int]:
    """Write conversations as a file of a kind; return how many were left out, by reason.

    Args:
        conversations: the messages of each.
        path: `.jsonl` has one row per line, `.json` is a list.
        kind: of `KINDS`. In all but "messages", every answer of the assistant is learned
            ("prompt-completion": the last answer). A conversation in which other turns are learned,
            or that the kind has no place for, is refused.
        skip_bad: whether to leave out and count such conversations, instead of an error.

    Raises:
        ValueError: if the kind can't hold a conversation, naming it by its number from 1; if none
            is left.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind=} is not a kind of file; known are {', '.join(KINDS)}")
    return write_rows(conversations, path, lambda messages: row_of(messages, kind), skip_bad)


def write_rows(
    conversations: Iterable[Conversation],
    path: str | os.PathLike[str],
    row_of: Callable[[Conversation], Row],
    skip_bad: bool = False,
) -> dict[str, int]:
    """Write the row that each conversation becomes; see `write_conversations`."""
    ending = Path(path).suffix.lower()
    if ending not in (".json", *LINES):
        raise FileError(path, f"must end in .json or {' or '.join(LINES)}, which says its form")
    lines, dropped = [], Counter[str]()
    for number, messages in enumerate(conversations, 1):
        try:
            row = row_of(messages)
        except ConversationError as err:
            if not skip_bad:
                raise ConversationError(
                    err.reason, f"conversation {number}: {err.args[1]}"
                ) from err
            dropped[err.reason] += 1
        else:
            lines.append(json.dumps(row, ensure_ascii=False))
    if not lines:
        left_out = ", ".join(f"{count} for {reason}" for reason, count in dropped.items())
        raise ValueError(f"no conversation is left to write to {path} ({left_out or 'none came'})")
    is_list = ending == ".json"
    text = "[\n" + ",\n".join(lines) + "\n]\n" if is_list else "\n".join(lines) + "\n"
    write_text(path, text)
    return dict(dropped)


def row_of(messages: Conversation, kind: str) -> Row:
    """Return a conversation as a row of a kind.

    Raises:
        ConversationError: if the kind can't hold it.
    """
    repaired(messages)
    for number, message in enumerate(messages, 1):
        try:
            check_surrogates(message.content, f"message {number} has a ")
        except ValueError as err:
            raise ConversationError("half a character", str(err)) from err
    return _ROWS[kind](messages)


def text_row(messages: Conversation, format: Format, tokenizer: Any) -> Row:
    """Return a conversation as a row with one text, as a format writes it, with control tokens.

    Raises:
        ConversationError: if a message holds a control token, which readers would take for one.
        ValueError: if the tokenizer lacks a control token of the format.
    """
    repaired(messages)
    specials = frozenset(special_tokens_of(tokenizer))
    pieces = format.segments(messages, tokenizer)
    for piece in pieces:
        if specials and not piece.control and (found := any_of(specials).search(piece.text)):
            raise ConversationError(
                "a control token in a message",
                f"it contains {found[0]!r}, which in a text can't be told from the format's own",
            )
    return {"text": "".join(piece.text for piece in pieces)}


def _guanaco(messages: Conversation) -> Row:
    _check_all_learned(messages, GUANACO)
    return {"text": text_of_messages(messages)}


def _sharegpt(messages: Conversation) -> Row:
    _check_all_learned(messages, SHARE)
    names, role, content = SHAREGPT.names, SHAREGPT.role, SHAREGPT.content
    return {"conversations": [{role: names[m.role], content: m.content} for m in messages]}


def _messages(messages: Conversation) -> Row:
    return {"messages": [_message(message, message.learned) for message in messages]}


def _message(message: Message, learned: bool | None = None) -> Row:
    row: Row = {"role": message.role, "content": message.content}
    return row if learned is None else row | {"weight": int(learned)}


def _alpaca(messages: Conversation) -> Row:
    _check_all_learned(messages, ALPACA)
    if [message.role for message in messages] != ["user", "assistant"]:
        raise ConversationError(
            "alpaca can't hold more than a question and its answer",
            f"its turns are {', '.join(message.role for message in messages)}",
        )
    return {"instruction": messages[0].content, "input": "", "output": messages[1].content}


def _completion(messages: Conversation) -> Row:
    *before, last = messages
    if last.role != "assistant" or [m.is_learned for m in messages] != [False] * len(before) + [
        True
    ]:
        raise ConversationError(
            "prompt-completion can't hold learned turns beside the last answer",
            "its last answer alone must be learned",
        )
    if [message.role for message in before] == ["user"]:
        return {"prompt": before[0].content, "completion": last.content}
    return {"prompt": [_message(m) for m in before], "completion": [_message(last)]}


_ROWS: Mapping[str, Callable[[Conversation], Row]] = {
    GUANACO: _guanaco,
    SHARE: _sharegpt,
    OPENAI: _messages,
    ALPACA: _alpaca,
    COMPLETION: _completion,
}


def _check_all_learned(messages: Conversation, kind: str) -> None:
    for number, message in enumerate(messages, 1):
        if message.is_learned != (message.role == "assistant"):
            state = "learned" if message.is_learned else "not learned"
            raise ConversationError(
                f"{kind} can't hold which turns are learned",
                f"message {number} ({message.role}) is {state}; messages can hold it",
            )
