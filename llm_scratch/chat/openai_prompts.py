"""The content of a request: the messages of a chat, or the prompts to complete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llm_scratch.chat.api_errors import refused
from llm_scratch.chat.openai_fields import Fields
from llm_scratch.conversations.messages import Message, Role
from llm_scratch.conversations.turns import shown

ROLES: dict[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant",
}  # fmt: skip
NOT_DONE = ("tool_calls", "function_call", "audio")


@dataclass(frozen=True)
class PromptLimits:
    """The limits on what one request may contain.

    Args:
        messages: messages of a chat.
        characters: characters of all texts.
        prompts: texts or lists of ids in one request.
    """

    messages: int = 500
    characters: int = 400_000
    prompts: int = 256


def read_messages(fields: Fields, limits: PromptLimits) -> list[Message]:
    """Return the messages of a chat; their order is checked when they are encoded.

    Raises:
        ApiError: 400, naming the message.
    """
    values = fields.any("messages")
    if not isinstance(values, list) or not values:
        raise refused("messages", f"is {shown(values)}; a list of messages is needed")
    if len(values) > limits.messages:
        raise refused("messages", f"has {len(values)} of them; up to {limits.messages} are taken")
    messages = [_message(value, f"messages[{i}]") for i, value in enumerate(values)]
    _check_length("messages", [message.content for message in messages], limits)
    return messages


def _message(value: Any, place: str) -> Message:
    if not isinstance(value, dict):
        raise refused(place, f"is {shown(value)}; an object with role and content is needed")
    role = value.get("role")
    if not isinstance(role, str) or role not in ROLES:
        known = ", ".join(ROLES)
        raise refused(f"{place}.role", f"is {shown(role)}; {known} are known here")
    for name in NOT_DONE:
        if value.get(name):
            raise refused(f"{place}.{name}", "is not supported here; leave it out")
    content = value.get("content")
    if isinstance(content, list):
        parts = [_part(part, f"{place}.content[{i}]") for i, part in enumerate(content)]
        content = "".join(parts)
    if not isinstance(content, str):
        raise refused(
            f"{place}.content", f"is {shown(content)}; a text, or parts of text, is needed"
        )
    return Message(ROLES[role], content)


def _part(part: Any, place: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        what = shown(part if kind is None else kind)
        raise refused(place, f"is {what}; only parts of type 'text' are supported")
    if not isinstance(part.get("text"), str):
        raise refused(f"{place}.text", f"is {shown(part.get('text'))}; a text is needed")
    return part["text"]


def read_prompts(fields: Fields, limits: PromptLimits, vocab_size: int) -> list[str | list[int]]:
    """Return the prompts to complete: a text, a list of ids, or several of either.

    Raises:
        ApiError: 400, if they are anything else, or the model does not have an id.
    """
    value = fields.any("prompt")
    one_list = isinstance(value, list) and bool(value) and all(map(_is_id, value))
    prompts = [value] if isinstance(value, str) or one_list else value
    if not isinstance(prompts, list) or not prompts:
        raise refused("prompt", f"is {shown(value)}; a text, ids, or a list of either is needed")
    if len(prompts) > limits.prompts:
        raise refused("prompt", f"has {len(prompts)} of them; up to {limits.prompts} are taken")
    texts = [each for each in prompts if isinstance(each, str)]
    lists = [each for each in prompts if isinstance(each, list) and all(map(_is_id, each))]
    if len(prompts) not in (len(texts), len(lists)):
        raise refused("prompt", "mixes texts, lists of ids, or something else; one kind is needed")
    if any(not each or max(each) >= vocab_size or min(each) < 0 for each in lists):
        raise refused("prompt", f"has a list that is empty, or an id beyond 0 to {vocab_size - 1}")
    _check_length("prompt", texts, limits)
    return prompts


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_length(name: str, texts: list[str], limits: PromptLimits) -> None:
    if (length := sum(map(len, texts))) > limits.characters:
        raise refused(
            name, f"holds {length:,} characters; up to {limits.characters:,} are taken"
        )  # fmt: skip
