"""Conversations to look at, with the learned parts set off from the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from llm_scratch.conversations.encoding import EncodedConversation
from llm_scratch.tokenizers.any_tokenizer import decode

COLORS = {True: "\x1b[32m", False: "\x1b[90m"}  # learned: green, not learned: grey
DIM, RESET = "\x1b[2m", "\x1b[0m"
LEARNED = ("[[", "]]")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def show_conversation(
    encoded: EncodedConversation, tokenizer: Any, *, color: bool = True, ids: bool = False
) -> str:
    r"""Return a conversation as text, with the learned parts set off from the rest.

    Control characters, which a terminal would obey, are shown as codes such as `\x1b`.

    Args:
        encoded: the conversation.
        tokenizer: the one that it was encoded with.
        color: green and grey for a terminal; without it, learned parts are between [[ and ]].
        ids: whether each token is followed by its id.
    """
    return "".join(
        _marked(_with_ids(part, tokenizer, color, learned) if ids else text, learned, color)
        for text, part, learned in _parts(encoded, tokenizer)
    )


def _parts(
    encoded: EncodedConversation, tokenizer: Any
) -> Iterator[tuple[str, Sequence[int], bool]]:
    """Yield each learned or unlearned stretch: its text, its ids, and whether it is learned."""
    pairs = zip(encoded.ids, encoded.learned, strict=True)
    for learned, group in groupby(pairs, key=lambda pair: pair[1]):
        ids = [token_id for token_id, _ in group]
        yield printable(decode(tokenizer, ids)), ids, learned


def _with_ids(ids: Sequence[int], tokenizer: Any, color: bool, learned: bool) -> str:
    before, after = (f"{RESET}{DIM}", f"{RESET}{COLORS[learned]}") if color else ("", "")
    return "".join(
        f"{printable(decode(tokenizer, [token_id]))}{before}({token_id}){after}" for token_id in ids
    )


def _marked(text: str, learned: bool, color: bool) -> str:
    if color:
        return f"{COLORS[learned]}{text}{RESET}"
    return text.join(LEARNED) if learned else text


def printable(text: str) -> str:
    """Return a text with its control characters, except line ends and tabs, shown as codes."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)
