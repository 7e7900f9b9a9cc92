"""A text that comes in a zip archive: fetched from a server, unpacked with care."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_scratch.download import DownloadError
from llm_scratch.text.archives import unpack_member
from llm_scratch.text.corpora import CORPORA, Archive, Corpus, fetch, find_data

CONTENT = b"ham\tOk lar\nspam\tFree entry\n" * 1000
MEMBER = "SMSSpamCollection"
FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "download_server.py"


def download_server():
    spec = importlib.util.spec_from_file_location("download_server", FIXTURE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def with_sizes(content: bytes, true: int, told: int) -> bytes:
    """The archive, with another size of its file in both of its headers."""
    old, new = true.to_bytes(4, "little"), told.to_bytes(4, "little")
    assert content.count(old) == 2
    return content.replace(old, new)


GOOD = zipped(readme=b"about", **{MEMBER: CONTENT})
LIES = {
    "no zip": b"<html>log in</html>",
    "empty": b"",
    "cut off": GOOD[:-40],
    "another member": zipped(readme=b"about"),
    "member in a folder": zipped(**{f"../{MEMBER}": CONTENT}),
    "too long": zipped(**{MEMBER: bytes(5_000_000)}),
    "says to be short": with_sizes(zipped(**{MEMBER: bytes(5_000_000)}), 5_000_000, 27),
    "other content": zipped(**{MEMBER: CONTENT[::-1]}),
    "broken content": GOOD[:80] + bytes(60) + GOOD[140:],
}


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LLM_SCRATCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("LLM_SCRATCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator:
    """A function: the bytes of an archive -> a named text, "invented", that comes in it."""
    module = download_server()
    bodies: list[bytes] = []

    class Handler(module.Handler):
        def archive(self, asked):
            self.send(asked, bodies[-1])

    server, thread = module.serve(Handler)
    url = f"http://127.0.0.1:{server.server_address[1]}/archive"

    def named(body: bytes) -> Corpus:
        bodies.append(body)
        digest = hashlib.sha256(CONTENT).hexdigest()
        archive = Archive(MEMBER, hashlib.sha256(body).hexdigest(), most_bytes=1 << 20)
        corpus = Corpus("Invented", f"{MEMBER}.tsv", (url,), digest, archive, also=(MEMBER,))
        monkeypatch.setitem(CORPORA, "sms-spam", corpus)
        return corpus

    yield named
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_fetch_unpacks_the_one_file(served, cache) -> None:
    served(GOOD)
    path = fetch("sms-spam")
    assert path == cache / f"{MEMBER}.tsv"
    assert path.read_bytes() == CONTENT
    assert [found.name for found in cache.iterdir()] == [path.name]
    assert find_data("sms-spam") == find_data(MEMBER) == find_data(f"{MEMBER}.tsv") == path


@pytest.mark.parametrize("lie", LIES)
def test_fetch_refuses_an_archive_that_lies(lie, served, cache) -> None:
    served(LIES[lie])
    with pytest.raises(DownloadError):
        fetch("sms-spam")
    assert not list(cache.glob("*"))


@pytest.mark.parametrize("lie", ["too long", "says to be short"])
def test_unpacking_stops_at_the_limit_whatever_the_archive_says(lie, tmp_path) -> None:
    (tmp_path / "a.zip").write_bytes(LIES[lie])
    with pytest.raises(DownloadError, match="not the expected archive"):
        unpack_member(tmp_path / "a.zip", MEMBER, tmp_path / "target", most_bytes=20_000)
    assert [found.name for found in tmp_path.iterdir()] == ["a.zip"]


def test_unpacking_counts_the_bytes_and_not_what_the_archive_says(tmp_path) -> None:
    (tmp_path / "a.zip").write_bytes(with_sizes(GOOD, len(CONTENT), 2**31))
    target = unpack_member(tmp_path / "a.zip", MEMBER, tmp_path / "target", most_bytes=len(CONTENT))
    assert target.read_bytes() == CONTENT


def test_unpacking_keeps_the_file_that_is_there_when_it_fails(tmp_path) -> None:
    (tmp_path / "a.zip").write_bytes(LIES["another member"])
    (tmp_path / "target").write_bytes(b"mine")
    with pytest.raises(DownloadError, match="does not yield SMSSpamCollection"):
        unpack_member(tmp_path / "a.zip", MEMBER, tmp_path / "target", most_bytes=20_000)
    assert (tmp_path / "target").read_bytes() == b"mine"


def test_unpacking_takes_the_last_of_two_members_with_one_name(tmp_path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(MEMBER, b"first")
            archive.writestr(MEMBER, b"second")
    target = unpack_member(tmp_path / "a.zip", MEMBER, tmp_path / "target", most_bytes=100)
    assert target.read_bytes() == b"second"


@pytest.mark.parametrize("name", [MEMBER, f"{MEMBER}.tsv"])
def test_find_data_takes_the_users_copy_under_either_name(name, served, cache) -> None:
    served(GOOD)
    folder = cache.parent / "data"
    folder.mkdir()
    (folder / name).write_bytes(CONTENT)
    for asked in ("sms-spam", MEMBER, f"{MEMBER}.tsv"):
        assert find_data(asked) == folder / name
    assert fetch("sms-spam") == folder / name


def test_find_data_names_the_command_for_every_name(cache) -> None:
    for asked in ("sms-spam", MEMBER, f"{MEMBER}.tsv"):
        with pytest.raises(FileNotFoundError, match="llm-scratch fetch sms-spam gets it"):
            find_data(asked)
