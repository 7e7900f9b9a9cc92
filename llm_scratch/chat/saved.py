"""A conversation in a file: its messages, its settings and its model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from llm_scratch.chat.options import ChatOptions
from llm_scratch.chat.replies import messages_as_html
from llm_scratch.checks import check_count
from llm_scratch.conversations.messages import ROLES, Message
from llm_scratch.conversations.turns import shown
from llm_scratch.files import FileError, PathLike, first_line, read_json, write_json
from llm_scratch.model.wrappers import unwrapped
from llm_scratch.weights.folder_metadata import checksum

VERSION = 1
LONGEST = 1 << 26  # bytes
KEYS = ("format_version", "model", "weights_sha256", "format", "settings", "messages")


class ChatFileError(FileError):
    """The error for a file that is damaged, or not a saved conversation."""


@dataclass(frozen=True)
class SavedChat:
    """A conversation as saved in a file; no model is needed to look at it.

    Args:
        messages: an optional system text, then user and assistant in turn.
        settings: the settings of the session, by name.
        model: the name of the model.
        weights_sha256: the checksum of its weights.
        format: the name of the format.
    """

    messages: tuple[Message, ...]
    settings: Mapping[str, Any]
    model: str
    weights_sha256: str
    format: str

    def _repr_html_(self) -> str:
        return messages_as_html(self.messages)


def weights_mark(model: Any) -> str:
    """Return a SHA-256 over the names and checksums of a model's tensors, in hexadecimal."""
    tensors = unwrapped(model).state_dict().items()
    sums = {name: checksum(each.cpu()) for name, each in tensors if isinstance(each, Tensor)}
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode("utf-8")).hexdigest()


def write_chat(path: PathLike, chat: SavedChat) -> None:
    """Write a conversation as JSON, atomically."""
    messages = [{"role": each.role, "content": each.content} for each in chat.messages]
    values = (VERSION, chat.model, chat.weights_sha256, chat.format, dict(chat.settings), messages)
    write_json(path, dict(zip(KEYS, values, strict=True)))


def read_chat(path: PathLike) -> SavedChat:
    """Return the conversation that `ChatSession.save` wrote; no model is needed.

    Raises:
        FileNotFoundError: if there is no such file.
        ChatFileError: if it holds something else, or is damaged.
    """
    content = read_json(path, most_bytes=LONGEST, error=ChatFileError)
    if missing := [key for key in KEYS if key not in content]:
        raise ChatFileError(path, f"is not a saved chat: it has no {missing[0]!r}")
    if content["format_version"] != VERSION:
        version = shown(content["format_version"])
        raise ChatFileError(path, f"is a chat of version {version}, this library reads {VERSION}")
    names = [content[key] for key in ("model", "weights_sha256", "format")]
    if not all(isinstance(name, str) for name in names):
        raise ChatFileError(path, "is damaged: model, weights_sha256 and format must be texts")
    if not isinstance(content["settings"], dict):
        raise ChatFileError(path, f"is damaged: settings are {shown(content['settings'])}")
    messages = _messages_of(path, content["messages"])
    return SavedChat(tuple(messages), content["settings"], *names)


def restored_options(
    path: PathLike, saved: SavedChat, options: ChatOptions, most: int
) -> tuple[ChatOptions, int]:
    """Return the settings of a saved conversation, and the number of answers begun in it.

    Args:
        path: the file, for errors.
        saved: the content of the file.
        options: the values of settings that the file lacks.
        most: the model's context length.

    Raises:
        ChatFileError: if a setting can't be used.
    """
    values = dict(saved.settings)
    started = values.pop("answers", 0)
    try:
        check_count("answers", started, 0)
        values["context"] = min(values.get("context", most), most)
        return options.changed(values), started
    except (ValueError, TypeError, AttributeError) as err:
        raise ChatFileError(path, f"has a setting that can't be used: {first_line(err)}") from err


def _messages_of(path: PathLike, found: Any) -> list[Message]:
    if not isinstance(found, list):
        raise ChatFileError(path, f"is damaged: messages are {shown(found)}, not a list")
    messages = []
    for number, each in enumerate(found, 1):
        role, content = (
            (each.get("role"), each.get("content")) if isinstance(each, dict) else ("",) * 2
        )
        if role not in ROLES or not isinstance(content, str) or not _is_text(content):
            raise ChatFileError(path, f"is damaged: message {number} has no role and text")
        messages.append(Message(role, content))
    check_order(path, messages)
    return messages


def check_order(path: PathLike, messages: Sequence[Message]) -> None:
    """Refuse messages other than an optional system text, then questions with their answers."""
    roles = [message.role for message in messages]
    start = 1 if roles[:1] == ["system"] else 0
    pairs = (len(roles) - start) // 2
    if roles[start:] != ["user", "assistant"] * pairs:
        raise ChatFileError(
            path, "is damaged: after a system text, if any, user and assistant must take turns, "
            "and the last message be an answer"
        )  # fmt: skip


def _is_text(content: str) -> bool:
    """Return whether a text has no lone surrogates, which JSON can hold and UTF-8 can't."""
    return not any("\ud800" <= character <= "\udfff" for character in content)
