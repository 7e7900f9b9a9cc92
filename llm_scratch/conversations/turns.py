"""Turns in files: who speaks, what is said, and whether it is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llm_scratch.conversations.messages import ConversationError, Message, Role

ROLE_NAMES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot"), "assistant"),
}
"""The roles, by the names that files have for them."""
TOOL_ROLES = ("tool", "tools", "tool_call", "tool_response", "function", "function_call",
              "observation", "ipython")  # fmt: skip
TOOL_KEYS = ("tool_calls", "function_call", "tool_call_id", "tools", "functions")
WEIGHTS = ("weight", "loss_weight", "train")  # OpenAI's, LLaMA-Factory's, axolotl's
SHOWN = 40  # characters


class TurnForm(NamedTuple):
    """The way in which one kind of file writes turns.

    Args:
        role: the key of the speaker.
        content: the key of the text.
        names: its names of the three roles; other names are also read.
    """

    role: str
    content: str
    names: Mapping[str, str]


SHAREGPT = TurnForm("from", "value", {"system": "system", "user": "human", "assistant": "gpt"})
MESSAGES = TurnForm("role", "content", {r: r for r in ("system", "user", "assistant")})


class Turns(NamedTuple):
    """The turns of a row.

    Args:
        messages: as the file has them; each is checked on its own, but not their order.
        renamed: whether a role has a different name from the one usual in this kind of file.
    """

    messages: list[Message]
    renamed: bool = False


def read_turns(turns: Any, form: TurnForm, where: str) -> Turns:
    """Read a list of turns.

    Args:
        turns: what a file has in place of the list.
        form: how the turns are written.
        where: the key of the list, for errors.

    Raises:
        ConversationError: naming the turn.
    """
    if not isinstance(turns, list):
        raise ConversationError("no turns", f"{where!r} is {shown(turns)}; a list is needed")
    renamed, messages = False, []
    for number, turn in enumerate(turns, 1):
        place = f"turn {number} of {where!r}"
        check_keys(turn, (form.role, form.content), place)
        refuse_tools(turn, place)
        role = _role_of(turn[form.role], place)
        renamed |= turn[form.role] != form.names[role]
        messages.append(Message(role, text_of(turn[form.content], place), _learned_of(turn, place)))
    return Turns(messages, renamed)


def check_keys(value: Any, keys: Sequence[str], place: str) -> None:
    """Refuse anything but an object with these keys."""
    if not isinstance(value, dict):
        raise ConversationError("not an object", f"{place} is {shown(value)}; an object is needed")
    if missing := [key for key in keys if key not in value]:
        raise ConversationError(
            f"no {missing[0]!r}",
            f"{place} has no {' and no '.join(map(repr, missing))}; it has {listed(value)}",
        )


def refuse_tools(values: Mapping[str, Any], place: str) -> None:
    """Refuse a row or a turn that calls or offers tools."""
    for key in TOOL_KEYS:
        if values.get(key):
            raise ConversationError(
                "tools", f"{place} has {key!r}, and calling tools is not learned here; leave it out"
            )


def text_of(value: Any, place: str) -> str:
    """Return a turn's text: a string, or the joined texts of a list of parts."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ConversationError("no text", f"{place} says {shown(value)}; a text is needed")
    return "".join(_text_of_part(part, place) for part in value)


def _text_of_part(part: Any, place: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, dict) else part
    if kind != "text":
        raise ConversationError(
            "a part that is not text",
            f"{place} has a part that is {shown(kind)}; only text is learned here",
        )
    text = part.get("text", part.get("value"))
    if not isinstance(text, str):
        raise ConversationError("no text", f"{place} has a part of text without its 'text'")
    return text


def _role_of(name: Any, place: str) -> Role:
    known = name.strip().lower() if isinstance(name, str) else None
    if known in TOOL_ROLES:
        raise ConversationError("tools", f"{place} is by {name!r}, which is not learned here")
    if known not in ROLE_NAMES:
        raise ConversationError(
            "unknown role", f"{place} is by {shown(name)}; known are {', '.join(ROLE_NAMES)}"
        )
    return ROLE_NAMES[known]


def _learned_of(turn: Mapping[str, Any], place: str) -> bool | None:
    """Return whether a turn is learned, None if it does not say."""
    for key in WEIGHTS:
        weight = turn.get(key)
        if weight is None:
            continue
        if not isinstance(weight, bool | int | float) or weight not in (0, 1):
            raise ConversationError(
                "a weight that is not 0 or 1",
                f"{place} has {key} {shown(weight)}; 1 is learned, 0 is not",
            )
        return bool(weight)
    return None


def shown(value: Any) -> str:
    """Return any JSON value for an error, shortened."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if value is None:
        return "null"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**SHOWN:
        return "a number of many digits"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def listed(values: Mapping[str, Any]) -> str:
    """Return the keys of a row for an error."""
    names = [shown(name) for name in values]
    return ", ".join(names[:8] + ["..."] * (len(names) > 8)) or "nothing"
