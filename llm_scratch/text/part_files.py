"""The parts of a corpus in a folder: the origin of each, and all of them opened as one corpus."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from llm_scratch.files import FileError, parse_json
from llm_scratch.text.joined_array import JoinedArray, Row
from llm_scratch.text.token_contents import Contents, kept_tokenizer, map_bytes, verify_file
from llm_scratch.text.token_header import HEADER_BYTES, Header, TokenFileError, read_header

LONGEST_FACTS = 1 << 16  # bytes
_NAME = re.compile(r"part-(\d{5,9})-of-(\d{5,9})\.tokens")
SHOWN = 5


def part_name(part: int, count: int) -> str:
    """Return the name of a part's file; parts are counted from 1."""
    return f"part-{part:05d}-of-{count:05d}.tokens"


@dataclass(frozen=True)
class Facts:
    """The origin of a part.

    Args:
        part: the number of the part, from 1.
        count: the number of parts.
        files: identifies the texts of all parts.
        field: the field that holds the text of a row.
        times: identifies the modification times of this part's files.
        read: the SHA-256 of all bytes read for this part.
    """

    part: int
    count: int
    files: str
    field: str
    times: str
    read: str


@dataclass(frozen=True)
class PartFile:
    """The file of a part, without its ids.

    Args:
        path: the file.
        header: its header.
        facts: its origin.
        texts: the number of texts that begin in it.
        closed: whether the end-of-text token at its end was added, and is not in the text itself.
    """

    path: Path
    header: Header
    facts: Facts
    texts: int
    closed: bool


def read_part(path: Path) -> PartFile:
    """Read the header and the facts of a part.

    Raises:
        TokenFileError: if it is not a part of a corpus, or incomplete.
        FileNotFoundError: if there is no such file.
    """
    header = read_header(path, part=True)
    if header.facts_bytes > LONGEST_FACTS:
        raise TokenFileError(
            f"{path} has {header.facts_bytes} bytes of facts, a part has fewer; remove it"
        )
    with open(path, "rb") as file:
        file.seek(header.facts_at)
        packed = file.read(header.facts_bytes)
    try:
        found = parse_json(path, packed)
    except FileError as err:
        raise TokenFileError(str(err)) from err
    kinds = {"part": int, "count": int, "texts": int, "closed": bool}
    kinds |= {field.name: str for field in fields(Facts) if field.name not in kinds}
    if found.keys() != kinds.keys() or any(type(found[name]) is not kinds[name] for name in kinds):
        raise TokenFileError(f"{path} does not have the facts of a part; remove it")
    texts, closed = found.pop("texts"), found.pop("closed")
    return PartFile(path, header, Facts(**found), texts, closed)


def parts_in(folder: Path) -> dict[int, Path]:
    """Return the parts in a folder by number; an empty dict if there are none.

    Raises:
        TokenFileError: if their names state different numbers of parts.
    """
    found = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    counts = sorted({int(match[2]) for match, _ in found})
    if len(counts) > 1:
        raise TokenFileError(
            f"{folder} has parts of {' and of '.join(map(str, counts))}, which are several "
            "corpora; remove those that do not belong there"
        )
    return dict(sorted((int(match[1]), path) for match, path in found))


def count_in(folder: Path) -> int | None:
    """Return the number of parts that the names in a folder state; None without parts."""
    path = next(iter(parts_in(folder).values()), None) if folder.is_dir() else None
    return None if path is None else int(_NAME.fullmatch(path.name)[2])  # type: ignore[index]


def parts_contents(folder: Path) -> Contents:
    """Return the contents of all parts of a corpus, mapped, as if they were one file.

    Raises:
        TokenFileError: if a part is missing, damaged, or of another corpus than the first.
    """
    paths = parts_in(folder)
    _check_numbers(folder, paths)
    parts = [read_part(path) for path in paths.values()]
    for number, part in enumerate(parts, 1):
        _check_part(part, number, parts[0])
    first, mapped = parts[0], [map_bytes(part.path) for part in parts]
    return Contents(
        tokens=_tokens(parts, mapped),
        documents=_documents(parts, mapped),
        vocab_size=first.header.vocab_size,
        num_bytes=sum(part.header.num_bytes for part in parts),
        fingerprint=first.header.fingerprint.hex(),
        sha256=hashlib.sha256(b"".join(part.header.sha256 for part in parts)).hexdigest(),
        tokenizer=lambda: kept_tokenizer(first.path, first.header),
        verify=lambda progress: _verify(parts, progress),
    )


def _verify(parts: Sequence[PartFile], progress: bool) -> None:
    for part in parts:
        verify_file(part.path, part.header, progress)


def _check_numbers(folder: Path, paths: dict[int, Path]) -> None:
    count = count_in(folder) or 0
    missing = [number for number in range(1, count + 1) if number not in paths]
    if missing or len(paths) != count:
        shown = ", ".join(map(str, missing[:SHOWN])) + (", ..." if len(missing) > SHOWN else "")
        raise TokenFileError(
            f"{folder} lacks part {shown} of {count}: the same llm-scratch prepare with "
            f"--part {(missing or [0])[0]}/{count} makes it"
            if missing
            else f"{folder} has a part that is not one of 1 to {count}; remove it"
        )


def _check_part(part: PartFile, number: int, first: PartFile) -> None:
    own = part.facts
    if (own.part, own.count) != (number, first.facts.count):
        raise TokenFileError(
            f"{part.path} says that it is part {own.part} of {own.count}; was it renamed?"
        )
    if differs := difference(part, first.facts, first.header.fingerprint):
        raise TokenFileError(
            f"{part.path} was made {differs} than {first.path.name}; remove the one that does not "
            "belong to the corpus and make it again"
        )
    if part.header.vocab_size != first.header.vocab_size:
        raise TokenFileError(f"{part.path} has another vocabulary than {first.path.name}")


def difference(part: PartFile, facts: Facts, fingerprint: bytes) -> str:
    """Describe how the origin of a part differs from the given one; "" if it does not."""
    if part.header.fingerprint != fingerprint:
        return "with another tokenizer"
    if part.facts.files != facts.files:
        return "of other texts, or in another order,"
    if part.facts.field != facts.field:
        return f"of another field ({part.facts.field!r})"
    return ""


def _tokens(parts: Sequence[PartFile], mapped: Sequence[np.ndarray]) -> Row:
    arrays = []
    for part, data in zip(parts, mapped, strict=True):
        stop = HEADER_BYTES + part.header.num_tokens * part.header.dtype.itemsize
        arrays.append(data[HEADER_BYTES:stop].view(part.header.dtype))
    # A single text has no end-of-text token, and only all parts together show that it is single.
    texts = sum(part.texts for part in parts)
    documents = sum(part.header.num_documents for part in parts)
    last = max((number for number, array in enumerate(arrays) if len(array)), default=0)
    if texts == 1 and documents <= 1 and parts[last].closed:
        arrays[last] = arrays[last][:-1]
    tokens = JoinedArray(arrays)
    if not len(tokens) or not documents:
        count = len(parts)
        raise TokenFileError(f"{parts[0].path.parent} holds no text, in {count} parts")
    return tokens.between(0, len(tokens))


def _documents(parts: Sequence[PartFile], mapped: Sequence[np.ndarray]) -> Row:
    arrays, added, before = [], [], 0
    for part, data in zip(parts, mapped, strict=True):
        arrays.append(data[part.header.documents_at : part.header.tokenizer_at].view("<u8"))
        added.append(before)
        before += part.header.num_tokens
    documents = JoinedArray(arrays, added)
    return documents.between(0, len(documents))
