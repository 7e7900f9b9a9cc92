"""Named texts: part of this project, in one of the user's folders, or fetched once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from llm_scratch.download import cache_folder, download_file, holds
from llm_scratch.files import read_text
from llm_scratch.text.archives import unpack_member


@dataclass(frozen=True)
class Archive:
    """A zip archive from which a text is extracted.

    Args:
        member: The name of the text's file inside it.
        sha256: The hash of the archive.
        most_bytes: Above this size the text is not unpacked.
    """

    member: str
    sha256: str | None = None
    most_bytes: int = 64 << 20


@dataclass(frozen=True)
class Corpus:
    """A named text: its title, its file, and where it comes from.

    Args:
        title: Its title for readers.
        file: The name of its file in every folder.
        urls: Addresses to fetch it from, in order; empty for a text that is part of the project.
        sha256: The hash of its content; None for a text that may still be edited.
        archive: The zip archive that holds the file, if the addresses lead to one.
        also: Other names under which its file is found.
    """

    title: str
    file: str
    urls: tuple[str, ...] = ()
    sha256: str | None = None
    archive: Archive | None = None
    also: tuple[str, ...] = ()


BOOK_AT = (
    "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/main/",
    "https://cdn.jsdelivr.net/gh/rasbt/LLMs-from-scratch@main/",
)

CORPORA: dict[str, Corpus] = {
    "the-verdict": Corpus(
        title="The Verdict, by Edith Wharton",
        file="the-verdict.txt",
        urls=tuple(at + "ch02/01_main-chapter-code/the-verdict.txt" for at in BOOK_AT),
        sha256="b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f",
    ),
    "the-tide-clock": Corpus(title="The Tide Clock", file="the-tide-clock.txt"),
    "tinyshakespeare": Corpus(
        title="Plays of Shakespeare, a selection",
        file="tinyshakespeare.txt",
        urls=(
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
            "input.txt",
            "https://cdn.jsdelivr.net/gh/karpathy/char-rnn@master/data/tinyshakespeare/input.txt",
        ),
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    "sms-spam": Corpus(
        title="SMS Spam Collection (UCI)",
        file="SMSSpamCollection.tsv",
        urls=(
            "https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip",
            "https://f001.backblazeb2.com/file/LLMs-from-scratch/sms%2Bspam%2Bcollection.zip",
        ),
        sha256="7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d",
        archive=Archive(
            member="SMSSpamCollection",
            sha256="1587ea43e58e82b14ff1f5425c88e17f8496bfcdb67a583dbff9eefaf9963ce3",
            most_bytes=2 << 20,
        ),
        also=("SMSSpamCollection",),
    ),
    "instruction-data": Corpus(
        title="The book's instructions",
        file="instruction-data.json",
        urls=tuple(at + "ch07/01_main-chapter-code/instruction-data.json" for at in BOOK_AT),
        sha256="7e09a9af353722ca15c18bc580f093f9c39d3178335a75177319cb1e1d163944",
    ),
    "instruction-data-with-preference": Corpus(
        title="The book's instructions, two answers",
        file="instruction-data-with-preference.json",
        urls=tuple(
            at + "ch07/04_preference-tuning-with-dpo/instruction-data-with-preference.json"
            for at in BOOK_AT
        ),
        sha256="305315abf14f65fa42c01a0877572f832606571c2a7d49f152ac1d758b16756e",
    ),
}


def data_folders() -> list[Path]:
    """Return the folders that are searched for data, in order; some may not exist.

    They are those of `LLM_SCRATCH_DATA` (one, or several joined as in PATH), the cache of fetched
    files, the data in an installed package, and the folder `data/` next to the package in a clone.
    """
    package = Path(__file__).resolve().parents[1]
    return [*_chosen_folders(), cache_folder(), package / "data", package.parent / "data"]


def _chosen_folders() -> list[Path]:
    """Return the folders that `LLM_SCRATCH_DATA` lists."""
    listed = os.environ.get("LLM_SCRATCH_DATA", "").split(os.pathsep)
    return [Path(folder).expanduser().absolute() for folder in listed if folder]


def find_data(name: str) -> Path:
    """Return the path of a named text (`"the-verdict"`) or of a data file (`"the-verdict.txt"`).

    A named text must have the content that belongs to the name, so that the book's numbers are
    reproduced: a file with another SHA-256 is skipped.

    Raises:
        FileNotFoundError: if it is in none of `data_folders()`; the message names the command that
            fetches it.
    """
    if not name or Path(name).name != name:
        raise ValueError(f"{name!r} must be the name of a text or a file, without folders")
    known = _known_as(name)
    corpus = CORPORA[known] if known else Corpus(name, name)
    names = (corpus.file, *corpus.also)
    candidates = [folder / file for folder in data_folders() for file in names]
    for path in candidates:
        if holds(path, corpus.sha256):
            return path
    others = ", ".join(str(path) for path in candidates if path.is_file())
    remark = f" (the SHA-256 of {others} differs)" if others else ""
    raise FileNotFoundError(f"{corpus.file} is missing{remark}; {_way_out(known, corpus)}")


def load_text(name: str) -> str:
    """Read a named text, or the text of a data file, with its line endings unchanged.

    Raises:
        FileNotFoundError: as in `find_data`.
        FileError: if the file is not UTF-8.
    """
    return read_text(find_data(name))


def fetch(name: str) -> Path:
    """Fetch a named text into the cache, unless it is on this machine, and return its path.

    Raises:
        ValueError: if no text has this name.
        DownloadError: if none of its addresses provides it.
    """
    known = _known_as(name)
    if known is None:
        raise ValueError(f"no text is called {name!r}; there are {', '.join(CORPORA)}")
    corpus = CORPORA[known]
    try:
        return find_data(known)
    except FileNotFoundError:
        if not corpus.urls:
            raise
    target = cache_folder() / corpus.file
    if corpus.archive is None:
        return download_file(corpus.urls, target, sha256=corpus.sha256)
    return _fetch_archive(corpus, corpus.archive, target)


def _fetch_archive(corpus: Corpus, archive: Archive, target: Path) -> Path:
    """Fetch the corpus's archive, extract the text to `target`, and delete the archive."""
    path = target.with_name(f"{target.name}.{os.getpid()}.zip")
    download_file(corpus.urls, path, sha256=archive.sha256)
    try:
        return unpack_member(
            path, archive.member, target, most_bytes=archive.most_bytes, sha256=corpus.sha256
        )
    finally:
        path.unlink(missing_ok=True)


def _known_as(name: str) -> str | None:
    """Return the name of the text with this name or this file name; None if there is none."""
    called = (key for key, c in CORPORA.items() if name in (key, c.file, *c.also))
    return next(called, None)


def _way_out(known: str | None, corpus: Corpus) -> str:
    if known and corpus.urls:
        return f"llm-scratch fetch {known} gets it"
    if known:
        return "it is part of this project: reinstall it"
    folder = (*_chosen_folders(), cache_folder())[0]
    return f"put it into {folder} (texts with a name: {', '.join(CORPORA)})"
