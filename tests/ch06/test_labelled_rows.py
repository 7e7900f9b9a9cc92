"""Reading, balancing and splitting messages: what pandas does, without pandas."""

from __future__ import annotations

import zipfile
from collections import Counter

import pytest

from llm_scratch.download import DownloadError
from llm_scratch.finetuning.labelled_rows import (
    balanced_positions,
    create_balanced_dataset,
    download_and_unzip_spam_data,
    random_split,
    read_labelled,
    read_rows,
    read_sms,
)

ROWS = [("spam" if i % 4 == 0 else "ham", f"message {i}") for i in range(100)]
# Quotation marks at the start, in the middle, alone, and one that holds a line end.
QUOTED = (
    'ham\tplain\nspam\t"all of it"\nham\ta "middle" one\nham\t"starts" and goes on\n\n'
    'ham\t"opens\nham\tand closes"\nspam\t"one "" inside"\r\nham\tends "here"\n'
)
QUOTED_ROWS = [
    ("ham", "plain"),
    ("spam", "all of it"),
    ("ham", 'a "middle" one'),
    ("ham", "starts and goes on"),
    ("ham", "opens\nham\tand closes"),
    ("spam", 'one " inside'),
    ("ham", 'ends "here"'),
]


@pytest.fixture
def file_of(tmp_path):
    def write(content: str | bytes):
        path = tmp_path / "messages.tsv"
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        return path

    return write


def frame(rows):
    pandas = pytest.importorskip("pandas", reason="pip install pandas brings it")
    return pandas.DataFrame(rows, columns=["Label", "Text"])


def as_rows(df):
    return [tuple(row) for row in df[["Label", "Text"]].to_numpy().tolist()]


def test_read_sms_lets_quotation_marks_hold_lines_together(file_of):
    assert read_sms(file_of(QUOTED)) == QUOTED_ROWS


def test_read_sms_takes_lines_as_they_stand_without_quotes(file_of):
    rows = read_sms(file_of(QUOTED), quotes=False)
    assert len(rows) == 8
    assert rows[1] == ("spam", '"all of it"')
    assert rows[4:6] == [("ham", '"opens'), ("ham", 'and closes"')]


def test_read_sms_reads_what_pandas_reads(file_of):
    pandas = pytest.importorskip("pandas", reason="pip install pandas brings it")
    path = file_of(QUOTED)
    df = pandas.read_csv(path, sep="\t", header=None, names=["Label", "Text"])
    assert read_sms(path) == as_rows(df)


def test_read_sms_keeps_characters_and_blanks(file_of):
    path = file_of("ham\t caf\u00e9 \U0001f525 \u00a35 \n")
    assert read_sms(path) == [("ham", " caf\u00e9 \U0001f525 \u00a35 ")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no message"),
        ("\n\n", "holds no message"),
        ("ham\tone\nno tab here\n", "messages.tsv: line 2 has 1 fields"),
        ("ham\tone\ttwo\n", "messages.tsv: line 1 has 3 fields"),
        (b"ham\tcaf\xe9\n", "is not UTF-8"),
        ("ham\tone\n\t two\n", "messages.tsv: line 2 has an empty label"),
        ("ham\tone\nham\t\n", "messages.tsv: line 2 has an empty text; leave the row out"),
        ('ham\tone\nham\t"' + "x" * 140_000, "messages.tsv: line 2: the quotation mark .* closed"),
    ],
)
def test_read_sms_refuses_other_files(file_of, content, message):
    with pytest.raises(ValueError, match=message):
        read_sms(file_of(content))


def test_read_sms_needs_the_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_sms(tmp_path / "nowhere.tsv")


def test_create_balanced_dataset_keeps_the_rare_label_at_the_end():
    rows = create_balanced_dataset(ROWS)
    assert Counter(label for label, _ in rows) == {"ham": 25, "spam": 25}
    assert rows[25:] == [row for row in ROWS if row[0] == "spam"]
    assert len(set(rows)) == 50
    assert rows == create_balanced_dataset(ROWS)


def test_create_balanced_dataset_takes_any_number_of_labels():
    rows = [(label, str(i)) for i, label in enumerate("aaaabbbbbccdd")]
    counts = Counter(label for label, _ in create_balanced_dataset(rows))
    assert counts == dict.fromkeys("abcd", 2)


def test_create_balanced_dataset_takes_the_rows_that_pandas_takes():
    df = frame(ROWS)
    spam = df[df["Label"] == "spam"]
    ham = df[df["Label"] == "ham"].sample(len(spam), random_state=123)
    expected = [*ham.index, *spam.index]
    assert balanced_positions(df["Label"]) == expected
    assert list(create_balanced_dataset(df).index) == expected
    assert as_rows(create_balanced_dataset(df)) == create_balanced_dataset(ROWS)


@pytest.mark.parametrize("rows", [[], [("ham", "a"), ("ham", "b")]])
def test_create_balanced_dataset_needs_two_labels(rows):
    with pytest.raises(ValueError, match="at least two are needed"):
        create_balanced_dataset(rows)


def test_random_split_gives_every_row_once():
    parts = random_split(ROWS, 0.7, 0.1)
    assert [len(part) for part in parts] == [70, 10, 20]
    assert sorted(sum(parts, [])) == sorted(ROWS)
    assert sum(parts, []) != ROWS
    assert parts == random_split(ROWS, 0.7, 0.1)


@pytest.mark.parametrize("n", [10, 99, 1494])
def test_random_split_is_that_of_pandas(n):
    df = frame([("ham", str(i)) for i in range(n)])
    shuffled = df.sample(frac=1, random_state=123).reset_index(drop=True)
    first = int(n * 0.7)
    second = first + int(n * 0.1)
    expected = shuffled[:first], shuffled[first:second], shuffled[second:]
    for part, other in zip(random_split(df, 0.7, 0.1), expected, strict=True):
        assert part.equals(other)
    assert random_split(as_rows(df), 0.7, 0.1) == tuple(map(as_rows, expected))


@pytest.mark.parametrize("shares", [(-0.1, 0.1), (0.5, -0.1), (0.7, 0.4)])
def test_random_split_refuses_shares_that_are_no_parts(shares):
    with pytest.raises(ValueError, match="together at most 1"):
        random_split(ROWS, *shares)


def test_random_split_may_leave_a_part_empty():
    assert [len(part) for part in random_split(ROWS, 0.9, 0.1)] == [90, 10, 0]
    assert random_split([], 0.5, 0.5) == ([], [], [])


def test_read_rows_reads_the_csv_files_of_the_book(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text('Label,Text\n0,"a, b"\n1,"two\nlines"\n', encoding="utf-8")
    assert read_rows(path) == [
        (0, "a, b", f"{path}: line 2"),
        (1, "two\nlines", f"{path}: line 3"),
    ]


def test_read_rows_reads_what_pandas_writes(tmp_path):
    df = frame([(i % 2, text) for i, (_, text) in enumerate(QUOTED_ROWS)])
    df.to_csv(tmp_path / "train.csv", index=None)
    for rows in (read_rows(tmp_path / "train.csv"), read_rows(df)):
        assert [row[:2] for row in rows] == as_rows(df)


def test_read_rows_needs_both_columns(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("class,Text\n0,a\n", encoding="utf-8")
    with pytest.raises(ValueError, match="train.csv has no column Label; its first line must"):
        read_rows(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("ham", "a"), "ham"], r"rows\[1\] is 'ham'"),
        ([("ham", "a", "b")], r"rows\[0\]"),
        ([("ham", 3.5)], r"text of rows\[0\] is a float"),
    ],
)
def test_read_rows_names_the_row_that_is_no_pair(rows, message):
    with pytest.raises(TypeError, match=message):
        read_rows(rows)


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "elsewhere.zip"
    with zipfile.ZipFile(path, "w") as content:
        content.writestr("readme", "about")
        content.writestr("SMSSpamCollection", QUOTED)
    return path


def test_download_and_unzip_spam_data_leaves_the_file_under_its_name(archive, tmp_path):
    lines: list[str] = []
    target = tmp_path / "sms" / "SMSSpamCollection.tsv"
    # An archive that is there is not fetched again.
    options = (["https://localhost:1/none"], archive, tmp_path / "sms", target)
    assert download_and_unzip_spam_data(*options, log=lines.append) == target
    assert read_sms(target) == QUOTED_ROWS
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    archive.unlink()
    assert download_and_unzip_spam_data(*options, log=lines.append) == target
    assert "saved as" in lines[0]
    assert "already exists" in lines[1]


@pytest.mark.parametrize("content", [b"no archive", None])
def test_download_and_unzip_spam_data_refuses_another_archive(tmp_path, content):
    path = tmp_path / "other.zip"
    if content is None:
        with zipfile.ZipFile(path, "w") as other:
            other.writestr("readme", "about")
    else:
        path.write_bytes(content)
    target = tmp_path / "messages.tsv"
    with pytest.raises(DownloadError, match="not the expected archive"):
        download_and_unzip_spam_data("https://localhost:1/none", path, tmp_path, target)
    assert [found.name for found in tmp_path.iterdir()] == ["other.zip"]


def test_download_and_unzip_spam_data_leaves_no_part_of_a_damaged_archive(archive, tmp_path):
    content = archive.read_bytes()
    place = content.index(b"ham\tplain")  # the member is stored as it is
    archive.write_bytes(content[:place] + b"jam" + content[place + 3 :])
    target = tmp_path / "messages.tsv"
    with pytest.raises(DownloadError, match="fetch it again"):
        download_and_unzip_spam_data("https://localhost:1/none", archive, tmp_path, target)
    assert [found.name for found in tmp_path.iterdir()] == [archive.name]


@pytest.mark.parametrize("read", [read_sms, read_rows])
def test_readers_pass_over_a_byte_order_mark(tmp_path, read):
    path = tmp_path / "marked"
    text = "ham\thi\nspam\tno\n" if read is read_sms else "Label,Text\nham,hi\nspam,no\n"
    path.write_text(text, encoding="utf-8-sig")
    assert [row[:2] for row in read(path)] == [("ham", "hi"), ("spam", "no")]


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_sms, 'ham\t"open\nspam\ttwo\n', "never closed"),
        (read_rows, 'Label,Text\nham,"open\nspam,two\n', "never closed"),
        (
            read_rows,
            "Label,Text\nham,hello, world\n",
            "broken.csv: line 2 has 3 fields, not 2",
        ),
        (read_rows, "Label,Text\nham\n", "broken.csv: line 2 has 1 fields"),
    ],
)
def test_readers_refuse_what_would_lose_text(tmp_path, read, text, message):
    path = tmp_path / "broken.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read(path)


def test_read_rows_refuses_another_encoding(tmp_path):
    path = tmp_path / "latin.csv"
    path.write_text("Label,Text\nham,h\u00e9\n", encoding="latin-1")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_rows(path)


@pytest.mark.parametrize("row", [{"Label": "ham", "Text": "hi"}, 3])
def test_read_rows_refuses_what_is_no_pair(row):
    with pytest.raises(TypeError, match=r"rows\[0\] is .* a pair"):
        read_rows([row])


HAM_AND_SPAM = [("ham", "hi, you"), ("spam", 'a "prize"')]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.tsv", ' ham \thi, you\nspam \ta "prize"\n'),
        ("m.TSV", 'label\ttext\r\n ham \thi, you\r\nspam\ta "prize"\r\n'),
        ("m", 'Text\tLabel\nhi, you\t ham\na "prize"\tspam'),
        ("m.CSV", 'Label,Text\n ham ,"hi, you"\n spam,"a ""prize"""\n'),
        ("m.csv", 'text,id,label\n"hi, you",1,ham\n"a ""prize""",2,spam\n'),
        (
            "m.json",
            '[{"label": " ham", "text": "hi, you"},{"Label":"spam","Text":"a \\"prize\\""}]',
        ),
        ("m.jsonl", '{"label": "ham","text": "hi, you"}\n{"label":"spam","text":"a \\"prize\\""}'),
    ],
)
def test_read_labelled_gives_the_same_rows_in_every_form(tmp_path, name, content):
    path, said = tmp_path / name, []
    path.write_text(content, encoding="utf-8", newline="")
    rows = read_labelled(path, log=said.append)
    assert [row[:2] for row in rows] == HAM_AND_SPAM
    assert [row[:2] for row in read_rows(path)] == HAM_AND_SPAM
    assert len(said) == (name in ("m.TSV", "m"))
    for row in rows:
        assert row.where.startswith(f"{path}: ")


def test_read_sms_sees_a_head_line_and_says_so(file_of):
    with pytest.warns(
        UserWarning, match="messages.tsv: line 1 names the columns and is not a message"
    ):
        assert read_sms(file_of("label\ttext\n ham\tthe tide\n")) == [("ham", "the tide")]


def test_labels_are_numbers_in_a_file_where_all_of_them_are(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"label": 2, "text": "a"}\n{"label": "0", "text": "b"}\n', encoding="utf-8")
    assert [row.label for row in read_rows(path)] == [2, 0]
    assert [row.label for row in read_labelled(path)] == ["2", "0"]
    path.write_text('{"label": 2, "text": "a"}\n{"label": "no", "text": "b"}\n', encoding="utf-8")
    assert [row.label for row in read_rows(path)] == ["2", "no"]
    path.write_text('{"label": "%s", "text": "a"}' % ("9" * 5000), encoding="utf-8")
    assert read_rows(path)[0].label == "9" * 5000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"label": true, "text": "a"}', "a label of type bool; each row needs a label and a text"),
        ('{"label": 1.0, "text": "a"}', "a label of type float"),
        ('{"label": null, "text": "a"}', "no label"),
        ('{"text": "a"}', "no label"),
        ('{"label": "a", "text": 3}', "a text of type int"),
        ('{"label": " ", "text": "a"}', "an empty label; leave the row out"),
        ('{"label": "a", "text": ""}', "an empty text"),
    ],
)
def test_read_labelled_names_file_and_row(tmp_path, line, message):
    path = tmp_path / "m.jsonl"
    path.write_text('{"label": "a", "text": "b"}\n' + line, encoding="utf-8")
    for read in (read_labelled, read_rows):
        with pytest.raises(ValueError, match=f"m.jsonl: line 2 has {message}"):
            read(path)
