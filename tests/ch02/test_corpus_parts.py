"""A corpus in parts: together they are what one file would be, whoever makes which of them."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import random
import warnings

import numpy as np
import pytest

from llm_scratch.text.part_files import part_name
from llm_scratch.text.part_plan import Plan, line_cut, text_cut
from llm_scratch.text.part_writing import write_parts
from llm_scratch.text.token_file import TokenFile, write_tokens
from llm_scratch.text.token_header import TokenFileError
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.gpt2 import END_OF_TEXT

LEARNED = "the cat sat on the mat; the cat and the hat, one text and one text more. " * 3
# What may stand at a cut: white space of several widths, a byte order mark, special tokens, halves
# of characters of several bytes.
BITS = [
    "the cat", " hat", "\n", "  ", "\u3000", "\u00e9", "\u6f22\u5b57", "\ufeff", END_OF_TEXT,
    f"\n{END_OF_TEXT}\n", "\u2028", "\t", "x" * 9, " ", "\U0001f525", "\r\n", "\x1c",
]  # fmt: skip
CASES = 60


@pytest.fixture(scope="module")
def small():
    with warnings.catch_warnings(action="ignore"):
        return BytePairTokenizer.train(LEARNED, 300, progress=False)


def written(path, *texts):
    """The path of a text, or of rows where its ending says so."""
    if path.suffix == ".txt":
        path.write_bytes("".join(texts).encode())
    elif path.suffix == ".jsonl":
        rows = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
        path.write_bytes("\n\n".join(rows).encode())
    else:
        path.write_text(json.dumps(list(texts)), encoding="utf-8")
    return path


def random_files(folder, rng):
    files = []
    for number in range(rng.choice([1, 1, 2, 3, 6])):
        kind = rng.choice([".txt", ".txt", ".jsonl", ".json"])
        sizes = [rng.choice([0, 1, 5, 40]) for _ in range(1 if kind == ".txt" else 4)]
        texts = ["".join(rng.choice(BITS) for _ in range(size)) for size in sizes]
        files.append(written(folder / f"{number}{kind}", *texts))
    return files


def assert_same(one, many):
    assert np.asarray(many.tokens).tolist() == one.tokens.tolist()
    assert np.asarray(many.documents).tolist() == one.documents.tolist()
    for name in ("num_bytes", "vocab_size", "fingerprint"):
        assert getattr(many, name) == getattr(one, name), name


@pytest.mark.filterwarnings("ignore:.*left out")
def test_any_number_of_parts_equals_one_file(tmp_path, small):
    rng, compared = random.Random(0), 0
    for case in range(CASES):
        folder = tmp_path / str(case)
        folder.mkdir()
        files = random_files(folder, rng)
        try:
            one = write_tokens(folder / "one", files, small, progress=False)
        except ValueError:  # all of them are blank
            continue
        write_parts(folder / "p", files, small, parts=rng.choice([1, 2, 3, 8, 20]), progress=False)
        assert_same(one, TokenFile(folder / "p"))
        compared += 1
    assert compared > CASES / 2


@pytest.mark.parametrize("mark", ["", END_OF_TEXT])
@pytest.mark.parametrize("ending", [".txt", ".jsonl"])
def test_a_large_text_is_divided_evenly(tmp_path, small, ending, mark):
    texts = [f"{number} the cat and the hat.\n{mark}\n" for number in range(400)]
    path = written(tmp_path / f"a{ending}", *texts)
    one = write_tokens(tmp_path / "one", path, small, progress=False)
    parts = write_parts(tmp_path / "p", path, small, parts=8, progress=False)
    many = TokenFile(tmp_path / "p")
    assert_same(one, many)
    assert max(part.tokens for part in parts) < 1.1 * min(part.tokens for part in parts)
    for frac in (0.3, 0.9):
        for of_one, of_many in zip(one.split(frac), many.split(frac), strict=True):
            assert of_many.tokens.tolist() == of_one.tokens.tolist()
            for step in range(20):
                pairs = zip(
                    of_many.batch(3, step, 4, 16), of_one.batch(3, step, 4, 16), strict=True
                )
                assert all(a.equal(b) for a, b in pairs)
            pairs = zip(of_many.rows_in_order(50, 3), of_one.rows_in_order(50, 3), strict=True)
            assert all(a.equal(b) for rows in pairs for a, b in zip(*rows, strict=True))


def test_parts_are_read_where_they_lie_and_sent_by_their_place(tmp_path, small):
    path = written(tmp_path / "a.txt", LEARNED * 50)
    write_parts(tmp_path / "p", path, small, parts=4, progress=False)
    file = TokenFile(tmp_path / "p")
    train = file.split(0.5)[0]
    data = pickle.dumps((file, train))
    assert len(data) < 1000
    again, part = pickle.loads(data)
    assert np.array_equal(again.tokens, file.tokens)
    assert np.array_equal(part.tokens, train.tokens)
    file.verify()
    assert file.tokenizer.merges == small.merges


def test_a_single_text_has_no_mark_at_its_end_in_any_number_of_parts(tmp_path, small):
    path = written(tmp_path / "a.txt", LEARNED)
    blank = written(tmp_path / "b.txt", "\n")
    for parts in (1, 3, 50):
        with warnings.catch_warnings(action="ignore"):
            write_parts(tmp_path / str(parts), [path, blank], small, parts=parts, progress=False)
        found = np.asarray(TokenFile(tmp_path / str(parts)).tokens).tolist()
        assert found == small.encode(LEARNED)


def test_text_cut_is_a_place_that_keeps_the_pieces(tmp_path):
    rng, path = random.Random(1), tmp_path / "a.txt"
    for _ in range(200):
        text = "".join(rng.choice(BITS) for _ in range(rng.choice([3, 30])))
        data = text.encode()
        path.write_bytes(data)
        for offset in range(1, len(data)):
            cut = text_cut(path, offset, len(data), [END_OF_TEXT.encode()])
            assert offset <= cut <= len(data)
            if cut < len(data):
                before, after = data[:cut].decode(), data[cut:].decode()
                assert after[0].isspace()
                assert not before[-1].isspace() or before[-1] in "\x1c"
                assert not before.endswith((END_OF_TEXT, "\ufeff"))


@pytest.mark.parametrize("size", [8, 9, 10, 11, 17])
def test_text_cut_reads_as_far_as_it_must(tmp_path, monkeypatch, size):
    monkeypatch.setattr("llm_scratch.text.part_plan.BLOCK", size)
    path = tmp_path / "a.txt"
    for pad in range(12):
        # The bytes behind the first one of a blank look like a character in front of a blank.
        text = "x" * (20 + pad) + "\u3000 \u3000\u3000y z"
        data = text.encode()
        path.write_bytes(data)
        assert text_cut(path, 3, len(data)) == 20 + pad
        assert text_cut(path, 21 + pad, len(data)) == len(data) - 2
        path.write_bytes(b"x" * 50)
        assert text_cut(path, 3, 50) == 50


def test_line_cut_is_behind_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr("llm_scratch.text.part_plan.BLOCK", 4)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"12345\n78\n\n" + b"x" * 20)
    found = [line_cut(path, offset, 30) for offset in range(1, 13)]
    assert found == [6, 6, 6, 6, 6, 6, 9, 9, 9, 10, 30, 30]


@pytest.mark.parametrize("kind", ["other pattern", "special token with a blank"])
def test_a_tokenizer_that_can_not_read_pieces_gets_whole_texts(tmp_path, kind):
    other = {"pattern": r"(?:.|\n)+"} if kind == "other pattern" else {
        "special_tokens": (END_OF_TEXT, "<|a b|>")}  # fmt: skip
    tokenizer = BytePairTokenizer([(b"b", b" "), (b" ", b"c")], **other)
    texts = [written(tmp_path / f"{n}.txt", "ab cab <|a b|> cab c" * 9) for n in range(3)]
    one = write_tokens(tmp_path / "one", texts, tokenizer, progress=False)
    parts = write_parts(tmp_path / "p", texts, tokenizer, parts=5, progress=False)
    assert_same(one, TokenFile(tmp_path / "p"))
    assert sum(part.tokens > 0 for part in parts) == 3


def test_a_compressed_file_goes_to_one_part(tmp_path, small):
    plain = written(tmp_path / "a.jsonl", *[LEARNED[:40]] * 30)
    packed = [tmp_path / f"{number}.jsonl.gz" for number in range(2)]
    for path in packed:
        path.write_bytes(gzip.compress(plain.read_bytes()))
    one = write_tokens(tmp_path / "one", [plain, plain], small, progress=False)
    parts = write_parts(tmp_path / "p", packed, small, parts=4, progress=False)
    assert_same(one, TokenFile(tmp_path / "p"))
    assert sorted(part.texts for part in parts) == [0, 0, 30, 30]


@pytest.mark.slow
def test_several_processes_make_the_same_parts(tmp_path, small):
    files = [written(tmp_path / f"{n}.txt", LEARNED * 9) for n in range(3)]
    files.append(written(tmp_path / "blank.txt", " "))
    said = []
    with pytest.warns(UserWarning, match=r"part-0000\d-of-00003.tokens: left out 1 empty of \d te"):
        write_parts(tmp_path / "two", files, small, parts=3, workers=2, log=said.append)
    with warnings.catch_warnings(action="ignore"):
        write_parts(tmp_path / "one", files, small, parts=3, progress=False)
    for part in range(1, 4):
        name = part_name(part, 3)
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert len(said) == 3
    assert len(list((tmp_path / "two").iterdir())) == 3


@pytest.mark.slow
def test_the_first_error_of_several_processes_ends_all(tmp_path, small):
    files = [written(tmp_path / f"{n}.txt", LEARNED * 9) for n in range(3)]
    files[1].write_bytes(b"na\xefve")
    with pytest.raises(ValueError, match=r"1\.txt: is not UTF-8: byte 0xef"):
        write_parts(tmp_path / "p", files, small, parts=3, workers=2)


def test_parts_that_are_there_stay_and_the_missing_one_is_made(tmp_path, small):
    path = written(tmp_path / "a.txt", LEARNED * 20)
    first = write_parts(tmp_path / "p", path, small, parts=4, progress=False)
    assert [part.new for part in first] == [True] * 4
    before = first[2].path.read_bytes()
    first[2].path.unlink()
    with pytest.raises(TokenFileError, match=r"p lacks part 3 of 4: .* --part 3/4 makes it"):
        TokenFile(tmp_path / "p")
    again = write_parts(tmp_path / "p", path, small, parts=4, progress=False)
    assert [part.new for part in again] == [False, False, True, False]
    assert first[2].path.read_bytes() == before
    assert [part.tokens for part in again] == [part.tokens for part in first]


def test_files_that_were_copied_are_the_same_texts(tmp_path, small):
    path = written(tmp_path / "a.txt", LEARNED * 20)
    write_parts(tmp_path / "p", path, small, parts=2, progress=False)
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "a.txt"
    copy.write_bytes(path.read_bytes())
    os.utime(copy, (1, 1))
    again = write_parts(tmp_path / "p", copy, small, parts=2, progress=False)
    assert [part.new for part in again] == [False, False]


def changed_texts(path, tokenizer):
    path.write_bytes(path.read_bytes() + b"more")
    return [path], tokenizer, {}


def changed_within(path, tokenizer):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    os.utime(path, (1, 1))
    return [path], tokenizer, {}


def another_tokenizer(path, tokenizer):
    return [path], BytePairTokenizer([]), {}


def another_order(path, tokenizer):
    return [path, written(path.with_name("b.txt"), "x")], tokenizer, {}


def another_field(path, tokenizer):
    return [path], tokenizer, {"field": "content"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            changed_texts,
            "it was made of other texts, or in another order, than given now; remove it",
        ),
        (changed_within, "it was made from other contents of its texts than given now"),
        (another_tokenizer, "it was made with another tokenizer than given now"),
        (another_order, "it was made of other texts, or in another order,"),
        (another_field, r"it was made of another field \('text'\)"),
    ],
)
def test_a_part_of_something_else_is_refused(tmp_path, small, change, message):
    path = written(tmp_path / "a.txt", LEARNED * 100)
    write_parts(tmp_path / "p", path, small, parts=2, part=1, progress=False)
    files, tokenizer, options = change(path, small)
    before = (tmp_path / "p" / part_name(1, 2)).read_bytes()
    with pytest.raises(ValueError, match=message):
        write_parts(tmp_path / "p", files, tokenizer, parts=2, progress=False, **options)
    assert (tmp_path / "p" / part_name(1, 2)).read_bytes() == before


def test_parts_of_two_corpora_are_no_corpus(tmp_path, small):
    path = written(tmp_path / "a.txt", LEARNED * 20)
    other = written(tmp_path / "b.txt", LEARNED * 21)
    write_parts(tmp_path / "p", path, small, parts=2, part=1, progress=False)
    write_parts(tmp_path / "q", other, small, parts=2, part=2, progress=False)
    (tmp_path / "q" / part_name(2, 2)).rename(tmp_path / "p" / part_name(2, 2))
    with pytest.raises(TokenFileError, match=r"00002-of-00002.tokens was made of other texts"):
        TokenFile(tmp_path / "p")
    (tmp_path / "p" / part_name(2, 2)).write_bytes((tmp_path / "p" / part_name(1, 2)).read_bytes())
    with pytest.raises(TokenFileError, match="says that it is part 1 of 2; was it renamed"):
        TokenFile(tmp_path / "p")
    with pytest.raises(ValueError, match="has parts of 2, not of 3; use 2, or another folder"):
        write_parts(tmp_path / "p", path, small, parts=3)
    write_parts(tmp_path / "q", other, small, parts=3, part=2, progress=False)
    (tmp_path / "q" / part_name(2, 3)).rename(tmp_path / "p" / part_name(2, 3))
    with pytest.raises(TokenFileError, match="has parts of 2 and of 3, which are several corpora"):
        TokenFile(tmp_path / "p")


def test_a_part_alone_is_no_token_file_and_the_other_way_round(tmp_path, small):
    path = written(tmp_path / "a.txt", LEARNED)
    (part,) = write_parts(tmp_path / "p", path, small, parts=1, progress=False)
    with pytest.raises(TokenFileError, match=r"is one part of a corpus; open the folder, .*p$"):
        TokenFile(part.path)
    write_tokens(tmp_path / "whole", path, small, progress=False)
    part.path.write_bytes((tmp_path / "whole").read_bytes())
    with pytest.raises(TokenFileError, match="is a token file, not a part of a corpus"):
        TokenFile(tmp_path / "p")
    with pytest.raises(FileNotFoundError, match=r"holds no parts of a corpus, and no \.ds files"):
        TokenFile(tmp_path)


@pytest.mark.parametrize(
    ("texts", "options", "error", "message"),
    [
        (["a.txt"], {"parts": 0}, ValueError, "parts=0 must be 1 or more"),
        (["a.txt"], {"parts": 2, "part": 3}, ValueError, "part=3 is above the number of parts=2"),
        (["a.txt"], {"parts": 2, "workers": 0}, ValueError, "workers=0 must be 1 or more"),
        (["a.txt"], {"parts": 2, "empty": "keep"}, ValueError, "empty='keep' must be"),
        (["none.txt"], {"parts": 2}, FileNotFoundError, "no text at"),
        ([], {"parts": 2}, ValueError, "there is no text to write"),
        ("the text itself", {"parts": 2}, TypeError, "parts are made of files"),
    ],
)
def test_write_parts_refuses_before_any_work(tmp_path, small, texts, options, error, message):
    written(tmp_path / "a.txt", LEARNED)
    given = texts if isinstance(texts, str) else [tmp_path / name for name in texts]
    with pytest.raises(error, match=message):
        write_parts(tmp_path / "p", given, small, **options)
    assert not (tmp_path / "p").exists()
    with pytest.raises(ValueError, match="is a file; parts need a folder"):
        write_parts(tmp_path / "a.txt", tmp_path / "a.txt", small, parts=2)


def test_parts_without_any_text_are_no_corpus(tmp_path, small):
    path = written(tmp_path / "a.txt", " \n")
    with pytest.warns(UserWarning, match="left out 1 empty of 1 texts"):
        write_parts(tmp_path / "p", path, small, parts=2, progress=False)
    with pytest.raises(TokenFileError, match="p holds no text, in 2 parts"):
        TokenFile(tmp_path / "p")
    with pytest.raises(ValueError, match="a.txt. is empty"):
        write_parts(tmp_path / "q", path, small, parts=1, empty="raise", progress=False)


def test_a_tokenizer_without_end_of_text_divides_one_text_and_refuses_two(tmp_path):
    plain = BytePairTokenizer([], special_tokens=())
    files = [written(tmp_path / f"{n}.txt", LEARNED) for n in range(2)]
    write_parts(tmp_path / "p", files[0], plain, parts=3, progress=False)
    file = TokenFile(tmp_path / "p")
    assert np.asarray(file.tokens).tolist() == plain.encode(LEARNED)
    assert file.documents.tolist() == [0]
    with pytest.raises(ValueError, match=r"no <\|endoftext\|> to stand between texts"):
        write_parts(tmp_path / "q", files, plain, parts=3)


def test_spans_cover_every_byte_once(tmp_path):
    rng = random.Random(2)
    for case in range(50):
        folder = tmp_path / str(case)
        folder.mkdir()
        files = random_files(folder, rng)
        plan = Plan(tuple(files), rng.choice([1, 2, 7]), True, (END_OF_TEXT.encode(),))
        found = b""
        for part in range(1, plan.count + 1):
            for span in plan.spans(part):
                path, start, stop = span if isinstance(span, tuple) else (span, 0, None)
                found += path.read_bytes()[start:stop]
        assert found == b"".join(path.read_bytes() for path in files)
