"""Files of rows in every form that tools and people give them: the right rows, or our error.

Good files are written by the standard library and must come back row by row. Damaged ones give
what the standard library reads in them, or a ValueError that names the file.
"""

from __future__ import annotations

import csv
import io
import json
import random
import re
from itertools import accumulate

import pytest

from llm_scratch.data_files import Columns, file_rows, file_texts
from llm_scratch.finetuning.instructions import load_instructions
from llm_scratch.finetuning.labelled_rows import read_labelled, read_rows, read_sms
from llm_scratch.finetuning.preference_rows import load_preferences
from llm_scratch.judging.records import Records
from llm_scratch.tokenizers.bpe_pieces import each_text, text_sources
from llm_scratch.training.run_folder import read_metrics

BOM = b"\xef\xbb\xbf"
LONG = 140_000  # characters; the csv module of the standard library stops at 131,072
PIECES = (
    *("tide", "bell", "Text", "label", "0", "17", "NaN", "é", "\U0001f525", "\ufeff", "\0"),
    *(" ", "  ", ",", ";", '"', '""', "'", "\\", "\\n", "[", "]", "{", "}", ":", "<|endoftext|>"),
    *("\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e", "\u00a0"),
)
BREAKS = ("\n", "\r\n", "\r", "\t", "\n\n", '"\n"', "\nham\tx\n")
COLUMNS = Columns(("label", "text"))
FORMS = ("json", "jsonl", "csv", "tsv", "bare")


def text_of(source, breaks=BREAKS):
    """A text that is not blank, made of what files of rows trip over."""
    count = source.choice((1, 2, 5, 20))
    text = "".join(source.choice(PIECES + breaks) for _ in range(count)) + "x"
    return text * (LONG // len(text) + 1) if source.random() < 0.004 else text


def rows_of(source, form):
    """Labels and texts as they should come back."""
    breaks = () if form == "bare" else BREAKS
    labels = [text_of(source, breaks).strip() for _ in range(3)]
    return [
        {"label": source.choice(labels), "text": text_of(source, breaks)}
        for _ in range(source.choice((1, 2, 7, 40)))
    ]


def written(source, form, rows):
    """The rows as a file has them, in one of the ways that a form allows: head, a text for each."""
    if form == "bare":
        head = source.choice(("", "", "label\ttext\n", " Label \tTEXT\r\n"))
        end = source.choice(("\n", "\r\n", "\n\n"))
        blank = source.choice(("", " "))
        return head, [f"{blank}{r['label']}{blank}\t{r['text']}{end}" for r in rows]
    if form in ("json", "jsonl"):
        more = {"kind": source.choice((1.5, None, [1, {"a": "\u2028"}], float("nan"), 10**40))}
        items = [{**row, **more} if source.random() < 0.5 else row for row in rows]
        end = {"json": ",", "jsonl": source.choice(("\n", "\r\n", "\n \n"))}[form]
        options = {"ensure_ascii": source.random() < 0.5}
        if form == "json":
            options["indent"] = source.choice((None, 0, 2))
        texts = [json.dumps(item, **options) + end for item in items]
        if form == "json":
            texts[-1] = texts[-1].removesuffix(",") + "]"
        return source.choice(("[", " [\n")) if form == "json" else "", texts
    names = source.sample(["label", "text", "id"], 3) if source.random() < 0.5 else list(COLUMNS[0])
    spelled = [source.choice((name, name.upper(), f" {name}")) for name in names]
    end = source.choice(("\n", "\r\n"))
    # Without quotes a field that ends in "\r" could not be told from a line's end.
    quoting = csv.QUOTE_ALL if end == "\n" or source.random() < 0.5 else csv.QUOTE_MINIMAL
    dialect = {"delimiter": "," if form == "csv" else "\t", "lineterminator": end}

    def line(fields):
        buffer = io.StringIO(newline="")
        csv.writer(buffer, quoting=quoting, **dialect).writerow(fields)
        return buffer.getvalue()

    return line(spelled), [line([row.get(name, "7") for name in names]) for row in rows]


def whole(source, form, rows):
    head, texts = written(source, form, rows)
    return (head + "".join(texts)).encode("utf-8")


def places(form, head, texts):
    """What errors call each row: its number in a JSON list, else its line."""
    if form == "json":
        return [f"row {number}" for number in range(1, len(texts) + 1)]
    starts = accumulate((text.count("\n") for text in texts[:-1]), initial=1 + head.count("\n"))
    return [f"line {line}" for line in starts]


def path_for(source, form, folder):
    ending = {"bare": ".tsv"}.get(form, f".{form}")
    endings = [ending, ending.upper()]
    if form in ("json", "jsonl"):
        endings += [".txt", ""]  # told by the first character
    return folder / f"rows{source.choice(endings)}"


def read(form, path):
    """What the reader gives for a form: where each row is, and its label and text."""
    if form == "bare":
        return [(row.where, {"label": row.label, "text": row.text}) for row in read_labelled(path)]
    rows = file_rows(path, COLUMNS)
    return [(where, {n: values.get(n) for n in COLUMNS.needed}) for where, values in rows]


def good_cases(form, folder, count, seed):
    source = random.Random(seed)
    for _ in range(count):
        rows, path = rows_of(source, form), path_for(source, form, folder)
        head, texts = written(source, form, rows)
        data = (head + "".join(texts)).encode("utf-8")
        path.write_bytes((BOM if data.startswith(BOM) or source.random() < 0.3 else b"") + data)
        found = read(form, path)
        assert [row for _, row in found] == rows, path.read_bytes()[:2000]
        assert [where for where, _ in found] == [f"{path}: {p}" for p in places(form, head, texts)]
        path.unlink()


def damaged(source, data):
    """A file with one thing wrong, or several."""
    at = source.randrange(len(data) + 1)
    kind = source.randrange(9)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + source.randbytes(source.choice((1, 2, 8))) + data[at:]
    if kind == 2:
        return data[:at] + data[at + source.choice((1, 2, 30)) :]
    if kind == 3:
        return data.decode("utf-8").encode(source.choice(("utf-16", "utf-16-le", "utf-16-be")))
    if kind == 4:
        return data.decode("utf-8").encode("latin-1", "replace")
    if kind == 5:
        wrong = (b'"', b"\n", b"\r", b"\t", b",", b"\\ud83d", b"\\", b"[", b"}", BOM, b"NaN", b"\0")
        return data[:at] + source.choice(wrong) + data[at:]
    if kind == 6:
        return source.randbytes(source.randrange(200))
    if kind == 7:
        deep = source.choice((b"[", b'{"text":', b'[{"label":'))
        return source.choice((b"", data[:at])) + deep * source.choice((3, 5000))
    old, new = source.choice(
        (
            (b'"text"', b'"text": 1, "text"'),
            (b'"label"', b'"Text": "", "label"'),
            (b'"text": "', b'"text": "\\uDC00'),
            (b'"label": "', b'"label": ' + b"1" * source.choice((3, 5000)) + b', "x": "'),
            (b"\n", b""),
            (b"\n", b"\n\n \n"),
            (b'"', b'" '),
            (b"label", b"label,text"),
            (b"text", b"label"),
        )
    )
    parts = data.split(old)
    if len(parts) == 1:
        return data[:at]
    at = source.randrange(1, len(parts))
    return old.join(parts[:at]) + new + old.join(parts[at:])


def loads(text):
    def once(pairs):
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    found = json.loads(text, object_pairs_hook=once)
    json.dumps(found, ensure_ascii=False).encode("utf-8")  # has no half of a character
    return found


def expected(form, path):
    """What the standard library reads in a file; None where it reads nothing, or can't judge."""
    text = path.read_bytes().decode("utf-8-sig")
    if form == "bare":
        rows = [
            re.split("\t", line.removesuffix("\r")) for line in text.split("\n") if line.strip()
        ]
        if [name.strip().lower() for name in rows[0]] in (["label", "text"], ["text", "label"]):
            head = [name.strip().lower() for name in rows.pop(0)]
            rows = [[row[head.index(name)] for name in COLUMNS.needed] for row in rows]
        return [{"label": label.strip(), "text": text} for label, text in rows]
    if form == "json" or (form == "jsonl" and text.lstrip().startswith("[")):
        lines = text.lstrip().startswith("{")
        items = list(map(loads, text.split("\n"))) if lines else loads(text)
    elif form == "jsonl":
        try:
            items = [loads(text)]  # one object alone may go over several lines
        except json.JSONDecodeError:
            items = [loads(line) for line in text.split("\n") if line.strip()]
    else:
        csv.field_size_limit(1 << 30)
        stream = io.StringIO(text, newline="\n")
        try:
            found = list(csv.reader(stream, delimiter="," if form == "csv" else "\t", strict=True))
        except csv.Error:  # a line end of old, or a field that goes on: see the tests below
            return None
        finally:
            csv.field_size_limit(131_072)
        names, *rows = [row for row in found if len(row) > 1 or "".join(row).strip()]
        items = [dict(zip(names, row, strict=True)) for row in rows]
    spelled = [{k.strip().lower(): v for k, v in item.items()} for item in items]
    return [{name: item.get(name) for name in COLUMNS.needed} for item in spelled]


def damaged_cases(form, folder, count, seed):
    source = random.Random(seed)
    for _ in range(count):
        rows, path = rows_of(source, form)[:7], path_for(source, form, folder)
        data = whole(source, form, rows)
        for _ in range(source.choice((1, 1, 1, 2, 3))):
            data = damaged(source, data)
            try:
                data.decode("utf-8")
            except UnicodeDecodeError:
                break
        path.write_bytes(data)
        found, refused = attempt(lambda path: read(form, path), path)
        if refused:
            assert str(path) in refused, (refused, data[:2000])
        elif (wanted := expected(form, path)) is not None:
            assert repr([row for _, row in found]) == repr(wanted), data[:2000]
        path.unlink()


def attempt(reader, path):
    """What a reader gives, and why it does not: only a ValueError may come."""
    try:
        return reader(path), ""
    except ValueError as err:
        return None, str(err)


@pytest.mark.parametrize("form", FORMS)
def test_good_files_give_their_rows(tmp_path, form):
    good_cases(form, tmp_path, 300, seed=1)


@pytest.mark.parametrize("form", FORMS)
def test_damaged_files_give_their_rows_or_our_error(tmp_path, form):
    damaged_cases(form, tmp_path, 300, seed=2)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_files_of_rows_in_full(tmp_path, form):
    good_cases(form, tmp_path, 10_000, seed=3)
    damaged_cases(form, tmp_path, 10_000, seed=4)


def corpus(path):
    return [text.source for text in each_text(text_sources(path))]


def read_log(path):
    return read_metrics(path.parent)


READERS = (
    read_labelled,
    read_rows,
    lambda path: read_sms(path),
    lambda path: read_sms(path, quotes=False),
    load_instructions,
    load_preferences,
    lambda path: list(file_texts(path, "prompt")),
    corpus,
    Records,
    read_log,
)


@pytest.mark.filterwarnings("ignore:.*names the columns and is not a message")
def test_every_reader_gives_rows_or_our_error(tmp_path):
    """Also where a file is none that the reader knows."""
    source = random.Random(5)
    for number in range(300):
        form = source.choice(FORMS)
        path = tmp_path / f"metrics.{source.choice(('json', 'jsonl', 'csv', 'tsv', 'txt', 'x'))}"
        path.write_bytes(damaged(source, whole(source, form, rows_of(source, form)[:7])))
        reader = READERS[number % len(READERS)]
        if reader is not read_log or path.name == "metrics.jsonl":
            _, refused = attempt(reader, path)
            assert not refused or str(path) in refused, (number, refused)
        path.unlink(missing_ok=True)
