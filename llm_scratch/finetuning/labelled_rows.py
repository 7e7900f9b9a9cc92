"""Labelled messages: read, balanced and split as in the book, without pandas (book 6.2).

Rows are pairs (label, text). Where the book passes a DataFrame with the columns `Label` and
`Text`, one is taken too, and a DataFrame comes back.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_scratch.download import download_file
from llm_scratch.files import open_text
from llm_scratch.text.archives import unpack_member

SEED = 123
ARCHIVE_MEMBER = "SMSSpamCollection"
MOST_BYTES = 10_000_000  # twenty times the collection

Row = tuple[Any, str]


def download_and_unzip_spam_data(
    url: str | Sequence[str],
    zip_path: str | os.PathLike[str],
    extracted_path: str | os.PathLike[str],
    data_file_path: str | os.PathLike[str],
    *,
    log: Callable[[str], object] = print,
) -> Path:
    """The path of the SMS collection, fetched and unpacked unless it is there.

    Nothing counts as there before it is whole.

    Args:
        url: the archive's address, or several that are tried in order.
        zip_path: where the archive goes.
        extracted_path: the folder to unpack into.
        data_file_path: what the file with the messages is called in the end.
        log: what a line is given to.

    Raises:
        DownloadError: if no address gives the archive, or it is none, or holds no messages.

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

    By default a quotation mark at the start of a text opens a quotation that may hold line ends,
    as in the book, which so reads 5,572 rows out of the collection's 5,574 lines.

    Args:
        path: the file, in UTF-8.
        quotes: False takes quotation marks as they stand, and each line as a row.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a row has no label and text, or the file no row, or it is not UTF-8.

    Source:
        Book 6.2.
    """
    rows = []
    try:
        with open_text(path) as file:
            quoting: Any = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
            reader = csv.reader(file, csv.excel_tab, quoting=quoting)
            for number, fields in enumerate(reader, 1):
                if not fields:
                    continue
                if len(fields) != 2:
                    raise ValueError(f"row {number} of {path} has {len(fields)} fields; "
                                     "a label, a tab and a text are needed")  # fmt: skip
                rows.append((fields[0], fields[1]))
    except csv.Error as err:
        raise ValueError(f"{path} can't be read ({err}); quotes=False takes quotation marks as "
                         "they stand") from err  # fmt: skip
    if not rows:
        raise ValueError(f"{path} holds no message; lines of a label, a tab and a text are needed")
    if quotes:
        _check_closed(path, rows)
    return rows


def _check_closed(path: str | os.PathLike[str], rows: Sequence[Row]) -> None:
    """Refuse a file that ends inside of a quotation, which has swallowed the rows after it."""
    if rows and rows[-1][1].endswith("\n"):
        raise ValueError(
            f"{path}: the quotation mark that opens the text {rows[-1][1][:30]!r}... is never "
            "closed; close it, or leave it out"
        )


def create_balanced_dataset(rows: Any) -> Any:
    """As many rows of every label as the rarest has: rows in, rows out; a DataFrame likewise.

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
    """Which rows `create_balanced_dataset` takes, in its order."""
    labels = list(labels)
    counts = Counter(labels)
    if len(counts) < 2:
        raise ValueError(f"{len(labels)} rows with {len(counts)} label; at least two are needed")
    # Of labels equally rare the last is kept whole, so that "spam" stands after "ham".
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
    """Shuffle and cut into training, validation and test part: three lists, or three DataFrames.

    The order is the book's, the same at every call. The test part is what the others leave.

    Args:
        df: rows of any kind in a list, or a DataFrame.
        train_frac: share of the training part, 0 to 1.
        validation_frac: share of the validation part.

    Raises:
        ValueError: if a share is below 0, or both together are above 1.

    Source:
        Book 6.2.
    """
    if train_frac < 0 or validation_frac < 0 or train_frac + validation_frac > 1 + 1e-9:
        raise ValueError(
            f"{train_frac=} and {validation_frac=} must be 0 or more, together 1 at most"
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


def read_rows(source: Any) -> list[Row]:
    """Rows (label, text) out of rows, a DataFrame, or a CSV file with the head "Label,Text".

    Labels of a CSV file that are whole numbers become integers.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing.
        TypeError: if a row is no pair, or a text no text; names the row.
    """
    if isinstance(source, str | os.PathLike):
        return _read_csv(Path(source))
    if is_frame(source):
        return _checked(zip(list(source["Label"]), list(source["Text"]), strict=True))
    return _checked(source)


def read_labelled(path: str | os.PathLike[str]) -> list[Row]:
    """Read a file of labelled texts: a `.csv` with the head "Label,Text", else tabs between them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a row has no label and text, or the file is not UTF-8.
    """
    return read_rows(path) if Path(path).suffix == ".csv" else read_sms(path, quotes=False)


def is_frame(rows: Any) -> bool:
    """Whether this is a DataFrame; pandas need not be there to tell."""
    return hasattr(rows, "iloc") and hasattr(rows, "columns")


def _read_csv(path: Path) -> list[Row]:
    rows = []
    with open_text(path) as file:
        reader = csv.DictReader(file)
        if missing := {"Label", "Text"} - set(reader.fieldnames or ()):
            raise ValueError(
                f"{path} has no column {', '.join(sorted(missing))}; its first line must name "
                "Label and Text"
            )
        for number, row in enumerate(reader):
            if None in row or None in row.values():
                raise ValueError(
                    f"row {number} of {path} has another number of fields than its first line; "
                    "a text with commas stands between quotation marks"
                )
            label = row["Label"].strip()
            rows.append((int(label) if label.isdecimal() else label, row["Text"]))
    _check_closed(path, rows)
    return _checked(rows)


def _checked(rows: Iterable[Any]) -> list[Row]:
    found = []
    for number, row in enumerate(rows):
        if isinstance(row, str | Mapping) or not hasattr(row, "__len__") or len(row) != 2:
            raise TypeError(f"row {number} is {row!r:.60}; a pair (label, text) is needed")
        label, text = row
        if not isinstance(text, str):
            raise TypeError(f"the text of row {number} is a {type(text).__name__}, not a str")
        found.append((label, text))
    return found


def _drawn(n: int, size: int) -> list[int]:
    """`size` of n positions without replacement, as pandas' `sample(..., random_state=123)`."""
    return np.random.RandomState(SEED).choice(n, size=size, replace=False).tolist() if n else []
