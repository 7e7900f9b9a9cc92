"""The plan of a corpus in parts: which bytes of which files belong to each part.

Files keep their order, and all parts have about the same number of bytes. A part begins with a
file, or within a large one. JSON Lines are cut between lines. A text is cut only before white space
that follows another character, which preserves its ids, and never right after a special token, so
that no part depends on the one before. Compressed files and those that must be parsed as a whole
are never cut. Cuts depend only on the files, so every process computes the same ones.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import regex

from llm_scratch.compressed import is_compressed
from llm_scratch.data_files import holds_rows, rows_can_be_cut
from llm_scratch.files import Span

BLOCK = 1 << 16  # bytes
SAMPLE = 1 << 12  # bytes at the beginning and at the end of a file, which identify it
# A byte order mark at the beginning is not a character of the text.
_CUT = regex.compile(r"[^\s\ufeff](?=\s)")

Place = tuple[int, int]  # number of a file, and a byte in it


@dataclass(frozen=True)
class Plan:
    """The division of text files among parts.

    Args:
        files: the files, in the order of the corpus.
        count: the number of parts.
        cut_texts: whether the tokenizer allows texts to be cut.
        specials: the special tokens, in UTF-8.
    """

    files: tuple[Path, ...]
    count: int
    cut_texts: bool
    specials: tuple[bytes, ...] = ()

    @cached_property
    def sizes(self) -> list[int]:
        """The size of each file in bytes."""
        return [path.stat().st_size for path in self.files]

    def spans(self, part: int) -> list[Path | Span]:
        """Return the files of a part (numbered from 1), as spans where a file is divided."""
        (first, begin), (last, end) = self._place(part - 1), self._place(part)
        found: list[Path | Span] = []
        for number in range(first, last + (end > 0)):
            path, size = self.files[number], self.sizes[number]
            start, stop = begin * (number == first), end if number == last else size
            if (start, stop) == (0, size):
                found.append(path)
            elif start < stop:
                found.append(Span(path, start, stop))
        return found

    def _place(self, cut: int) -> Place:
        """Return the position of a cut: 0 is the beginning of all texts, `count` their end."""
        if cut in (0, self.count):
            return (0, 0) if cut == 0 else (len(self.files), 0)
        begins = [0, *accumulate(self.sizes)]
        wanted = begins[-1] * cut // self.count
        number = bisect_right(begins, wanted, hi=len(self.files)) - 1
        offset = wanted - begins[number]
        if offset == 0:
            return number, 0
        size = self.sizes[number]
        place = self._cut(self.files[number], offset, size)
        return (number, place) if place < size else (number + 1, 0)

    def _cut(self, path: Path, offset: int, size: int) -> int:
        """Return where a file may be cut if a cut is wanted at byte `offset`."""
        if self.cut_texts and not holds_rows(path) and not is_compressed(path):
            return text_cut(path, offset, size, self.specials)
        if rows_can_be_cut(path):
            return line_cut(path, offset, size)
        return 0 if offset < size / 2 else size

    def identity(self) -> str:
        """Return 64 hex digits that identify the files by names, sizes, beginnings and ends."""
        digest = hashlib.sha256()
        for path, size in zip(self.files, self.sizes, strict=True):
            with open(path, "rb") as file:
                sample = file.read(SAMPLE)
                file.seek(max(size - SAMPLE, 0))
                sample += file.read(SAMPLE)
            digest.update(os.fsencode(path.name) + b"\0%d\0" % size)
            digest.update(hashlib.sha256(sample).digest())
        return digest.hexdigest()


def times_of(spans: Sequence[Path | Span]) -> str:
    """Return 64 hex digits that identify the modification times of a part's files."""
    paths = [span.path if isinstance(span, Span) else span for span in spans]
    known = [(path.name, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(repr(known).encode()).hexdigest()


def bytes_of(spans: Sequence[Path | Span]) -> str:
    """Return the SHA-256 of all bytes of a part."""
    digest = hashlib.sha256()
    for span in spans:
        path, start, stop = span if isinstance(span, Span) else (span, 0, os.stat(span).st_size)
        with open(path, "rb") as file:
            file.seek(start)
            while start < stop and (block := file.read(min(stop - start, 1 << 22))):
                digest.update(block)
                start += len(block)
    return digest.hexdigest()


def line_cut(path: Path, offset: int, size: int) -> int:
    """Return the beginning of the first line from byte `offset` on, `size` if there is none."""
    with open(path, "rb") as file:
        place = offset - 1
        file.seek(place)
        while block := file.read(BLOCK):
            if (found := block.find(b"\n")) >= 0:
                return place + found + 1
            place += len(block)
    return size


def text_cut(path: Path, offset: int, size: int, specials: Sequence[bytes] = ()) -> int:
    """Return the first position from byte `offset` on where a text may be cut, or `size`.

    Bytes that are not UTF-8 do not matter here. Reading the text reports them.
    """
    longest = max(map(len, specials), default=0)
    with open(path, "rb") as file:
        place = max(offset - longest - 8, 0)  # of the first byte in `held`
        file.seek(place)
        held = file.read(BLOCK)
        while True:
            lead = next((i for i, byte in enumerate(held[:4]) if byte & 0xC0 != 0x80), 0)
            held, place = held[lead:], place + lead  # begins with a character
            text = held.decode("utf-8", "surrogateescape")
            for match in _CUT.finditer(text):
                before = text[: match.end()].encode("utf-8", "surrogateescape")
                if place + len(before) >= offset and not before.endswith(tuple(specials)):
                    return place + len(before)
            if not (block := file.read(BLOCK)):
                return size
            keep = min(len(held), longest + 8)
            place, held = place + len(held) - keep, held[-keep:] + block
