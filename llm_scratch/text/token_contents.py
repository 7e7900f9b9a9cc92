"""The contents of a corpus: ids, documents and tokenizer, whichever files hold them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_scratch.text.joined_array import Row
from llm_scratch.text.token_header import (
    HEADER_BYTES,
    REMEDY,
    Header,
    TokenFileError,
    read_header,
)
from llm_scratch.text.token_writing import progress_bar, unpack_tokenizer
from llm_scratch.tokenizers.any_tokenizer import fingerprint

BLOCK = 1 << 22  # bytes


@dataclass(frozen=True)
class Contents:
    """A corpus as ids.

    Args:
        tokens: the ids (n,).
        documents: the index of the first token of each document.
        vocab_size: the size of the vocabulary; every id is below it.
        num_bytes: the size of the text in UTF-8; 0 if it was not counted.
        fingerprint: identifies the tokenizer.
        sha256: identifies the content; "" if there is no checksum.
        tokenizer: a function that returns the tokenizer, None if the files do not hold it.
        verify: a function that checks everything, with a progress bar if its argument is True.
    """

    tokens: Row
    documents: Row
    vocab_size: int
    num_bytes: int
    fingerprint: str
    sha256: str
    tokenizer: Callable[[], Any]
    verify: Callable[[bool], None]


def file_contents(path: Path) -> Contents:
    """Return the contents of a token file, mapped.

    Raises:
        TokenFileError: if it is not a token file, or incomplete.
        FileNotFoundError: if there is no such file.
    """
    header = read_header(path)
    return Contents(
        tokens=np.memmap(path, header.dtype, "r", HEADER_BYTES, (header.num_tokens,)),
        documents=np.memmap(path, "<u8", "r", header.documents_at, (header.num_documents,)),
        vocab_size=header.vocab_size,
        num_bytes=header.num_bytes,
        fingerprint=header.fingerprint.hex(),
        sha256=header.sha256.hex(),
        tokenizer=lambda: kept_tokenizer(path, header),
        verify=lambda progress: verify_file(path, header, progress),
    )


def kept_tokenizer(path: Path, header: Header) -> Any:
    """Return the tokenizer in a token file; None if it is of a kind that cannot be stored.

    Raises:
        TokenFileError: if it is damaged, or not the one that made the ids.
    """
    with open(path, "rb") as file:
        file.seek(header.tokenizer_at)
        packed = file.read(header.tokenizer_bytes)
    try:
        tokenizer = unpack_tokenizer(packed)
    except ValueError as error:
        raise TokenFileError(f"{path} holds a damaged tokenizer: {error}") from error
    if tokenizer is not None and fingerprint(tokenizer) != header.fingerprint.hex():
        raise TokenFileError(f"{path} holds another tokenizer than the one of its ids")
    return tokenizer


def verify_file(path: Path, header: Header, progress: bool) -> None:
    """Read a whole token file, or a part of a corpus, and compare it with its checksum.

    Raises:
        TokenFileError: if it has changed since it was written.
    """
    digest, size = hashlib.sha256(), header.file_bytes
    with open(path, "rb") as file, progress_bar(size, "verifying", progress) as bar:
        file.seek(HEADER_BYTES)
        while block := file.read(BLOCK):
            digest.update(block)
            bar.update(len(block))
    if digest.digest() != header.sha256:
        raise TokenFileError(f"{path} was changed since it was written; {REMEDY}")
    kept_tokenizer(path, header)  # raises if it did not make the ids


def map_bytes(path: Path) -> np.ndarray:
    """Return the bytes of a file, mapped: (size,) uint8.

    `numpy.memmap` keeps a file descriptor for each file, and a corpus may have more files than a
    process may have descriptors.
    """
    import torch  # imported here, so that preparing a corpus starts without it

    size = path.stat().st_size
    if not size:
        return np.empty(0, np.uint8)
    mapped = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    mapped.flags.writeable = False
    return mapped
