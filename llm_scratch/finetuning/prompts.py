"""Prompts for instructions, and where their answers begin (book 7.2, exercise 7.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_scratch.conversations.encoding import Format, encode_conversation, encode_prompt
from llm_scratch.conversations.formats import find_format
from llm_scratch.conversations.layout import ConversationFormat
from llm_scratch.conversations.messages import Message

Entry = Mapping[str, Any]
BOOK = find_format("book")
"""The book's format, in the style of Alpaca: headings for instruction, input and response."""
BOOK_PHI = find_format("book-phi")
"""The format of the book's exercise, in the style of Phi-3: marks as ordinary text."""
RESPONSE_HEADER = BOOK.header


def format_input(entry: Entry) -> str:
    """Return the book's prompt, in the style of Alpaca, up to where the response begins.

    Args:
        entry: a dict with "instruction", and "input" if there is one.

    Source:
        Book 7.2; Taori et al. 2023 (Stanford Alpaca).
    """
    return BOOK.plain_text(entry_messages(entry, BOOK))


def format_input_phi(entry: Entry) -> str:
    """Return the shorter prompt of Phi-3: a mark for the speaker, then the text.

    Source:
        Book exercise 7.1; Abdin et al. 2024, arXiv:2404.14219.
    """
    return BOOK_PHI.plain_text(entry_messages(entry, BOOK_PHI))


def prompt_text(entry: Entry, format: ConversationFormat = BOOK) -> str:
    """Return the text before the answer to an instruction, in a plain-text format."""
    return format.plain_text(entry_messages(entry, format), prompt=True)


def entry_messages(entry: Entry, format: Format) -> list[Message]:
    """Return an instruction, with its input if it has one, as a format's messages.

    Args:
        entry: a dict with "instruction", and "input" if there is one.
        format: may have a separate system text for instructions with an input.
    """
    given = entry.get("input")
    content = entry["instruction"] + (f"{format.before_input}{given}" if given else "")
    user = Message("user", content)
    if given and format.input_system is not None:
        return [Message("system", format.input_system), user]
    return [user]


def encode_entry(
    entry: Entry, format: Format, tokenizer: Any, answer: str | None = None
) -> tuple[list[int], list[int]]:
    """Return the ids of a prompt, and those of an answer with its end; none without an answer.

    Raises:
        ValueError: if the instruction is empty, or the tokenizer can't write the format.
    """
    messages = entry_messages(entry, format)
    if answer is None:
        return encode_prompt(messages, format, tokenizer), []
    encoded = encode_conversation([*messages, Message("assistant", answer)], format, tokenizer)
    start = encoded.learned.index(True)
    learned = sum(encoded.learned)  # one answer, in one piece
    return list(encoded.ids[:start]), list(encoded.ids[start : start + learned])


def extract_response(
    response_text: str, input_text: str, *, format: ConversationFormat = BOOK
) -> str:
    """Return what a model wrote after a prompt, without the prompt and the heading of the response.

    The heading is removed only at the beginning of the answer, so an answer that mentions
    "### Response:" stays complete. (The book removes it everywhere.)

    Args:
        response_text: prompt and continuation, as decoded.
        input_text: the prompt, with or without the heading of the response.
        format: the format that the heading belongs to.

    Raises:
        ValueError: if the text does not begin with the prompt.

    Source:
        Book 7.5.
    """
    if not response_text.startswith(input_text):
        raise ValueError(
            f"the text does not begin with its prompt: {response_text[:40]!r}, not "
            f"{input_text[:40]!r}; give the whole text that was decoded"
        )
    rest = response_text[len(input_text) :].strip()
    return rest.removeprefix(format.header.strip()).strip()
