"""Files of conversations that other people wrote, read as lists of messages.

A row that is not understood never becomes training data. Each row fits, has repairs that are
counted, or is reported.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from llm_scratch.conversations.kinds import GUANACO, KEYS, KINDS, told_kind, turns_of
from llm_scratch.conversations.messages import ConversationError, Message
from llm_scratch.conversations.repairs import RENAMED, REPAIRS, repaired
from llm_scratch.data_files import Columns, FileRow, RowError, file_rows
from llm_scratch.files import FileError


@dataclass(frozen=True)
class ReadSummary:
    """The counts of what became of the rows of a file.

    Args:
        kind: the kind of the file, of `KINDS`.
        rows: how many rows it has.
        kept: how many of them are conversations to learn from.
        repaired: how many rows each repair changed.
        dropped: how many rows were left out, by reason.
        first_dropped: the message about the first row left out, by reason.
    """

    kind: str
    rows: int
    kept: int
    repaired: Mapping[str, int]
    dropped: Mapping[str, int]
    first_dropped: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"{counted_rows(self.rows)} ({self.kind}), {self.kept:,} kept"]
        lines += [f"repaired: {count:,} with {name}" for name, count in self.repaired.items()]
        lines += [
            f"dropped: {count:,} for {reason}; the first: {self.first_dropped[reason]}"
            for reason, count in self.dropped.items()
        ]
        return "\n".join(lines)


class ReadConversations(NamedTuple):
    """The result of `read_conversations`; it unpacks: `conversations, summary = ...`.

    Args:
        conversations: the messages of each, in the order of the file.
        summary: what became of the file's rows.
    """

    conversations: list[tuple[Message, ...]]
    summary: ReadSummary


def read_conversations(
    path: str | os.PathLike[str],
    *,
    kind: str | None = None,
    skip_bad: bool = False,
    repair: Collection[str] = (),
) -> ReadConversations:
    """Read a file of conversations: JSON or JSON Lines of any kind in `KINDS`.

    A conversation is an optional system text, then user and assistant in turn. Other names of roles
    are understood. A last question without an answer is kept but not learned. Both are counted.

    Args:
        path: the file.
        kind: the kind of its rows; None takes it from the keys of the first row.
        skip_bad: whether to leave out and count rows that do not fit, instead of an error.
        repair: further repairs, which are counted: "drop" drops empty turns and answers before
            the first question, "merge" joins consecutive turns of one role.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a row does not fit, naming file, row and reason; if no row does, naming the
            file.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"{kind=} is not a kind of file; known are {', '.join(KINDS)}")
    if isinstance(repair, str) or not set(repair) <= set(REPAIRS):
        raise ValueError(f"{repair=} must be a list of {' and '.join(map(repr, REPAIRS))}")
    conversations: list[tuple[Message, ...]] = []
    repairs: Counter[str] = Counter()
    bad: list[RowError] = []
    rows = file_rows(
        path, Columns(("conversations",), KEYS), tables=False, bad=bad.append if skip_bad else None
    )
    for row in rows:
        try:
            kind = kind or _told_kind(row)
            messages, names = _conversation(row, kind, repair)
        except RowError as err:
            if not skip_bad:
                raise
            bad.append(err)
        else:
            conversations.append(messages)
            repairs.update(names)
    if not conversations or kind is None:
        raise FileError(path, f"none of its {len(bad)} rows can be used; the first: {bad[0]}")
    return ReadConversations(conversations, _summary(kind, len(conversations), repairs, bad))


def _told_kind(row: FileRow) -> str:
    try:
        return told_kind(row.values)
    except ConversationError as err:
        raise RowError(err.reason, f"{row.where}: {err}") from err


def _conversation(
    row: FileRow, kind: str, repair: Collection[str]
) -> tuple[tuple[Message, ...], list[str]]:
    """Return the conversation in a row, and the names that its repairs are counted by."""
    try:
        turns = turns_of(row.values, kind)
        messages, names = repaired(turns.messages, repair)
    except ConversationError as err:
        hint = "; or a message contains a mark" if _doubled_mark(err, kind) else ""
        raise RowError(err.reason, f"{row.where}: {err}{hint}") from err
    return messages, [RENAMED] * turns.renamed + names


def _doubled_mark(err: ConversationError, kind: str) -> bool:
    return kind == GUANACO and err.reason == "two turns of one role in a row"


def counted_rows(count: int) -> str:
    """Return a number of rows in words."""
    return f"{count:,} row{'' if count == 1 else 's'}"


def _summary(kind: str, kept: int, repairs: Counter[str], bad: list[RowError]) -> ReadSummary:
    first: dict[str, str] = {}
    for err in bad:
        first.setdefault(err.reason, str(err))
    dropped = Counter(err.reason for err in bad)
    return ReadSummary(kind, kept + len(bad), kept, dict(repairs), dict(dropped), first)
