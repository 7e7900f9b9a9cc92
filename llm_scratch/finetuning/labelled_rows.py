"""Labelled messages: read, balanced and split as in the book, without pandas (book 6.2).

Rows are pairs (label, text). Functions to which the book passes a DataFrame with the columns
`Label` and `Text` also take one, and then return a DataFrame.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llm_scratch.data_files import Columns, Log, file_rows
from llm_scratch.download import download_file
from llm_scratch.files import read_text
from llm_scratch.tables import table_rows
from llm_scratch.text.archives import unpack_member

SEED = 123
ARCHIVE_MEMBER = "SMSSpamCollection"
MOST_BYTES = 10_000_000  # twenty times the collection

COLUMNS = Columns(("Label", "Text"))
LONGEST_NUMBER = 4  # digits of a class's number; longer ones are names


class LabelledRow(NamedTuple):
    """A text with its class and its place: "messages.csv: line 17", or "rows[16]"."""

    label: Any
    text: str
    where: str


Row = tuple[Any, str] | LabelledRow


def download_and_unzip_spam_data(
    url: str | Sequence[str],
    zip_path: str | os.PathLike[str],
    extracted_path: str | os.PathLike[str],
    data_file_path: str | os.PathLike[str],
    *,
    log: Callable[[str], object] = print,
) -> Path:
    """Return the path of the SMS collection, downloaded and unpacked unless it is there.

    A file appears at its path only when it is complete.

    Args:
        url: the archive's address, or several to try in order.
        zip_path: where the archive goes.
        extracted_path: the folder to unpack into.
        data_file_path: the final path of the file with the messages.
        log: called with a line.

    Raises:
        DownloadError: if no address has the archive, or it is not one, or holds no messages.

    Source:
        Book 6.2.
    """
    target = Path(data_file_path)
    if target.is_file():
        log(f"{target} already exists. Skipping download and extraction.")
        return target
    archive = download_file(url, Path(zip_path))
    for folder in (Path(extracted_path), target.parent):
        folder.mkdir(parents=True, exist_ok=True)
    unpack_member(archive, ARCHIVE_MEMBER, target, most_bytes=MOST_BYTES)
    log(f"File downloaded and saved as {target}")
    return target


def read_sms(path: str | os.PathLike[str], *, quotes: bool = True) -> list[tuple[str, str]]:
    """Read the lines "label, tab, text" of a file like the SMS collection: [(label, text), ...].

    By default a quotation mark at the start of a text opens a quotation that may hold line ends.
    The book does so too, and reads 5,572 rows out of the collection's 5,574 lines. A first line
    that names the columns is left out, with a warning.

    Args:
        path: the file, in UTF-8.
        quotes: False reads quotation marks literally, and each line as a row.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a row lacks label or text, or the file has no row or is not UTF-8.

    Source:
        Book 6.2.
    """
    rows: list[tuple[str, str]] = []
    for line, fields in table_rows(path, read_text(path), "\t", quotes=quotes, loose=True):
        where = f"{path}: line {line}"
        if len(fields) != 2:
            raise ValueError(
                f"{where} has {len(fields)} fields; a label, a tab and a text are needed"
            )
        if not rows and COLUMNS.spelled(fields) == list(COLUMNS.needed):
            warnings.warn(f"{where} names the columns and is not a message", stacklevel=2)
            continue
        row = _labelled(where, *fields)
        rows.append((row.label, row.text))
    if not rows:
        raise ValueError(f"{path} holds no message; lines of a label, a tab and a text are needed")
    return rows


def create_balanced_dataset(rows: Any) -> Any:
    """Return as many rows of each label as the rarest has; a DataFrame for a DataFrame.

    The rarest label keeps all its rows, in their order and at the end; the others are drawn
    without replacement. The choice is the book's, the same at every call.

    Args:
        rows: [(label, text), ...], or a DataFrame with a column `Label`.

    Raises:
        ValueError: if there are no rows, or all have one label.

    Source:
        Book 6.2.
    """
    if is_frame(rows):
        return rows.iloc[balanced_positions(rows["Label"])]
    rows = list(rows)
    return [rows[position] for position in balanced_positions(label for label, _ in rows)]


def balanced_positions(labels: Iterable[Any]) -> list[int]:
    """Return the positions of the rows that `create_balanced_dataset` takes, in its order."""
    labels = list(labels)
    counts = Counter(labels)
    if len(counts) < 2:
        raise ValueError(f"{len(labels)} rows with {len(counts)} label; at least two are needed")
    # Among equally rare labels the last is kept whole, so that "spam" comes after "ham".
    rarest = min(sorted(counts, reverse=True), key=counts.__getitem__)
    chosen: list[int] = []
    for label in [*(other for other in sorted(counts) if other != rarest), rarest]:
        positions = [position for position, found in enumerate(labels) if found == label]
        if label != rarest:
            picks = _drawn(len(positions), counts[rarest])
            positions = [positions[pick] for pick in picks]
        chosen += positions
    return chosen


def random_split(
    df: Any, train_frac: float, validation_frac: float
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Shuffle and cut into training, validation and test parts: three lists, or three DataFrames.

    The order is the book's, the same at every call. The test part is the rest.

    Args:
        df: a list of rows of any kind, or a DataFrame.
        train_frac: share of the training part, 0 to 1.
        validation_frac: share of the validation part.

    Raises:
        ValueError: if a share is below 0, or both together are above 1.

    Source:
        Book 6.2.
    """
    if train_frac < 0 or validation_frac < 0 or train_frac + validation_frac > 1 + 1e-9:
        raise ValueError(
            f"{train_frac=} and {validation_frac=} must be 0 or more, together at most 1"
        )
    rows: Any = df if is_frame(df) else list(df)
    order = _drawn(len(rows), len(rows))
    train_end = int(len(rows) * train_frac)
    validation_end = train_end + int(len(rows) * validation_frac)
    if is_frame(rows):
        rows = rows.iloc[order].reset_index(drop=True)
    else:
        rows = [rows[position] for position in order]
    return rows[:train_end], rows[train_end:validation_end], rows[validation_end:]


def read_rows(source: Any) -> list[LabelledRow]:
    """Return labelled texts from pairs (label, text), a DataFrame, or a file.

    If all labels of a file are whole numbers, they become integers.

    Args:
        source: rows, a DataFrame with the columns `Label` and `Text`, or a file for
            `read_labelled`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a row of a file lacks label or text; names file and row.
        TypeError: if a row is not a pair, or a text is not a str; names the row.
    """
    if isinstance(source, str | os.PathLike):
        rows = read_labelled(source)
        if all(row.label.isdecimal() and len(row.label) <= LONGEST_NUMBER for row in rows):
            rows = [row._replace(label=int(row.label)) for row in rows]
        return rows
    if is_frame(source):
        source = zip(list(source["Label"]), list(source["Text"]), strict=True)
    return _checked(source)


def read_labelled(path: str | os.PathLike[str], *, log: Log | None = None) -> list[LabelledRow]:
    """Read a file of labelled texts: JSON, JSON Lines, CSV or TSV with `label` and `text`.

    A TSV may lack these names in its first line; its quotation marks are read literally. Blanks
    around labels are removed.

    Args:
        path: the file, in UTF-8.
        log: called with a line if the first line of a TSV holds the names.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a row lacks label or text, or can't be read; names file and row.
    """
    return [
        _labelled(where, values.get("Label"), values.get("Text"))
        for where, values in file_rows(path, COLUMNS, bare=True, log=log)
    ]


def _labelled(where: str, label: Any, text: Any) -> LabelledRow:
    """Return a row of a file; its label is a string even if JSON has a number."""
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)
    for name, value in (("label", label), ("text", text)):
        if not isinstance(value, str):
            found = f"a {name} of type {type(value).__name__}"
            raise ValueError(f"{where} has {'no ' + name if value is None else found}; each row "
                             "needs a label and a text")  # fmt: skip
        if not (value.strip() if name == "label" else value):
            raise ValueError(f"{where} has an empty {name}; leave the row out")
    return LabelledRow(label.strip(), text, where)


def is_frame(rows: Any) -> bool:
    """Return whether this is a DataFrame; the check needs no pandas."""
    return hasattr(rows, "iloc") and hasattr(rows, "columns")


def _checked(rows: Iterable[Any]) -> list[LabelledRow]:
    found = []
    for number, row in enumerate(rows):
        if isinstance(row, LabelledRow):
            found.append(row)
            continue
        if isinstance(row, str | Mapping) or not hasattr(row, "__len__") or len(row) != 2:
            raise TypeError(f"rows[{number}] is {row!r:.60}; a pair (label, text) is needed")
        label, text = row
        if not isinstance(text, str):
            raise TypeError(f"the text of rows[{number}] is a {type(text).__name__}, not a str")
        found.append(LabelledRow(label, text, f"rows[{number}]"))
    return found


def _drawn(n: int, size: int) -> list[int]:
    """Return `size` of n positions, drawn as pandas' `sample(..., random_state=123)` does."""
    return np.random.RandomState(SEED).choice(n, size=size, replace=False).tolist() if n else []
