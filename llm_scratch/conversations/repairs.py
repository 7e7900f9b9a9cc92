"""Repairs of conversations whose turns are out of order, and the names they are counted by."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from llm_scratch.conversations.messages import Conversation, ConversationError, Message, check_turns

RENAMED = "roles by other names"
UNANSWERED = "a last question without answer (kept, not learned)"
EMPTY = "empty turns dropped"
ANSWER_FIRST = "an answer before the first question dropped"
MERGED = "turns of one role in a row merged"
DROPS = "drop"
MERGES = "merge"
REPAIRS = {
    DROPS: "drop empty turns, and answers before the first question",
    MERGES: "join consecutive turns of one role, with a blank line between them",
}
"""The repairs that change what is said, made only on request."""


def repaired(
    messages: Conversation, repair: Collection[str] = ()
) -> tuple[tuple[Message, ...], list[str]]:
    """Return a conversation to learn from, and the names that its repairs are counted by.

    Args:
        messages: its turns, in any order.
        repair: the repairs to make, of `REPAIRS`. A last question without an answer is kept in any
            case, and not learned.

    Raises:
        ConversationError: if the turns are still out of order, or nothing in them is learned.
    """
    turns, names = list(messages), []
    if DROPS in repair:
        kept = [t for t in turns if t.content.strip() or t is turns[0] and t.role == "system"]
        turns, dropped = _without_early_answers(kept)
        names += [EMPTY] * (len(kept) < len(messages)) + [ANSWER_FIRST] * dropped
    if MERGES in repair:
        merged = _merged(turns)
        names += [MERGED] * (len(merged) < len(turns))
        turns = merged
    try:
        check_turns(turns)
    except ConversationError as err:
        raise _with_way_out(err) from None
    if not any(turn.is_learned for turn in turns):
        raise ConversationError(
            "nothing learned", "none of its answers is learned; leave the row out"
        )
    names += [UNANSWERED] * (turns[-1].role == "user" and not turns[-1].is_learned)
    return tuple(turns), names


def _without_early_answers(turns: list[Message]) -> tuple[list[Message], bool]:
    start = next((i for i, turn in enumerate(turns) if turn.role == "user"), len(turns))
    early = [turn for turn in turns[:start] if turn.role != "assistant"]
    return early + turns[start:], len(early) < start


def _merged(turns: list[Message]) -> list[Message]:
    """Return the turns, with consecutive ones of one role joined if all or none are learned."""
    merged: list[Message] = []
    for turn in turns:
        last = merged[-1] if merged else None
        if last and (last.role, last.is_learned) == (turn.role, turn.is_learned):
            text = "\n\n".join(text for text in (last.content, turn.content) if text.strip())
            merged[-1] = replace(last, content=text)
        else:
            merged.append(turn)
    return merged


def _with_way_out(err: ConversationError) -> ConversationError:
    """Return the error, with the name of the repair that would help, if there is one."""
    reason, detail = err.args
    helps = {
        "an empty turn": DROPS,
        "the assistant first": DROPS,
        "two turns of one role in a row": MERGES,
    }
    if reason not in helps:
        return err
    name = helps[reason]
    return ConversationError(
        reason, f'{detail}; repair=["{name}"] (--repair {name}) would {REPAIRS[name]}'
    )
