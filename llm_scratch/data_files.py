"""Files of rows (JSON, JSON Lines, CSV, TSV), read by the same rules wherever data is read.

A file may be compressed (`.jsonl.gz`). Lines end at a line feed, with or without a carriage return
before it, and nowhere else. Each row has a position, counted from 1: its line in an editor or, in a
JSON list, whose entries may share a line, its number.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from llm_scratch.compressed import plain_suffix
from llm_scratch.files import FileError, PathLike, Span, first_line, open_text
from llm_scratch.tables import table_rows

SEPARATORS = {".csv": ",", ".tsv": "\t"}
LINES = (".jsonl", ".ndjson")
ENDINGS = (".json", *LINES, *SEPARATORS)
SHOWN = 30  # characters
NOT_JSON = "not JSON"
_BLANKS = re.compile(r"[ \t\n\r]*")  # white space as JSON has it

Log = Callable[[str], object]


class RowError(ValueError):
    """A row that cannot be read, while other rows may be sound.

    Args:
        reason: the fault in a few words, the same for all rows with this fault.
        text: the message about this row.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason, text)
        self.reason = reason

    def __str__(self) -> str:
        return self.args[1]


class FileRow(NamedTuple):
    """One row of a file.

    Args:
        where: its position for error messages: "rows.jsonl: line 17".
        values: its fields by name; fields of a table are strings.
    """

    where: str
    values: dict[str, Any]


class Columns(NamedTuple):
    """The names that fields may have; case and surrounding spaces do not matter in a file.

    Args:
        needed: the fields that a table must have.
        also: the fields that it may have.
    """

    needed: tuple[str, ...]
    also: tuple[str, ...] = ()

    def spelled(self, names: Iterable[str]) -> list[str]:
        """Return names in the spelling used here, if they are known."""
        known = {name.lower(): name for name in (*self.needed, *self.also)}
        return [known.get(name.strip().lower(), name) for name in names]


def holds_rows(path: PathLike) -> bool:
    """Return whether a file's extension, in upper or lower case, is that of a file of rows.

    Compressed files have a second extension, which does not count.
    """
    return plain_suffix(path) in ENDINGS


def rows_can_be_cut(path: PathLike) -> bool:
    """Return whether each line of a file is a row: JSON Lines that are not a list after all."""
    if Path(path).suffix.lower() not in LINES:
        return False
    return not _start_of(path).startswith("[")


def file_rows(
    path: PathLike,
    columns: Columns,
    *,
    item: str | None = None,
    bare: bool = False,
    tables: bool = True,
    bad: Callable[[RowError], object] | None = None,
    log: Log | None = None,
) -> Iterator[FileRow]:
    """Yield the rows of a file in order.

    JSON is a list of objects, or a single object; JSON Lines has one object per line; a table
    (CSV, TSV) names its columns in its first line. The extension decides, in upper or lower case.
    With any other extension, "[" or "{" at the start means JSON, and anything else a table,
    separated by tabs if its first line has one.

    Args:
        path: the file, in UTF-8.
        columns: the names of the fields.
        item: the field name for strings in JSON in place of objects; None refuses them.
        bare: whether a table separated by tabs may lack a header line. Its columns are then the
            needed ones in their order, and quotation marks are ordinary text.
        tables: whether the file may be a table.
        bad: receives the error of a JSON row that can be skipped; None raises it.
        log: receives a line if a bare table does have a header line.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file and the row, if a row cannot be read or there are none.
    """
    path = Path(path)
    empty = True
    for where, found in _found(path, columns, bare, tables, log):
        empty = False
        try:
            values = _values(where, found, columns, item)
        except RowError as err:
            if bad is None:
                raise
            bad(err)
        else:
            yield FileRow(where, values)
    if empty:
        raise FileError(path, f"has no rows; rows with {' and '.join(columns.needed)} are needed")


def file_texts(source: PathLike | Span, name: str = "text") -> Iterator[tuple[str, str]]:
    """Yield the position of each row of a file, and the text in one of its fields.

    JSON may have strings in place of objects.

    Args:
        source: the file, or a span of whole lines where `rows_can_be_cut`.
        name: the field that holds the text.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as in `file_rows`, or naming the row that has no such text.
    """
    columns = Columns((name,))
    if isinstance(source, Span):
        rows = (FileRow(w, _values(w, found, columns, name)) for w, found in _span_lines(source))
    else:
        rows = (row for row in file_rows(source, columns, item=name))
    for where, values in rows:
        text = values.get(name)
        if not isinstance(text, str):
            has = ", ".join(map(repr, values)) or "nothing"
            raise ValueError(f"{where} has no text under {name!r}; it has {has}")
        yield where, text


def _start_of(path: PathLike) -> str:
    """Return the first line of a file that is not blank."""
    with open_text(path) as file:
        return next((line for line in file if line.strip()), "").lstrip()


def _found(
    path: Path, columns: Columns, bare: bool, tables: bool, log: Log | None
) -> Iterator[tuple[str, Any]]:
    """Yield the position of each row, and its content: a JSON value, or a tuple of fields.

    If a row cannot be read but later rows can, its error takes the place of the content.
    """
    if path.is_dir():
        raise FileError(path, "is a folder; name a file in it")
    ending, start = plain_suffix(path), _start_of(path)
    is_json = ending not in SEPARATORS if holds_rows(path) else start.startswith(("[", "{"))
    if not is_json and not tables:
        raise FileError(path, "is not JSON; it must be a list of objects, or one object per line")
    with open_text(path) as file:
        if not is_json:
            separator = SEPARATORS.get(ending, "\t" if "\t" in start else ",")
            bare = bare and separator == "\t"
            yield from _table(path, file.read(), separator, columns, bare, log)
        elif start[:1] == "[":
            yield from _json_list(path, file.read())
        elif ending in LINES or _is_json(start):
            yield from _json_lines(path, file)
        elif not _is_json(text := file.read()):
            yield from _json_lines(path, io.StringIO(text, newline="\n"))
        else:
            where = f"{path}: row 1"
            yield where, _parsed(where, text, _after_blanks(text, 0))[0]


def _span_lines(span: Span) -> Iterator[tuple[str, Any]]:
    """Yield where each row in a part of a file of JSON Lines stands, and the value."""
    # How many lines come before the span, only reading all of them would tell.
    behind = f" after byte {span.start:,}" if span.start else ""
    with open_text(span) as file:
        yield from _json_lines(span.path, file, behind)


def _values(where: str, found: Any, columns: Columns, item: str | None) -> dict[str, Any]:
    """Return the fields of a row by name."""
    if isinstance(found, RowError):
        raise found
    if isinstance(found, str) and item is not None:
        found = {item: found}
    if isinstance(found, dict):
        found = tuple(found.items())
    elif not isinstance(found, tuple):
        raise RowError("not an object", f"{where} is a {type(found).__name__}, not an object")
    names = columns.spelled(name for name, _ in found)
    values = dict(zip(names, (value for _, value in found), strict=True))
    if len(values) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RowError("a field twice", f"{where} has {twice!r} twice; leave one out")
    return values


def _json_lines(path: Path, file: Iterable[str], behind: str = "") -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            where = f"{path}: line {number}{behind}"
            try:
                value, end = _parsed(where, line, _after_blanks(line, 0))
                if _after_blanks(line, end) < len(line):
                    text = f"{where} continues after its object; put each object on its own line"
                    raise RowError(NOT_JSON, text)
            except RowError as err:
                value = err
            yield where, value


def _json_list(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Yield the entries of a list one by one, so that an error can name its row."""
    at, number = _after_blanks(text, text.index("[") + 1), 0
    ended = text.startswith("]", at)
    while not ended:
        number += 1
        where = f"{path}: row {number}"
        value, at = _parsed(where, text, at)
        yield where, value
        at = _after_blanks(text, at)
        ended = text.startswith("]", at)
        if not ended and not text.startswith(",", at):
            raise ValueError(
                f"{where} is followed by {text[at : at + SHOWN]!r}, not by a comma or the end of "
                "the list; is the file cut short?"
            )
        if not ended:
            at = _after_blanks(text, at + 1)
    if _after_blanks(text, at + 1) < len(text):
        raise FileError(path, f"continues after its list, which has {number} rows")


def _is_json(text: str) -> bool:
    """Return whether a text is a single JSON value."""
    try:
        return _after_blanks(text, _parsed("", text, _after_blanks(text, 0))[1]) == len(text)
    except RowError:
        return False


def _parsed(where: str, text: str, at: int) -> tuple[Any, int]:
    """Return the JSON value that begins at a position, and the position where it ends.

    For a value with half a character, an error takes the place of the value.
    """
    try:
        value, end = _DECODER.raw_decode(text, at)
        halved = _half_character(value) if "\\u" in text[at:end] else ""  # only by escapes
    except json.JSONDecodeError as err:
        raise RowError(
            NOT_JSON,
            f"{where} is not JSON: {err.msg} (its character {err.pos - at + 1}); is it cut short?",
        ) from err
    except (ValueError, RecursionError) as err:
        raise RowError("can't be read", f"{where} can't be read: {first_line(err)}") from err
    return RowError("half a character", f"{where}: {halved}") if halved else value, end


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object whose keys are distinct; the last of two would hide the first."""
    values = dict(pairs)
    if len(values) < len(pairs):
        name = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
        raise ValueError(f"an object has {name!r} twice; leave one out")
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


def _after_blanks(text: str, at: int) -> int:
    return _BLANKS.match(text, at).end()  # type: ignore[union-attr]  # matches "" too


def _half_character(value: Any) -> str:
    """Describe the lone surrogate in the first string that has one; return "" if none has."""
    fields = value.items() if isinstance(value, dict) else [("it", value)]
    for name, field in fields:
        for text in (
            name,
            field if isinstance(field, str) else json.dumps(field, ensure_ascii=False),
        ):
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as err:
                return (
                    f"{name!r} has a lone surrogate, {text[err.start]!r} at position {err.start}, "
                    "which is half a character; write both halves, or none"
                )
    return ""


def _table(
    path: Path, text: str, separator: str, columns: Columns, bare: bool, log: Log | None
) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    """Yield the position of each row of a table, and its fields with their names."""
    rows = table_rows(path, text, separator, quotes=not bare)
    first = next(rows, None)
    if first is None:
        return
    line, names = first[0], columns.spelled(first[1])
    wanted = " and ".join(columns.needed)
    if missing := [name for name in columns.needed if name not in names]:
        if not bare:
            raise ValueError(
                f"{path} has no column {' and no column '.join(missing)}; its first line must name "
                f"{wanted}, separated by {separator!r}"
            )
        if names[0] == columns.needed[0]:
            raise ValueError(
                f"{path}: line {line} looks like a header but has no "
                f"{' and no '.join(missing)}; name {wanted}, or remove the line"
            )
        names, rows = list(columns.needed), chain([first], rows)
    elif bare and log is not None:
        log(f"{path}: line {line} names the columns {', '.join(names)}")
    for number, fields in rows:
        where = f"{path}: line {number}"
        if len(fields) != len(names):
            hint = "" if bare else "; quote texts that have separators or line ends"
            raise ValueError(
                f"{where} has {len(fields)} fields, not {len(names)} ({', '.join(names)}){hint}"
            )
        pairs = list(zip(names, fields, strict=True))
        if any(field.strip() and not name.strip() for name, field in pairs):
            raise ValueError(f"{where} has text in a column without a name; name it, or move it")
        yield where, tuple((name, field) for name, field in pairs if name.strip())
