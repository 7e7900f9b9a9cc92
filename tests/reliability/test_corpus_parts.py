"""Parts of a corpus that are killed, made twice at once, or damaged; damaged files of others."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import time
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from llm_scratch.files import PART
from llm_scratch.text import part_writing
from llm_scratch.text.part_files import part_name
from llm_scratch.text.part_writing import write_parts
from llm_scratch.text.token_file import TokenFile, write_tokens
from llm_scratch.text.token_header import HEADER_BYTES, TokenFileError, read_header
from llm_scratch.text.token_writing import TokenWriter
from llm_scratch.tokenizers.bpe import BytePairTokenizer

CASES = 300
KILLS = 3
LINE = "a line of a text that is cut into several parts, number {}\n"
NO_SIGKILL = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")


@pytest.fixture(scope="module")
def tokenizer():
    with warnings.catch_warnings(action="ignore"):
        return BytePairTokenizer.train(LINE * 3, 280, progress=False)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text("".join(LINE.format(number) for number in range(300)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory, text, tokenizer):
    """The bytes of the two parts of a corpus."""
    folder = tmp_path_factory.mktemp("good")
    parts = write_parts(folder, text, tokenizer, parts=2, progress=False)
    return [part.path.read_bytes() for part in parts]


@pytest.fixture
def folder(tmp_path, good):
    for number, data in enumerate(good, 1):
        (tmp_path / part_name(number, 2)).write_bytes(data)
    return tmp_path


def use(folder, **options):
    """Everything that a run does with a corpus."""
    file = TokenFile(folder, **options)
    train, val = file.split(0.5)
    train.batch(0, 0, 2, 3)
    list(val.rows_in_order(7, 64))
    assert file.tokenizer is not None
    return file


def with_checksum(header):
    return header[:-4] + struct.pack("<I", zlib.crc32(header[:-4]))


def test_parts_load_as_they_were_written(folder, text, tokenizer):
    use(folder).verify()
    found = np.asarray(TokenFile(folder).tokens)
    one = write_tokens(folder / "one", text, tokenizer, progress=False)
    assert np.array_equal(found, one.tokens)


def test_every_changed_byte_of_a_part_s_header_is_seen_at_once(folder, good):
    path = folder / part_name(2, 2)
    for at in range(HEADER_BYTES):
        data = bytearray(good[1])
        data[at] ^= 1 << at % 8
        path.write_bytes(data)
        with pytest.raises(TokenFileError):
            TokenFile(folder)


def test_a_truncated_part_is_refused_at_once_and_never_kept(folder, good, text, tokenizer):
    path, rng = folder / part_name(2, 2), random.Random(0)
    for length in [*range(0, HEADER_BYTES, 9), *rng.sample(range(HEADER_BYTES, len(good[1])), 40)]:
        path.write_bytes(good[1][:length])
        with pytest.raises(TokenFileError, match="00002-of-00002"):
            TokenFile(folder)
        with pytest.raises(TokenFileError, match="exists, but it is damaged .*; remove it and"):
            write_parts(folder, text, tokenizer, parts=2, progress=False)
        assert path.read_bytes() == good[1][:length]


def test_a_part_with_a_changed_byte_is_not_kept(folder, good, text, tokenizer):
    data = bytearray(good[1])
    data[HEADER_BYTES + 5] ^= 1
    (folder / part_name(2, 2)).write_bytes(data)
    with pytest.raises(
        TokenFileError, match="damaged .*was changed since it was written.*; remove"
    ):
        write_parts(folder, text, tokenizer, parts=2, progress=False)


@pytest.mark.parametrize(("version", "facts"), [(1, b"{}"), (2, b"")])
def test_a_version_that_does_not_agree_with_the_facts_is_refused(folder, good, version, facts):
    header = read_header(folder / part_name(2, 2), part=True)
    start = bytearray(header._replace(facts_bytes=len(facts)).pack())
    start[8:12] = struct.pack("<I", version)
    data = with_checksum(bytes(start)) + good[1][HEADER_BYTES : header.facts_at] + facts
    (folder / part_name(2, 2)).write_bytes(data)
    for path in (folder, folder / part_name(2, 2)):
        with pytest.raises(TokenFileError, match="which can't be"):
            TokenFile(path)


def test_damaged_parts_are_used_or_refused_and_verify_sees_each(folder, good):
    path, rng = folder / part_name(2, 2), random.Random(1)
    for _ in range(CASES):
        data = bytearray(good[1])
        for _ in range(rng.choice([1, 1, 2, 8])):
            at = rng.randrange(HEADER_BYTES, len(data))
            data[at] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        with suppress(TokenFileError):
            use(folder)
        if data != good[1]:
            with pytest.raises(TokenFileError):
                TokenFile(folder).verify()


# Where the numbers of the header stand: vocabulary, tokens, documents, bytes, tokenizer; facts.
@pytest.mark.parametrize(("at", "kind"), [*((at, "<Q") for at in range(16, 56, 8)), (120, "<I")])
@pytest.mark.parametrize("claim", [0, 2**31, 2**32 - 1])
def test_false_claims_of_a_part_with_a_right_checksum_are_refused(folder, good, at, kind, claim):
    header = bytearray(good[1][:HEADER_BYTES])
    header[at : at + struct.calcsize(kind)] = struct.pack(kind, claim)
    if header == good[1][:HEADER_BYTES]:  # it lies within a document
        return
    path = folder / part_name(2, 2)
    path.write_bytes(with_checksum(bytes(header)) + good[1][HEADER_BYTES:])
    if at == 40:  # a number of bytes of text that nothing depends on
        use(folder)
        return
    with pytest.raises(TokenFileError):
        TokenFile(folder)


FACTS = [
    b"", b"{}", b"[]", b"nonsense", b"\xff", b'{"part": 2}', b"[" * 5000,
    {"part": "2"}, {"count": 3}, {"texts": None}, {"closed": 1}, {"files": 3}, {"more": 1},
]  # fmt: skip


@pytest.mark.parametrize("facts", FACTS, ids=repr)
def test_what_a_part_says_of_itself_is_checked(folder, good, facts):
    header = read_header(folder / part_name(2, 2), part=True)
    own = good[1][header.facts_at :]
    if isinstance(facts, dict):
        facts = json.dumps(json.loads(own) | facts).encode()
    start = header._replace(facts_bytes=len(facts)).pack()
    path = folder / part_name(2, 2)
    path.write_bytes(start + good[1][HEADER_BYTES : header.facts_at] + facts)
    with pytest.raises(TokenFileError, match="00002-of-00002"):
        TokenFile(folder)


KILLED = """
import sys, warnings
from pathlib import Path
from llm_scratch.text import token_writing
from llm_scratch.text.part_writing import write_parts
from llm_scratch.text.token_writing import TokenWriter
from llm_scratch.tokenizers.bpe_open import open_tokenizer
token_writing.BLOCK = 64
folder, text, tokenizer = sys.argv[1:]
original = TokenWriter.write_ids
def told(self, ids, name):
    print("block", flush=True)
    sys.stdin.readline()  # goes on when it is let
    original(self, ids, name)
TokenWriter.write_ids = told
write_parts(folder, Path(text), open_tokenizer(tokenizer), parts=2, progress=False)
"""


@NO_SIGKILL
@pytest.mark.slow
def test_a_part_killed_at_any_moment_is_made_again(tmp_path, text, tokenizer, good):
    tokenizer.save(tmp_path / "t.json")
    folder, rng = tmp_path / "p", random.Random(3)
    for _ in range(KILLS):
        words = [sys.executable, "-c", KILLED, folder, text, tmp_path / "t.json"]
        child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(rng.randrange(1, 250)):
            if not child.stdout.readline():
                break
            child.stdin.write(b"\n")
            child.stdin.flush()
        child.kill()
        child.wait()
        child.stdin.close(), child.stdout.close()
        whole = [path for path in folder.iterdir() if path.suffix != PART]
        assert all(path.read_bytes() in good for path in whole)
    write_parts(folder, text, tokenizer, parts=2, progress=False)
    assert [path.read_bytes() for path in sorted(folder.iterdir())] == good  # nothing is left over


@pytest.mark.parametrize("at", [0, 1, 5])
def test_a_part_that_fails_leaves_what_was_there(tmp_path, text, tokenizer, monkeypatch, good, at):
    monkeypatch.setattr("llm_scratch.text.token_writing.BLOCK", 500)
    original, count = TokenWriter.write_ids, 0

    def failing(self, ids, name):
        nonlocal count
        count += 1
        if count > at:
            raise OSError("No space left on device")
        original(self, ids, name)

    monkeypatch.setattr(TokenWriter, "write_ids", failing)
    with pytest.raises(OSError, match="No space left"):
        write_parts(tmp_path / "p", text, tokenizer, parts=2, progress=False)
    assert list((tmp_path / "p").iterdir()) == []
    monkeypatch.undo()
    write_parts(tmp_path / "p", text, tokenizer, parts=2, progress=False)
    assert [path.read_bytes() for path in sorted((tmp_path / "p").iterdir())] == good


def test_two_on_one_part_do_no_harm(tmp_path, text, tokenizer, monkeypatch, good):
    """One finishes, and tidies up, while the other one still writes."""
    original, inner = part_writing._made, []

    def overtaken(job, facts, spans):
        monkeypatch.setattr(part_writing, "_made", original)
        finish = TokenWriter.finish_part

        def finish_after_the_other(self, ended, facts):
            monkeypatch.setattr(TokenWriter, "finish_part", finish)
            inner.extend(write_parts(tmp_path, text, tokenizer, parts=2, part=1, progress=False))
            finish(self, ended, facts)

        monkeypatch.setattr(TokenWriter, "finish_part", finish_after_the_other)
        return original(job, facts, spans)

    monkeypatch.setattr(part_writing, "_made", overtaken)
    (outer,) = write_parts(tmp_path, text, tokenizer, parts=2, part=1, progress=False)
    assert [part.new for part in inner] == [True]
    assert outer.new is (sys.platform == "win32")  # there, files in use are not removed
    assert outer.path.read_bytes() == good[0]
    assert [path.name for path in tmp_path.iterdir()] == [part_name(1, 2)]


@pytest.mark.slow
def test_two_processes_on_the_same_parts_do_no_harm(tmp_path, text, tokenizer, good):
    tokenizer.save(tmp_path / "t.json")
    words = [sys.executable, "-m", "llm_scratch", "prepare", text, "--out", tmp_path / "p",
             "--parts", "2", "--tokenizer", tmp_path / "t.json"]  # fmt: skip
    children = [subprocess.Popen(words, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [child.wait() for child in children] == [0] * 3
    assert [path.read_bytes() for path in sorted((tmp_path / "p").iterdir())] == good


WORKER_KILLED = """
import os, signal, sys
from pathlib import Path
from llm_scratch.text.part_writing import write_parts
from llm_scratch.tokenizers.bpe import BytePairTokenizer
class Deadly(BytePairTokenizer):
    def _ids(self, text, allowed):
        if "KILL" in text:
            os.kill(os.getpid(), signal.SIGKILL)
        if "WAIT" in text:
            Path(sys.argv[1], str(os.getpid())).touch()
            signal.pause()
        return super()._ids(text, allowed)
if __name__ == "__main__":
    files = [Path(sys.argv[1], name) for name in sys.argv[2:]]
    write_parts(Path(sys.argv[1], "parts"), files, Deadly([]), parts=len(files), workers=2)
"""


@NO_SIGKILL
@pytest.mark.slow
def test_a_worker_that_is_killed_is_named_and_one_whose_parent_dies_ends(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WORKER_KILLED, encoding="utf-8")
    for name in ("KILL", "WAIT", "fine"):
        (tmp_path / name).write_text(f"{name} " * 200, encoding="utf-8")
    words = [sys.executable, script, tmp_path]
    done = subprocess.run([*words, "fine", "KILL"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "it was killed, perhaps because memory ran out" in done.stderr
    shutil.rmtree(tmp_path / "parts")
    parent = subprocess.Popen([*words, "WAIT", "fine"])
    worker = _wait_for(lambda: [int(p.name) for p in tmp_path.iterdir() if p.name.isdecimal()])[0]
    parent.kill()
    parent.wait()
    _wait_for(lambda: not _alive(worker))


def _wait_for(found, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.1)
    raise TimeoutError(f"not within {seconds} seconds")


def _alive(pid):
    with suppress(OSError):
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").split(")")[-1].split()[0] != "Z"
        )
    return False


MANY = """
import resource, sys
from llm_scratch.text.token_file import TokenFile
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
file = TokenFile(sys.argv[1])
print(len(file.tokens[:]), len(file.split()[0].batch(0, 0, 50, 8)[0]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit of this kind")
def test_more_parts_open_than_a_process_may_have_files(tmp_path, text, tokenizer):
    write_parts(tmp_path, text, tokenizer, parts=100, progress=False)
    words = [sys.executable, "-c", MANY, tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{len(TokenFile(tmp_path))} 50\n"


def ds_files(folder):
    documents = [[*range(number % 7 + 1), 256] for number in range(40)]
    path = folder / "a.ds"
    np.array([i for ids in documents for i in ids], dtype="<u2").tofile(path)
    np.cumsum([len(ids) for ids in documents], dtype="<u8").tofile(folder / "a.ds.index")
    (folder / "a.ds.metadata").write_text("bytes|2\n200\n200 T", encoding="utf-8")
    return path


def test_damaged_files_of_datatrove_are_used_or_refused(tmp_path):
    path, plain, rng = ds_files(tmp_path), BytePairTokenizer([]), random.Random(4)
    names = ["a.ds", "a.ds.index", "a.ds.metadata"]
    whole = {name: (tmp_path / name).read_bytes() for name in names}
    refused = 0
    for _ in range(CASES):
        name = rng.choice(names)
        data = bytearray(whole[name])
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        else:
            for _ in range(rng.choice([1, 2, 8])):
                data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / name).write_bytes(data)
        try:
            use(path, tokenizer=plain).verify()
        except TokenFileError:
            refused += 1
        (tmp_path / name).write_bytes(whole[name])
    assert refused > CASES / 2
    use(path, tokenizer=plain).verify()


def test_huge_claims_of_an_index_take_no_memory(tmp_path):
    path = ds_files(tmp_path)
    for last in (2**40, 2**63, 2**64 - 1):
        ends = np.fromfile(tmp_path / "a.ds.index", dtype="<u8")
        ends[-1] = last
        ends.tofile(tmp_path / "a.ds.index")
        with pytest.raises(TokenFileError, match=f"end after {last} ids"):
            TokenFile(path, tokenizer=BytePairTokenizer([]))
    assert os.path.getsize(path) < 1000
