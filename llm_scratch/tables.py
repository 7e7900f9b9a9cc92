"""Tables with a separator between their fields, and quotation marks around some: CSV and TSV."""

from __future__ import annotations

from collections.abc import Iterator

from llm_scratch.files import PathLike

QUOTE = '"'
SHOWN = 30  # characters


def table_rows(
    path: PathLike, text: str, separator: str, *, quotes: bool = True, loose: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the fields of each row of a table, skipping blank lines.

    Args:
        path: the table's name in errors.
        text: the whole text of the table.
        separator: the character between two fields.
        quotes: whether a quotation mark at the start of a field opens a quotation, which may hold
            separators and line ends, and in which two marks stand for one.
        loose: whether a field may continue after its quotation, as spreadsheets and pandas allow.

    Raises:
        ValueError: naming the line, if a quotation is never closed, or a field continues after it.
    """
    at, number, line_end = 0, 1, -1
    while at < len(text):
        start, fields = number, []
        while True:  # one field per iteration
            quoted = quotes and text.startswith(QUOTE, at)
            field = ""
            if quoted:
                field, at = _quotation(f"{path}: line {start}", text, at + 1)
                number += field.count("\n")
            if line_end < at:
                found = text.find("\n", at)
                line_end = found if found >= 0 else len(text)
            field_end = text.find(separator, at, line_end)
            last = field_end < 0
            rest = text[at:line_end].removesuffix("\r") if last else text[at:field_end]
            if quoted and rest and not loose:
                raise ValueError(
                    f"{path}: line {start} has {rest[:SHOWN]!r} after a quotation; a mark "
                    "inside one must be doubled"
                )
            fields.append(field + rest)
            at = (line_end if last else field_end) + 1
            if last:
                break
        number += 1
        if quoted or len(fields) > 1 or fields[0].strip():
            yield start, fields


def _quotation(where: str, text: str, start: int) -> tuple[str, int]:
    """Return the quotation that begins at `start`, and the position where it ends."""
    at = start
    while (end := text.find(QUOTE, at)) >= 0:
        if not text.startswith(QUOTE, end + 1):
            return text[start:end].replace(QUOTE * 2, QUOTE), end + 1
        at = end + 2
    raise ValueError(
        f"{where}: the quotation mark that opens {text[start : start + SHOWN]!r} is never closed; "
        "close it, or remove it"
    )
