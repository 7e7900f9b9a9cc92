"""The kinds of conversation files: how to tell them by a row, and a row's messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llm_scratch.conversations.guanaco import messages_of_text
from llm_scratch.conversations.messages import ConversationError, Message, Role
from llm_scratch.conversations.turns import (
    MESSAGES,
    SHAREGPT,
    Turns,
    check_keys,
    listed,
    read_turns,
    refuse_tools,
    shown,
    text_of,
)

GUANACO, SHARE, OPENAI, ALPACA, COMPLETION = KINDS = (
    "guanaco",
    "sharegpt",
    "messages",
    "alpaca",
    "prompt-completion",
)
LISTS = ("messages", "conversations", "conversation")
"""The keys that hold turns; files use each of them for both ways to write a turn."""
KEYS = (*LISTS, "text", "instruction", "input", "output", "history", "system", "prompt",
        "completion", "tools", "functions")  # fmt: skip
"""All keys of a row that are read here."""


def told_kind(row: Mapping[str, Any]) -> str:
    """Return the kind of file that a row is from, told by its keys.

    Raises:
        ConversationError: if the keys fit no kind.
    """
    for key in LISTS:
        if key in row:
            return SHARE if _is_share(row[key], key) else OPENAI
    if "instruction" in row:
        return ALPACA
    if {"prompt", "completion"} <= set(row):
        return COMPLETION
    if {"chosen", "rejected"} & set(row):
        raise ConversationError(
            "preferences",
            "it has 'chosen' or 'rejected', two answers to compare; llm-scratch finetune prefer "
            "learns from them",
        )
    if "text" in row:
        return GUANACO
    raise ConversationError(
        "of no known kind", f"its keys are {listed(row)}; known kinds are {', '.join(KINDS)}"
    )


def _is_share(turns: Any, key: str) -> bool:
    """Say whether turns are ShareGPT's, by the first turn or else by the key of their list."""
    first = turns[0] if isinstance(turns, list) and turns else None
    if isinstance(first, dict) and first:
        return "from" in first or "value" in first
    return key != "messages"


def turns_of(row: Mapping[str, Any], kind: str) -> Turns:
    """Return the turns in a row of a kind, each checked on its own.

    Raises:
        ConversationError: if the row is not of this kind, or one of its turns can't be read.
    """
    refuse_tools(row, "it")
    if kind == GUANACO:
        check_keys(row, ("text",), "it")
        return Turns(messages_of_text(row["text"]))
    if kind == ALPACA:
        turns = Turns(_alpaca(row))
    elif kind == COMPLETION:
        turns = _prompt_and_completion(row)
    else:
        key = next((key for key in LISTS if key in row), None)
        if key is None:
            raise ConversationError("no turns", f"it has no {LISTS[0]!r}; it has {listed(row)}")
        turns = read_turns(row[key], SHAREGPT if kind == SHARE else MESSAGES, key)
    return _with_system(row, turns)


def _with_system(row: Mapping[str, Any], turns: Turns) -> Turns:
    """Put a row's own system text, as in LLaMA-Factory's files, in front of the turns."""
    system = row.get("system")
    if system is None or system == "":
        return turns
    return Turns([Message("system", text_of(system, "'system'")), *turns.messages], turns.renamed)


def _alpaca(row: Mapping[str, Any]) -> list[Message]:
    check_keys(row, ("instruction", "output"), "it")
    asked = [text_of(row["instruction"], "'instruction'")]
    if row.get("input") is not None:
        asked.append(text_of(row["input"], "'input'"))
    messages = []
    history = row.get("history")
    for pair in [] if history is None else history if isinstance(history, list) else [history]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ConversationError(
                "no pairs in 'history'", f"it holds {shown(pair)}; lists of two texts are needed"
            )
        texts = [text_of(text, "'history'") for text in pair]
        messages += [Message("user", texts[0]), Message("assistant", texts[1])]
    said = "\n\n".join(text for text in asked if text.strip())
    return [
        *messages,
        Message("user", said),
        Message("assistant", text_of(row["output"], "'output'")),
    ]


def _prompt_and_completion(row: Mapping[str, Any]) -> Turns:
    """Return the turns of both; the assistant's turns in the prompt are not learned."""
    check_keys(row, ("prompt", "completion"), "it")
    prompt = _turns_or_text(row, "prompt", "user")
    completion = _turns_or_text(row, "completion", "assistant")
    known = [
        replace(message, learned=False)
        if message.role == "assistant" and message.learned is None
        else message
        for message in prompt.messages
    ]
    return Turns(known + completion.messages, prompt.renamed or completion.renamed)


def _turns_or_text(row: Mapping[str, Any], key: str, role: Role) -> Turns:
    if isinstance(row[key], list):
        return read_turns(row[key], MESSAGES, key)
    return Turns([Message(role, text_of(row[key], repr(key)))])
