"""The checks of chapter 6: labelled messages, balanced, split and turned into rows of ids.

The checks of training and using the classifier are in `chapter6_training`.
"""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.chapter2 import Letters
from llm_scratch.selfcheck.chapter6_training import TRAINING_CHECKS
from llm_scratch.selfcheck.compare import call, must
from llm_scratch.selfcheck.foreign import attempt, describe
from llm_scratch.selfcheck.outcome import Check, MistakeError, WaitsError
from llm_scratch.selfcheck.server import Served, serving

Rows = list[tuple[str, str]]
FETCH = "(url, zip_path, extracted_path, data_file_path)"
SMS = "ham\tsee you at six\nspam\twin a free cruise\n"


def _archive() -> bytes:
    """Return a zip archive laid out as the SMS Spam Collection's."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("SMSSpamCollection", SMS)
        archive.writestr("readme", "Two messages.\n")
    return file.getvalue()


def _fetch(function: Any, there: str | None) -> tuple[str, int]:
    """Return the content of the messages' file afterwards, and the number of downloads."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        serving(Served(_archive())) as served,
    ):
        folder = Path(name)
        target = folder / "unpacked" / "SMSSpamCollection.tsv"
        if there is not None:
            target.parent.mkdir()
            target.write_text(there, encoding="utf-8")
        paths = (str(folder / "messages.zip"), str(target.parent), target)
        call("download_and_unzip_spam_data", function, (f"{served.url}sms.zip", *paths), FETCH)
        found = target.read_text(encoding="utf-8") if target.is_file() else "no such file"
        return found, served.fetched


def _fetches_the_messages(function: Any) -> None:
    found, _ = _fetch(function, None)
    must(found == SMS, "the messages in the file data_file_path", repr(found), hints.UNPACKED)


def _fetches_once(function: Any) -> None:
    found, fetched = _fetch(function, "ham\tkept\n")
    must(fetched == 0, "no download if the file is there", f"{fetched}", hints.FETCHED_AGAIN)
    must(found == "ham\tkept\n", "the file left as it is", repr(found), hints.FETCHED_AGAIN)


# Enough rows that drawing one twice, if possible, almost certainly happens.
MESSAGES: Rows = [("spam" if i % 3 == 2 else "ham", f"message {i}") for i in range(60)]


def _tables(rows: Rows) -> Iterator[Any]:
    """Yield the rows in each form that a function may be written for; the book's comes first."""
    try:
        import pandas  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        pass
    else:
        yield pandas.DataFrame(rows, columns=["Label", "Text"])
    yield list(rows)
    yield [{"Label": label, "Text": text} for label, text in rows]


def _rows_of(came: Any) -> Rows:
    """Return a DataFrame or a list of rows as pairs (label, text)."""
    if hasattr(came, "columns") and hasattr(came, "iloc"):
        return list(zip(came["Label"], came["Text"], strict=True))
    if not isinstance(came, Sequence) or isinstance(came, str):
        raise MistakeError("rows", type(came).__name__, hints.NOT_TENSOR)
    rows = [tuple(row.values()) if isinstance(row, Mapping) else tuple(row) for row in came]
    if not all(len(row) == 2 for row in rows):
        raise MistakeError("rows with a label and a text", f"{came}", hints.NOT_TENSOR)
    return [(label, text) for label, text in rows]


def _on_rows(run: Callable[[Any], Any]) -> Any:
    """Return a function's result for MESSAGES, in the first form that it takes.

    Raises:
        WaitsError: if it takes no form, and may need pandas, which is not installed.
    """
    results: list[Any] = []
    errors: list[BaseException] = []
    forms = list(_tables(MESSAGES))
    for table in forms:
        error = attempt(partial(_append, results, run, table))
        if error is None:
            return results[0]
        errors.append(error)
    if isinstance(forms[0], list) and isinstance(errors[0], (AttributeError, TypeError)):
        raise WaitsError(
            f"not checked: {describe(errors[0])}, on a list of (label, text) pairs; if it takes "
            "a DataFrame, checking needs pandas, which is not installed"
        )
    raise errors[0]


def _append(results: list[Any], run: Callable[[Any], Any], table: Any) -> None:
    results.append(run(table))


def _balanced(function: Any) -> Rows:
    def run(table: Any) -> Rows:
        rows = _rows_of(call("create_balanced_dataset", function, (table,), "(df)"))
        must(len(rows) > 0, "rows of both labels", "no rows", hints.BALANCE)
        return rows

    rows: Rows = _on_rows(run)
    return rows


def _takes_as_many_of_each(function: Any) -> None:
    counts = Counter(label for label, _ in _balanced(function))
    must(
        counts == {"ham": 20, "spam": 20},
        "20 ham and 20 spam out of 40 and 20",
        f"{counts['ham']} ham and {counts['spam']} spam",
        hints.BALANCE,
    )


def _takes_rows_that_differ(function: Any) -> None:
    rows = _balanced(function)
    must(set(rows) <= set(MESSAGES), "rows of the data", f"{rows[:2]}", hints.BALANCE)
    twice = [text for (_, text), count in Counter(rows).items() if count > 1]
    must(not twice, "no row twice", f"{twice[0] if twice else ''!r} twice", hints.REPLACEMENT)


SPLIT = "(df, train_frac, validation_frac)"


def _parts(function: Any) -> list[Rows]:
    def run(table: Any) -> list[Rows]:
        came = call("random_split", function, (table, 0.5, 0.2), SPLIT)
        must(
            isinstance(came, (tuple, list)) and len(came) == 3,
            "three parts: training, validation, test",
            f"{type(came).__name__}",
            hints.NOT_TENSOR,
        )
        return [_rows_of(part) for part in came]

    parts: list[Rows] = _on_rows(run)
    return parts


def _splits_by_the_fractions(function: Any) -> None:
    sizes = [len(part) for part in _parts(function)]
    hint = hints.SPLIT_ENDS
    if sorted(sizes) == [12, 18, 30]:
        hint = hints.SPLIT_ORDER
    elif sum(sizes) != len(MESSAGES) and all(sizes):
        hint = hints.SPLIT_LOSES
    must(sizes == [30, 12, 18], "parts of 30, 12 and 18 rows out of 60", f"{sizes}", hint)


def _puts_each_row_into_one_part(function: Any) -> None:
    rows = [row for part in _parts(function) for row in part]
    lost = len(set(MESSAGES) - set(rows))
    must(lost == 0, "every row in one part", f"{lost} rows in none", hints.SPLIT_LEAKS)


def _mixes_before_it_splits(function: Any) -> None:
    rows = [row for part in _parts(function) for row in part]
    must(rows != MESSAGES, "rows in a random order", "the order of the data", hints.SPLIT_UNMIXED)


def _splits_alike_again(function: Any) -> None:
    if _parts(function) != _parts(function):
        raise MistakeError(
            "the same parts at every call", "different ones", hints.SPLIT_SEED, counts=False
        )


DATASET = "(csv_file, tokenizer, max_length=None, pad_token_id=50256)"
PAD = 50256
TEXTS = ((0, "bcd"), (1, "cdefghi"), (0, "de"), (1, "efgh"))
LONGEST = 7
Item = tuple[Tensor, int]


def _items(cls: Any, *args: Any) -> list[Item]:
    """Return the items of the reader's data set; the file is a CSV with the book's columns."""
    lines = "".join(f"{label},{text}\n" for label, text in TEXTS)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "train.csv"
        path.write_text(f"Label,Text\n{lines}", encoding="utf-8")
        data = call("SpamDataset", cls, (str(path), Letters(), *args), DATASET)
        must(len(data) == len(TEXTS), f"{len(TEXTS)} items", f"{len(data)}", hints.ROWS_COUNTED)
        return [_item(data[index]) for index in range(len(TEXTS))]


def _item(came: Any) -> Item:
    must(
        isinstance(came, (tuple, list)) and len(came) == 2,
        "a pair: ids, label",
        type(came).__name__,
        hints.NOT_TENSOR,
    )
    ids, label = came
    must(
        hasattr(ids, "dtype") and "int" in str(ids.dtype),
        "a tensor of ids (int64)",
        str(getattr(ids, "dtype", type(ids).__name__)),
        "See how a row of ids becomes a tensor.",
    )
    return torch.as_tensor(ids), int(label)


def _row(text: str, length: int, pad: int = PAD) -> list[int]:
    ids = Letters().encode(text)[:length]
    return ids + [pad] * (length - len(ids))


def _must_be_rows(items: list[Item], length: int, short: str, pad: int = PAD) -> None:
    """Compare the ids of all items; `short` is the hint for rows of the wrong length."""
    for (ids, _), (_, text) in zip(items, TEXTS, strict=True):
        came, expected = ids.tolist(), _row(text, length, pad)
        whole = Letters().encode(text)
        hint = hints.PADDING_IDS
        if len(came) != length:
            hint = short
        elif came == [pad] * (length - len(whole)) + whole:
            hint = hints.PADDED_LEFT
        elif came == whole[-length:]:
            hint = hints.CUT_WRONG_END
        must(came == expected, f"{expected} for {text!r}", f"{came}", hint)


def _pads_to_the_longest(cls: Any) -> None:
    _must_be_rows(_items(cls), LONGEST, hints.PADDED_LENGTH)


def _gives_the_labels(cls: Any) -> None:
    came = [label for _, label in _items(cls)]
    expected = [label for label, _ in TEXTS]
    must(came == expected, f"the labels {expected}", f"{came}", hints.LABELS)


def _cuts_to_max_length(cls: Any) -> None:
    _must_be_rows(_items(cls, 5), 5, hints.NOT_CUT)


def _pads_to_max_length(cls: Any) -> None:
    _must_be_rows(_items(cls, 9), 9, hints.MAX_LENGTH_IGNORED)


def _pads_with_pad_token_id(cls: Any) -> None:
    _must_be_rows(_items(cls, None, 59), LONGEST, hints.PADDED_LENGTH, pad=59)


LOADED, BALANCED = "download_and_unzip_spam_data", "create_balanced_dataset"
CHECKS = (
    Check("6.2", LOADED, "downloads the messages to data_file_path", _fetches_the_messages),
    Check("6.2", LOADED, "downloads nothing if the file is there", _fetches_once),
    Check("6.2", BALANCED, "takes equally many rows of each label", _takes_as_many_of_each),
    Check("6.2", BALANCED, "takes each row at most once", _takes_rows_that_differ),
    Check("6.2", "random_split", "gives parts of the sizes asked for", _splits_by_the_fractions),
    Check("6.2", "random_split", "puts every row into one part", _puts_each_row_into_one_part),
    Check("6.2", "random_split", "mixes the rows first", _mixes_before_it_splits),
    Check("6.2", "random_split", "splits the same way every time", _splits_alike_again),
    Check("6.3", "SpamDataset", "pads every message to the longest", _pads_to_the_longest),
    Check("6.3", "SpamDataset", "gives each message with its label", _gives_the_labels),
    Check("6.3", "SpamDataset", "cuts messages to max_length", _cuts_to_max_length),
    Check("6.3", "SpamDataset", "pads messages to max_length", _pads_to_max_length),
    Check("6.3", "SpamDataset", "pads with pad_token_id", _pads_with_pad_token_id),
    *TRAINING_CHECKS,
)
