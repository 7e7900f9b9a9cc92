"""Token files: what is written is what is read, in any number of texts."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from llm_scratch.text.token_file import TokenFile, TokenPart, write_tokens
from llm_scratch.tokenizers.any_tokenizer import encode, fingerprint
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.gpt2 import END_OF_TEXT
from llm_scratch.tokenizers.simple import SimpleTokenizerV2, build_vocab

EOT = 50256
MARKS = (END_OF_TEXT, "<|unk|>")
TEXTS = ("one", "two", "three")
STORY = "It was a dark night.\r\n\n  Nobody came;  na\u00efve \u6f22\u5b57 \U0001f525!\n\n\n" * 30


class Numbers:
    """A tokenizer whose texts are the ids themselves, in digits."""

    def __init__(self, n_vocab):
        self.n_vocab = n_vocab

    def encode(self, text):
        return [int(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(map(str, ids))


@pytest.fixture
def byte_tokenizer():
    return BytePairTokenizer([])  # 256 bytes and the end of text


def test_write_tokens_of_one_text_are_its_ids(tmp_path, tokenizer):
    file = write_tokens(tmp_path / "t.bin", STORY, tokenizer)
    assert file.tokens.tolist() == encode(tokenizer, STORY)
    assert file.num_bytes == len(STORY.encode())
    assert (file.vocab_size, file.fingerprint) == (50257, fingerprint(tokenizer))
    assert file.documents.tolist() == [0]


def test_write_tokens_of_the_book_s_story(tmp_path, tokenizer, book_file):
    file = write_tokens(tmp_path / "t.bin", book_file("the-verdict"), tokenizer)
    assert len(file) == 5145
    assert file.num_bytes == 20479


@pytest.mark.parametrize("as_path", [False, True])
@pytest.mark.parametrize("size", [1, 7, 50])
def test_write_tokens_in_blocks_gives_the_ids_of_the_whole(
    tmp_path, tokenizer, monkeypatch, size, as_path
):
    monkeypatch.setattr("llm_scratch.text.token_writing.BLOCK", size)
    text = STORY + f"end {END_OF_TEXT} \n next" + "\n" * 40 + "word" * 40 + "\t\tx \r\n"
    path = tmp_path / "t.txt"
    path.write_bytes(text.encode())
    file = write_tokens(tmp_path / "t.bin", path if as_path else text, tokenizer)
    assert file.tokens[: len(ids := encode(tokenizer, text))].tolist() == ids
    assert file.num_bytes == len(text.encode())


def test_write_tokens_encodes_whole_with_another_pattern(tmp_path, monkeypatch):
    monkeypatch.setattr("llm_scratch.text.token_writing.BLOCK", 2)
    by_lines = BytePairTokenizer([(b"b", b" "), (b" ", b"c")], pattern=r"(?:.|\n)+")
    file = write_tokens(tmp_path / "t.bin", "ab cab cab c", by_lines)
    assert file.tokens.tolist() == by_lines.encode("ab cab cab c")


def test_write_tokens_puts_end_of_text_behind_each_document(tmp_path, tokenizer):
    path = tmp_path / "b.txt"
    path.write_text("two", encoding="utf-8")
    file = write_tokens(tmp_path / "t.bin", ["one", path, "three"], tokenizer)
    assert tokenizer.decode(file.tokens) == "".join(f"{t}{END_OF_TEXT}" for t in TEXTS)
    assert [int(file.tokens[start]) for start in file.documents] == [
        encode(tokenizer, text)[0] for text in TEXTS
    ]
    assert file.num_bytes == len("onetwothree")


def test_write_tokens_takes_end_of_text_in_a_text_as_the_end_of_a_document(tmp_path, tokenizer):
    text = f"{END_OF_TEXT}one{END_OF_TEXT}{END_OF_TEXT}two{END_OF_TEXT}"
    file = write_tokens(tmp_path / "t.bin", [text, "three"], tokenizer)
    assert [tokenizer.decode([file.tokens[start]]) for start in file.documents] == list(TEXTS)
    assert tokenizer.decode(file.tokens) == f"{text}three{END_OF_TEXT}"  # none of them twice


def test_write_tokens_has_end_of_text_in_both_parts(tmp_path, tokenizer):
    file = write_tokens(tmp_path / "t.bin", [STORY, STORY, STORY], tokenizer)
    for part in file.split(0.67):
        assert EOT in part.tokens


def test_write_tokens_takes_one_text_without_end_of_text_and_refuses_two(tmp_path):
    plain = BytePairTokenizer([], special_tokens=())
    assert write_tokens(tmp_path / "t.bin", "abc", plain).tokens.tolist() == plain.encode("abc")
    with pytest.raises(ValueError, match=r"no <\|endoftext\|> to stand between .*text 2 is the se"):
        write_tokens(tmp_path / "t.bin", ["abc", "d"], plain)


@pytest.mark.parametrize(("n_vocab", "dtype"), [(65536, "uint16"), (65537, "uint32")])
def test_write_tokens_chooses_the_type_that_holds_the_vocabulary(tmp_path, n_vocab, dtype):
    file = write_tokens(tmp_path / "t.bin", f"0 65535 {n_vocab - 1}", Numbers(n_vocab))
    assert file.tokens.dtype == dtype
    assert file.tokens.tolist() == [0, 65535, n_vocab - 1]
    assert file.whole.batch(0, 0, 1, 2)[1].tolist() == [[65535, n_vocab - 1]]


@pytest.mark.parametrize("found", [65536, 100000, -1])
def test_write_tokens_refuses_an_id_that_does_not_fit(tmp_path, found):
    with pytest.raises(ValueError, match=f"text 2 has token id {found}, outside .* of 65536"):
        write_tokens(tmp_path / "t.bin", iter(["0 65535", f"1 {found}"]), _MarkedNumbers(65536))
    assert list(tmp_path.iterdir()) == []


class _MarkedNumbers(Numbers):
    special_tokens_set = frozenset({END_OF_TEXT})

    def encode(self, text):
        return [0] if text == END_OF_TEXT else super().encode(text)


def test_write_tokens_needs_the_size_of_the_vocabulary(tmp_path):
    with pytest.raises(ValueError, match="does not say how many ids it has"):
        write_tokens(tmp_path / "t.bin", "0 1", Numbers(None))


def test_write_tokens_drops_empty_texts_and_numbers_them(tmp_path, tokenizer):
    blank = tmp_path / "blank.txt"
    blank.write_bytes(b" \r\n")
    texts = ["ok", "", "  ", "fine", blank]
    with pytest.warns(UserWarning, match=r"left out 3 empty of 5 texts: text 2, text 3, text 5 \("):
        file = write_tokens(tmp_path / "t.bin", texts, tokenizer)
    assert tokenizer.decode(file.tokens) == f"ok{END_OF_TEXT}fine{END_OF_TEXT}"
    with pytest.raises(ValueError, match="text 2 is empty"):
        write_tokens(tmp_path / "t.bin", texts, tokenizer, empty="raise")
    with pytest.raises(ValueError, match="no text to write"):
        write_tokens(tmp_path / "t.bin", ["", " "], tokenizer)


def test_write_tokens_keeps_a_text_that_begins_with_a_control_character(
    tmp_path, tokenizer, monkeypatch
):
    monkeypatch.setattr("llm_scratch.text.token_writing.BLOCK", 1)
    text = "\x1c words behind what Python takes for a blank"
    file = write_tokens(tmp_path / "t.bin", text, tokenizer)
    assert tokenizer.decode(file.tokens) == text


def test_write_tokens_reads_folders(tmp_path, tokenizer):
    folder = tmp_path / "some texts" / "inner"
    folder.mkdir(parents=True)
    (folder / "b.txt").write_text("second.", encoding="utf-8")
    (folder.parent / "a.txt").write_text("first.", encoding="utf-8")
    (folder / "notes.md").write_text("no text", encoding="utf-8")
    file = write_tokens(tmp_path / "deep" / "t.bin", folder.parent, tokenizer)
    assert tokenizer.decode(file.tokens) == f"first.{END_OF_TEXT}second.{END_OF_TEXT}"
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"none has no \.txt file"):
        write_tokens(tmp_path / "t.bin", tmp_path / "none", tokenizer)


def test_write_tokens_warns_of_a_text_that_is_a_file_s_name(tmp_path, tokenizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("story.txt").write_text("once", encoding="utf-8")
    with pytest.warns(UserWarning, match="to read the file of that name, pass Path.'story.txt'."):
        write_tokens("t.bin", "story.txt", tokenizer)


@pytest.mark.parametrize("kind", ["gpt2", "bpe", "tiktoken", "simple"])
def test_token_file_brings_its_tokenizer(tmp_path, tokenizer, kind):
    made = {
        "gpt2": lambda: tokenizer,
        "bpe": lambda: BytePairTokenizer.train(STORY, 300, progress=False),
        "tiktoken": lambda: tokenizer._encoding,
        "simple": lambda: SimpleTokenizerV2(build_vocab(STORY.split(), MARKS)),
    }[kind]()
    text = STORY if kind != "simple" else "It was dark"
    file = write_tokens(tmp_path / "t.bin", text, made)
    assert file.fingerprint == fingerprint(made)
    if kind == "simple":
        assert file.tokenizer is None
        assert file.id_bytes is None
    else:
        assert file.tokenizer.decode(file.tokens.tolist()) == STORY
        assert file.id_bytes[file.tokens].sum() == file.num_bytes


def test_token_file_counts_no_bytes_for_special_tokens(tmp_path, byte_tokenizer):
    file = write_tokens(tmp_path / "t.bin", ["abc", "de"], byte_tokenizer)
    assert file.id_bytes[file.tokens].tolist() == [1, 1, 1, 0, 1, 1, 0]


@pytest.mark.parametrize("documents", [10, 40])
def test_split_keeps_ten_documents_or_more_whole(tmp_path, byte_tokenizer, documents):
    texts = [f"{i:02d}" + "x" * (i * 7 % 13) for i in range(documents)]
    file = write_tokens(tmp_path / "t.bin", texts, byte_tokenizer)
    train, validation = file.split()
    train_text, validation_text = (byte_tokenizer.decode(p.tokens) for p in (train, validation))
    assert train_text.endswith(END_OF_TEXT)
    assert train_text + validation_text == "".join(f"{t}{END_OF_TEXT}" for t in texts)
    cut = len(train)
    assert abs(cut - 0.9 * len(file)) == min(abs(file.documents[1:] - 0.9 * len(file)))


@pytest.mark.parametrize(("fraction", "first"), [(0.001, 1), (0.999, 9)])
def test_split_leaves_a_document_in_each_part(tmp_path, byte_tokenizer, fraction, first):
    file = write_tokens(tmp_path / "t.bin", list("abcdefghij"), byte_tokenizer)
    assert [len(part) for part in file.split(fraction)] == [2 * first, 20 - 2 * first]


def test_split_cuts_fewer_documents_at_the_fraction(tmp_path, byte_tokenizer):
    file = write_tokens(tmp_path / "t.bin", ["x" * 9] * 9, byte_tokenizer)
    train, validation = file.split()
    assert (len(train), len(validation)) == (81, 9)
    assert np.array_equal(np.concatenate([train.tokens, validation.tokens]), file.tokens)


def test_split_says_what_is_missing_and_what_helps(tmp_path, byte_tokenizer):
    file = write_tokens(tmp_path / "t.bin", "x" * 60, byte_tokenizer)
    with pytest.raises(
        ValueError,
        match=r"validation part has 6 of 60 tokens, needs 9 for one window; lower "
        r"train_frac=0\.9, take a smaller length, or give more text",
    ):
        file.split(0.9, min_tokens=9)
    with pytest.raises(ValueError, match="training part has 6 of 60 tokens, .* raise train_frac"):
        file.split(0.1, min_tokens=9)
    with pytest.raises(ValueError, match=r"train_frac=1\.0 must be between 0 and 1"):
        file.split(1.0)
    assert [len(part) for part in file.split(0.85, min_tokens=9)] == [51, 9]


def test_token_file_and_its_parts_are_pickled_by_their_place(tmp_path, tokenizer):
    file = write_tokens(tmp_path / "t.bin", [STORY] * 12, tokenizer)
    _, validation = file.split()
    data = pickle.dumps((file, validation))
    assert len(data) < 1000
    file_again, part_again = pickle.loads(data)
    assert np.array_equal(file_again.tokens, file.tokens)
    assert np.array_equal(part_again.tokens, validation.tokens)


def test_from_tokens_takes_ids_of_any_kind():
    for ids in ([0, 1, 2, 3], np.arange(4, dtype=np.uint16), torch.arange(4)):
        part = TokenPart.from_tokens(ids, 4)
        inputs, targets = part.batch(0, 0, 1, 3)
        assert (inputs.tolist(), targets.tolist()) == ([[0, 1, 2]], [[1, 2, 3]])
        assert inputs.dtype == targets.dtype == torch.int64
        assert len(pickle.loads(pickle.dumps(part))) == 4


@pytest.mark.parametrize("ids", [[0, 4], [-1, 0], [], [[0, 1]]])
def test_from_tokens_refuses_what_is_no_row_of_the_vocabulary(ids):
    with pytest.raises(ValueError, match="outside a vocabulary of 4|one flat row"):
        TokenPart.from_tokens(ids, 4)
    with pytest.raises(TypeError, match="must be integers"):
        TokenPart.from_tokens([0.5, 1.0], 4)


def test_token_file_shows_what_is_in_it(tmp_path, tokenizer):
    file = write_tokens(tmp_path / "t.bin", "one two", tokenizer)
    assert "2 tokens, vocab_size=50257, 1 documents, 7 bytes" in repr(file)
    assert repr(file.whole) == "TokenPart(2 tokens, vocab_size=50257)"
    assert isinstance(TokenFile(str(file.path)), TokenFile)
