"""Token files that are damaged, foreign or half written, and writing that is cut short."""

from __future__ import annotations

import errno
import os
import random
import struct
import subprocess
import sys
import zlib
from contextlib import suppress

import numpy as np
import pytest

from llm_scratch.text.token_file import TokenFile, TokenFileError, write_tokens
from llm_scratch.text.token_header import HEADER_BYTES, read_header
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.simple import UnknownIdError

TEXTS = ["one text", "another one"]
CASES = 300


@pytest.fixture(scope="module")
def tokenizer():
    return BytePairTokenizer.train("one text, one text more", 262, progress=False)


@pytest.fixture(scope="module")
def good(tmp_path_factory, tokenizer):
    """The bytes of a token file."""
    path = tmp_path_factory.mktemp("good") / "good.bin"
    write_tokens(path, TEXTS, tokenizer)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokens.bin"


def use(path):
    """Everything that a run does with a file, and more."""
    file = TokenFile(path)
    file.verify()
    file.split()[0].batch(0, 0, 2, 3)
    return file


def with_checksum(header):
    return header[:-4] + struct.pack("<I", zlib.crc32(header[:-4]))


def test_token_file_loads_as_it_was_written(path, good, tokenizer):
    path.write_bytes(good)
    assert use(path).tokenizer.merges == tokenizer.merges


def test_truncated_token_file_is_refused_at_once(path, good):
    rng = random.Random(0)
    for length in [*range(HEADER_BYTES + 1), *rng.sample(range(HEADER_BYTES, len(good)), 100)]:
        path.write_bytes(good[:length])
        with pytest.raises(TokenFileError, match=r"tokens\.bin"):
            TokenFile(path)


def test_token_file_with_something_behind_it_is_refused(path, good):
    path.write_bytes(good + b"\0")
    with pytest.raises(TokenFileError, match=f"has {len(good) + 1} bytes, its header says"):
        TokenFile(path)


def test_every_changed_byte_of_the_header_is_seen_at_once(path, good):
    for at in range(HEADER_BYTES):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
        with pytest.raises(TokenFileError):
            TokenFile(path)


def test_every_changed_byte_is_seen_by_verify(path, good):
    rng = random.Random(1)
    tokens_and_documents = range(HEADER_BYTES, HEADER_BYTES + 64)
    places = [*tokens_and_documents, *rng.sample(range(HEADER_BYTES, len(good)), 100)]
    for at in places:
        path.write_bytes(good[:at] + bytes([good[at] ^ 1 << rng.randrange(8)]) + good[at + 1 :])
        file = TokenFile(path)
        with pytest.raises(TokenFileError, match="was changed since it was written"):
            file.verify()


def test_damaged_token_file_is_used_or_refused(path, good):
    rng = random.Random(2)
    for _ in range(CASES):
        data = bytearray(good)
        for _ in range(rng.choice([1, 1, 2, 8])):
            at = rng.randrange(HEADER_BYTES, len(data))
            data[at] = rng.randrange(256)
        path.write_bytes(data)
        file = TokenFile(path)  # the header is whole
        with suppress(TokenFileError):
            parts = file.split(0.5)
            parts[0].batch(0, 0, 1, 2)
            list(parts[1].rows_in_order(2, 2))
            assert file.tokenizer is not None


@pytest.mark.parametrize(
    "data", [b"", b"LLM-TOK\n", b"Once upon a time", os.urandom(4096), b"\0" * 200]
)
def test_foreign_file_is_refused(path, data):
    path.write_bytes(data)
    with pytest.raises(TokenFileError, match="not a token file|ends within its header"):
        TokenFile(path)


def test_missing_token_file_says_what_makes_one(path):
    with pytest.raises(FileNotFoundError, match="llm-scratch prepare TEXT --out"):
        TokenFile(path)
    with pytest.raises(FileNotFoundError):
        TokenFile(path.parent)


def test_token_file_of_a_later_version_says_so(path, good):
    header = bytearray(good[:HEADER_BYTES])
    header[8:12] = struct.pack("<I", 3)
    path.write_bytes(with_checksum(bytes(header)) + good[HEADER_BYTES:])
    with pytest.raises(TokenFileError, match="has version 3 of the format, this library reads 1"):
        TokenFile(path)


# Where the numbers of the header stand: vocabulary, tokens, documents, bytes, tokenizer.
@pytest.mark.parametrize("at", [16, 24, 32, 40, 48])
@pytest.mark.parametrize("claim", [0, 2**32, 2**62, 2**64 - 1])
def test_false_claims_with_a_right_checksum_are_refused(path, good, at, claim):
    if (at, claim) == (16, 2**32):
        pytest.skip("a vocabulary that could be, in a file of 32-bit ids")
    header = bytearray(good[:HEADER_BYTES])
    header[at : at + 8] = struct.pack("<Q", claim)
    path.write_bytes(with_checksum(bytes(header)) + good[HEADER_BYTES:])
    if at == 40 and claim:  # a number of bytes on which nothing depends
        assert TokenFile(path).num_bytes == claim
        return
    with pytest.raises(TokenFileError, match="which can't be|its header says"):
        TokenFile(path)


def test_document_outside_the_ids_is_refused(path, tokenizer):
    write_tokens(path, ["text"] * 12, tokenizer)
    data = bytearray(path.read_bytes())
    documents = TokenFile(path).documents
    at = len(data) - read_header(path).tokenizer_bytes - 8 * len(documents)
    data[at : at + 8 * len(documents)] = np.full(len(documents), 2**40, "<u8").tobytes()
    path.write_bytes(data)
    with pytest.raises(TokenFileError, match="document outside its ids"):
        TokenFile(path).split()


def test_tokenizer_of_other_ids_is_refused(path, good):
    header = bytearray(good[:HEADER_BYTES])
    header[56:88] = bytes(32)
    path.write_bytes(with_checksum(bytes(header)) + good[HEADER_BYTES:])
    with pytest.raises(TokenFileError, match="another tokenizer than the one of its ids"):
        TokenFile(path).tokenizer  # noqa: B018


class Failing(BytePairTokenizer):
    """Fails at the second text."""

    error: BaseException = RuntimeError("at the second text")

    def _ids(self, text, allowed):
        if text == TEXTS[1]:
            raise self.error
        return super()._ids(text, allowed)


@pytest.mark.parametrize(
    "error", [RuntimeError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "")]
)
@pytest.mark.parametrize("there", [False, True])
def test_writing_that_fails_leaves_what_was_there(path, good, there, error):
    if there:
        path.write_bytes(good)
    failing = Failing([])
    failing.error = error
    with pytest.raises(type(error)):
        write_tokens(path, TEXTS, failing)
    assert [file.name for file in path.parent.iterdir()] == [path.name] * there
    if there:
        assert path.read_bytes() == good


def test_full_disk_leaves_what_was_there(path, good, tokenizer, monkeypatch):
    path.write_bytes(good)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_tokens(path, "something else", tokenizer)
    assert path.read_bytes() == good
    assert list(path.parent.iterdir()) == [path]


KILLED = """
import os, signal, sys
from pathlib import Path
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.text.token_file import write_tokens
def texts():
    for number in range(100):
        if number == 50:
            os.kill(os.getpid(), signal.SIGKILL)
        yield "a text that is never written whole"
write_tokens(Path(sys.argv[1]), texts(), BytePairTokenizer([]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_writing_leaves_what_was_there(path, good):
    path.write_bytes(good)
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_bytes() == good


def test_writing_over_anything_but_a_token_file_is_refused(path, good, tokenizer):
    story = path.with_name("story.txt")
    story.write_text("once", encoding="utf-8")
    with pytest.raises(ValueError, match="is there and is not a token file"):
        write_tokens(story, story, tokenizer)
    assert story.read_text(encoding="utf-8") == "once"
    with pytest.raises(ValueError, match="is a folder"):
        write_tokens(path.parent, story, tokenizer)
    path.write_bytes(good)
    assert write_tokens(path, story, tokenizer).num_bytes == 4


def test_text_that_is_not_utf8_is_named(path, tokenizer):
    bad = path.with_name("latin.txt")
    bad.write_bytes(b"na\xefve")
    with pytest.raises(ValueError, match=r"latin\.txt: is not UTF-8: byte 0xef"):
        write_tokens(path, ["fine", bad], tokenizer)
    with pytest.raises(ValueError, match=r"lone surrogate .* at position 3"):
        write_tokens(path, "ab \ud800", tokenizer)
    assert not path.exists()


def test_missing_text_is_named_before_any_work(path, tokenizer):
    with pytest.raises(FileNotFoundError, match=r"no text at .*none\.txt"):
        write_tokens(path, ["fine", path.with_name("none.txt")], Failing([]))
    for nonsense in (3, b"bytes", [b"bytes"]):
        with pytest.raises(TypeError, match="str"):
            write_tokens(path, nonsense, tokenizer)
    with pytest.raises(ValueError, match="empty='keep' must be 'drop' or 'raise'"):
        write_tokens(path, "text", tokenizer, empty="keep")
    assert list(path.parent.iterdir()) == []


def test_id_outside_the_file_s_vocabulary_is_an_error_of_the_tokenizer(path, good):
    path.write_bytes(good)
    file = TokenFile(path)
    with pytest.raises(UnknownIdError):
        file.tokenizer.decode([file.vocab_size])
