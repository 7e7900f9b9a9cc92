"""Named texts are found, read as they are, or fetched once."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from llm_scratch.download import file_sha256
from llm_scratch.text import corpora
from llm_scratch.text.corpora import (
    CORPORA,
    Corpus,
    data_folders,
    fetch,
    find_data,
    load_text,
    read_text,
)


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Path, Path]:
    """(the folder of LLM_SCRATCH_DATA, the cache), both empty."""
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    cache.mkdir()
    monkeypatch.setenv("LLM_SCRATCH_DATA", str(data))
    monkeypatch.setenv("LLM_SCRATCH_CACHE", str(cache))
    return data, cache


@pytest.fixture
def invented(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Corpus:
    """A text whose name is `invented` and whose one address is a closed port."""
    content = tmp_path / "content"
    content.write_bytes(b"once\r\n")
    sha256 = file_sha256(content)
    corpus = Corpus("Invented", "invented.txt", ("http://127.0.0.1:9/invented.txt",), sha256)
    monkeypatch.setitem(CORPORA, "invented", corpus)
    return corpus


def test_book_story_has_the_books_length(verdict) -> None:
    assert len(verdict) == 20479


@pytest.mark.parametrize(
    "name",
    ["the-verdict", "tinyshakespeare", "instruction-data", "instruction-data-with-preference"],
)
def test_checksums_are_those_of_the_files(name, book_file) -> None:
    assert file_sha256(book_file(name)) == CORPORA[name].sha256


def test_own_story_is_here_without_a_network(folders) -> None:
    assert len(load_text("the-tide-clock")) >= 20_000


def test_find_data_takes_a_name_and_a_file_name(folders, invented) -> None:
    path = folders[0] / "invented.txt"
    path.write_bytes(b"once\r\n")
    assert find_data("invented") == find_data("invented.txt") == path


def test_find_data_prefers_the_users_folder_to_the_cache(folders) -> None:
    for folder in folders:
        (folder / "mine.json").write_bytes(b"{}")
    assert find_data("mine.json") == folders[0] / "mine.json"
    (folders[0] / "mine.json").unlink()
    assert find_data("mine.json") == folders[1] / "mine.json"


def test_find_data_passes_over_a_file_with_other_content(folders, invented) -> None:
    (folders[0] / "invented.txt").write_bytes(b"onc")
    (folders[1] / "invented.txt").write_bytes(b"once\r\n")
    assert find_data("invented") == folders[1] / "invented.txt"


def test_find_data_says_which_file_has_other_content(folders, invented) -> None:
    (folders[0] / "invented.txt").write_bytes(b"onc")
    with pytest.raises(FileNotFoundError, match="SHA-256") as caught:
        find_data("invented")
    assert str(folders[0] / "invented.txt") in str(caught.value)


def test_find_data_names_the_command_that_brings_it(folders, invented) -> None:
    with pytest.raises(FileNotFoundError, match="llm-scratch fetch invented gets it"):
        find_data("invented")


def test_find_data_names_the_folder_for_a_file_without_a_name(folders) -> None:
    with pytest.raises(FileNotFoundError, match="put it into") as caught:
        find_data("nothing.txt")
    assert str(folders[0]) in str(caught.value)


@pytest.mark.parametrize("name", ["../secret.txt", "a/b.txt", ""])
def test_find_data_refuses_folders_in_a_name(name, folders) -> None:
    with pytest.raises(ValueError, match="without folders"):
        find_data(name)


def test_data_folders_are_absolute(monkeypatch) -> None:
    monkeypatch.setenv("LLM_SCRATCH_DATA", "some/folder")
    assert data_folders()[0] == Path.cwd() / "some" / "folder"
    assert all(folder.is_absolute() for folder in data_folders())


def test_find_data_searches_all_listed_folders_in_order(folders, monkeypatch, tmp_path) -> None:
    others = [tmp_path / "first", tmp_path / "second"]
    for folder in others:
        folder.mkdir()
    listed = [str(folder) for folder in (others[0], "", others[1])]
    monkeypatch.setenv("LLM_SCRATCH_DATA", os.pathsep.join(listed))
    assert data_folders()[:3] == [*others, folders[1]]
    for folder in reversed(others):
        (folder / "mine.json").write_bytes(b"{}")
        assert find_data("mine.json") == folder / "mine.json"
    with pytest.raises(FileNotFoundError, match=re.escape(f"put it into {others[0]} ")):
        find_data("other.json")


def test_load_text_keeps_line_ends(folders) -> None:
    content = "a\r\nb\rc\n— 東京 🙂"
    (folders[0] / "mine.txt").write_bytes(content.encode("utf-8"))
    assert load_text("mine.txt") == content


def test_read_text_names_the_file_that_is_not_utf8(tmp_path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("naïve".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8: byte 0xef") as caught:
        read_text(path)
    assert str(path) in str(caught.value)


def test_fetch_asks_nobody_for_a_text_that_is_here(folders, invented, monkeypatch) -> None:
    monkeypatch.setattr(corpora, "download_file", lambda *args, **kwargs: pytest.fail("asked"))
    (folders[0] / "invented.txt").write_bytes(b"once\r\n")
    assert fetch("invented") == folders[0] / "invented.txt"
    assert fetch("the-tide-clock").name == "the-tide-clock.txt"


def test_fetch_puts_the_file_into_the_cache(folders, invented, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(corpora, "download_file", lambda *a, **k: calls.append((a, k)) or a[1])
    assert fetch("invented") == folders[1] / "invented.txt"
    assert calls == [
        ((invented.urls, folders[1] / "invented.txt"), {"sha256": invented.sha256}),
    ]


def test_fetch_says_why_and_where(folders, invented) -> None:
    with pytest.raises(OSError, match="put a copy from elsewhere at") as caught:
        fetch("invented")
    assert invented.urls[0] in str(caught.value)
    assert str(folders[1] / "invented.txt") in str(caught.value)


def test_fetch_lists_the_names_for_an_unknown_one(folders) -> None:
    with pytest.raises(ValueError, match="'nothing'.*the-verdict"):
        fetch("nothing")


def test_fetchable_texts_have_mirrors_and_a_checksum() -> None:
    for corpus in CORPORA.values():
        if corpus.urls:
            assert len({url.split("/")[2] for url in corpus.urls}) >= 2
            assert len(corpus.sha256) == 64
            assert all(url.startswith("https://") for url in corpus.urls)
