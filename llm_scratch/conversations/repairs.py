"""Conversations out of turn: what is put right in them, by which name it is counted."""

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
    MERGES: "make one of turns of one role in a row, a blank line between them",
}
"""The repairs that change what is said, which somebody has to ask for."""


def repaired(
    messages: Conversation, repair: Collection[str] = ()
) -> tuple[tuple[Message, ...], list[str]]:
    """Return a conversation to learn from, and by which names its repairs are counted.

    Args:
        messages: its turns, in any order.
        repair: which repairs are made, of `REPAIRS`; a last question without answer is kept, and
            never learned, all the same.

    Raises:
        ConversationError: if it still is not a conversation, or nothing in it is learned.
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
            "nothing learned", "no answer in it is to be learned; leave the row out"
        )
    names += [UNANSWERED] * (turns[-1].role == "user" and not turns[-1].is_learned)
    return tuple(turns), names


def _without_early_answers(turns: list[Message]) -> tuple[list[Message], bool]:
    start = next((i for i, turn in enumerate(turns) if turn.role == "user"), len(turns))
    early = [turn for turn in turns[:start] if turn.role != "assistant"]
    return early + turns[start:], len(early) < start


def _merged(turns: list[Message]) -> list[Message]:
    """Return the turns with those of one role in a row as one, where they are learned alike."""
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
    """Return an error that names the repair which would help, where one would."""
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
