"""Ids that other training code has written, made into token files, and known where texts belong."""

from __future__ import annotations

import numpy as np
import pytest

from llm_scratch.cli import main
from llm_scratch.text.bare_ids import write_bare_ids
from llm_scratch.text.token_file import TokenFile, write_tokens
from llm_scratch.tokenizers.bpe import BytePairTokenizer

TEXT = "The tide comes in. The clock counts it, and nobody looks."
END = 50256


@pytest.fixture
def ids(tokenizer):
    """The ids of three documents, each with its end, as nanoGPT's prepare.py writes them."""
    return [i for part in (TEXT, "One.", "Two.") for i in [*tokenizer.encode(part), END]]


def as_llm_c(ids):
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, len(ids)
    return header.tobytes() + np.array(ids, dtype="<u2").tobytes()


@pytest.fixture(params=["nanogpt", "llm.c", "npy", "npy of 32 bits"])
def train_bin(request, ids, tmp_path):
    path = tmp_path / "train.bin"
    if request.param == "nanogpt":
        path.write_bytes(np.array(ids, dtype="<u2").tobytes())
    elif request.param == "llm.c":
        path.write_bytes(as_llm_c(ids))
    else:
        path = tmp_path / "train.npy"
        np.save(path, np.array(ids, dtype="<u4" if "32" in request.param else "<u2"))
    return path


def test_write_bare_ids_equals_write_tokens(train_bin, ids, tokenizer, tmp_path):
    file = write_bare_ids(tmp_path / "t.bin", [train_bin], tokenizer)
    theirs = write_tokens(tmp_path / "theirs.bin", [TEXT, "One.", "Two."], tokenizer)
    assert file.tokens.tolist() == theirs.tokens.tolist() == ids
    assert file.documents.tolist() == theirs.documents.tolist()
    assert file.num_bytes == theirs.num_bytes == len(TEXT) + 8
    assert file.fingerprint == theirs.fingerprint
    file.verify()


def test_write_bare_ids_ends_a_document_with_each_file(tokenizer, tmp_path):
    for name, text in (("train", TEXT), ("val", "One.")):
        np.array(tokenizer.encode(text), dtype="<u2").tofile(tmp_path / f"{name}.bin")
    files = [tmp_path / "train.bin", tmp_path / "val.bin"]
    file = write_bare_ids(tmp_path / "t.bin", files, tokenizer)
    expected = [*tokenizer.encode(TEXT), END, *tokenizer.encode("One."), END]
    assert file.tokens.tolist() == expected
    assert len(file.documents) == 2


def test_write_bare_ids_reads_the_type_that_the_vocabulary_needs(tmp_path):
    wide = BytePairTokenizer.train("x", 257, special_tokens=("<|endoftext|>",))
    np.array([5, 6], dtype="<u2").tofile(tmp_path / "a.bin")
    assert write_bare_ids(tmp_path / "t.bin", [tmp_path / "a.bin"], wide).tokens.tolist() == [5, 6]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x01\x02\x03", "has 3 bytes, which is not a whole number of ids of 2 bytes"),
        (b"", "has 0 bytes"),
        (as_llm_c([])[:900], "has 900 bytes"),
        (
            np.array([60000], dtype="<u2").tobytes(),
            "token id 60000, outside .* vocabulary of 50257",
        ),
        (np.array([END], dtype="<u2").tobytes(), "there is no text to write"),
    ],
)
def test_write_bare_ids_refuses_what_the_tokenizer_can_not_have_made(
    tokenizer, tmp_path, content, message
):
    path = tmp_path / "train.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        write_bare_ids(tmp_path / "t.bin", [path], tokenizer)
    assert not (tmp_path / "t.bin").exists()


@pytest.mark.parametrize("array", [np.zeros((2, 2), dtype="<u2"), np.array([0.5]), np.array([-1])])
def test_write_bare_ids_refuses_numpys_other_arrays(tokenizer, tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match="not one flat row of ids|token id -1, outside"):
        write_bare_ids(tmp_path / "t.bin", [tmp_path / "a.npy"], tokenizer)


def test_commands_know_bare_ids_and_name_the_way(train_bin, tokenizer, tmp_path, capsys):
    assert main(["pretrain", "--data", str(train_bin), "--out", str(tmp_path / "run")]) == 2
    way = f"llm-scratch prepare {train_bin} --bare-ids --tokenizer gpt2 --out tokens.bin makes one"
    assert way in capsys.readouterr().err
    out = tmp_path / "tokens.bin"
    assert main(["prepare", str(train_bin), "--out", str(out)]) == 2
    assert f"{train_bin} is not a text; if it holds bare ids" in capsys.readouterr().err
    words = ["--bare-ids", "--tokenizer", "gpt2", "--out", str(out)]
    assert main(["prepare", str(train_bin), *words]) == 0
    said = capsys.readouterr().out
    assert "in 3 documents" in said
    assert "it begins with 'The tide comes in. The clock" in said
    assert tokenizer.decode(TokenFile(out).tokens.tolist()).startswith(TEXT)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_text_is_never_taken_for_ids(tmp_path, capsys, encoding):
    path = tmp_path / "text.txt"
    path.write_bytes(f"{TEXT}\n".encode(encoding))
    main(["prepare", str(path), "--out", str(tmp_path / "t.bin")])
    assert main(["pretrain", "--data", str(path), "--out", str(tmp_path / "run")]) == 2
    assert "bare" not in capsys.readouterr().err
