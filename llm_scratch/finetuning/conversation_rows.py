"""Conversations as rows for the loop for real runs: whole turns, of which the answers are learned.

The format marks the tokens to learn. Padding is told by length, so the padding id may also be the
end mark.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from llm_scratch.conversations.encoding import (
    EncodedConversation,
    Format,
    encode_conversation,
    encode_first_turns,
)
from llm_scratch.conversations.messages import Conversation
from llm_scratch.text.packed_rows import PackedRows
from llm_scratch.text.token_rows import IGNORE_INDEX, TokenRows
from llm_scratch.tokenizers.any_tokenizer import vocab_size_of

PACK = 1024  # tokens; longer packs spend their time on the walls between conversations


def conversation_rows(
    conversations: Sequence[Conversation],
    tokenizer: Any,
    format: Format,
    *,
    max_length: int = 1024,
    buckets: bool = True,
) -> TokenRows:
    """Return conversations as rows to learn from: their answers, each with what ends it.

    A conversation that is too long keeps its first turns, up to the last answer that fits with its
    end. It is left out if its first answer does not fit. Warnings count both cases.

    Args:
        conversations: lists of messages.
        tokenizer: any tokenizer that has the format's control tokens.
        format: how they become text.
        max_length: the maximum number of tokens in a row.
        buckets: whether to group rows of about the same length.

    Raises:
        ValueError: if the turns of a conversation are out of order or empty, or none is learned,
            naming it; if the tokenizer lacks a control token; or if no row is left.
    """
    rows, cut, too_long = [], 0, 0
    for number, conversation in enumerate(conversations):
        try:
            whole = encode_conversation(conversation, format, tokenizer)
            kept = whole if whole.tokens_read <= max_length else None
            if kept is None:
                kept = _first_turns(conversation, tokenizer, format, max_length)
        except ValueError as err:
            raise ValueError(f"conversations[{number}]: {err}") from err
        if kept is None:
            too_long += 1
            continue
        cut += kept is not whole
        rows.append(encoded_row(kept))
    given = len(conversations)
    if cut:
        warnings.warn(
            f"{cut} of {given} conversations are longer than {max_length} tokens and lost their "
            "last turns",
            stacklevel=2,
        )
    if too_long:
        warnings.warn(
            f"{too_long} of {given} conversations have a first answer that does not fit into "
            f"{max_length} tokens with its end, and are left out",
            stacklevel=2,
        )
    if not rows:
        raise ValueError(f"no rows are left of {given} conversations to learn from")
    vocab_size = vocab_size_of(tokenizer) or 1 + max(max(*ids, *wanted) for ids, wanted in rows)
    return TokenRows(rows, pad_id=0, vocab_size=vocab_size, buckets=buckets)


def encoded_row(encoded: EncodedConversation) -> tuple[list[int], list[int]]:
    """Return inputs and targets of a conversation, up to the last learned token.

    Raises:
        ValueError: if nothing in it is learned.
    """
    if not any(encoded.learned[1:]):
        raise ValueError("nothing in the conversation is learned after its first token")
    end = encoded.tokens_read
    wanted = zip(encoded.ids[1:], encoded.learned[1:], strict=True)
    targets = [token_id if is_learned else IGNORE_INDEX for token_id, is_learned in wanted]
    return list(encoded.ids[:end]), targets[:end]


def packed_conversations(rows: TokenRows, most: int) -> PackedRows:
    """Return rows in packs of up to 1,024 tokens, or the longest row if longer; at most `most`.

    No token sees another conversation, and positions start at 0 in each.

    Raises:
        ValueError: if a row is longer than `most`.
    """
    return PackedRows(rows, min(most, max(PACK, int(rows.lengths.max()))))


def _first_turns(
    conversation: Conversation, tokenizer: Any, format: Format, max_length: int
) -> EncodedConversation | None:
    """Encode as many first turns as fit, up to a learned answer; return None if none fits."""
    kept = None
    for encoded in encode_first_turns(conversation, format, tokenizer):
        if encoded.tokens_read > max_length:
            break
        kept = encoded
    return kept
