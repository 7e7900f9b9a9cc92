"""Formats as plain data for a file's header, and back; the format that a Jinja text is from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from llm_scratch.conversations.encoding import Format
from llm_scratch.conversations.formats import FORMATS
from llm_scratch.conversations.layout import ConversationFormat
from llm_scratch.conversations.templates import TemplateFormat

KEY = "chat_format"
"""The key of a format in the description of a saved model."""


def describe_format(format: Format | None) -> dict[str, Any] | None:
    """Return a format as plain data, with all its texts; None for None.

    Raises:
        TypeError: if it is not a format of this library.
    """
    if format is None:
        return None
    if not isinstance(format, ConversationFormat | TemplateFormat):
        raise TypeError(
            f"chat_format is a {type(format).__name__}; a ConversationFormat (find_format gives "
            "one by name) or a TemplateFormat can be saved"
        )
    return asdict(format)


def described_format(content: Mapping[str, Any] | None) -> Any:
    """Return the format that `describe_format` described; one equal to a built-in is that one.

    Raises:
        ValueError: if the content is not such a description.
    """
    if content is None:
        return None
    kind: Any = TemplateFormat if "template" in content else ConversationFormat
    known = {field.name for field in fields(kind)}
    if unknown := [name for name in content if name not in known]:
        raise ValueError(f"a conversation format has no {', '.join(unknown)[:100]}")
    texts = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    try:
        made = kind(**texts)
    except TypeError as err:
        raise ValueError(f"the conversation format is incomplete: {err}") from err
    built_in = FORMATS.get(made.name)
    return built_in if built_in == made else made


def format_of_template(template: str, tokenizer: Any) -> ConversationFormat | TemplateFormat:
    """Return the built-in format that wrote a Jinja text, or else the text as a format."""
    for each in FORMATS.values():
        if template in (each.jinja(), each.jinja(tokenizer)):
            return each
    return TemplateFormat(template)
