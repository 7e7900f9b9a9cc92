"""Token files: a corpus encoded once, then mapped into memory by every run that trains on it.

One file holds everything that training needs: the ids, where documents begin, and the tokenizer.
It is opened in milliseconds, whatever its size, since the ids stay on disk until a batch needs
them. `token_header` says what stands where; `token_parts` cuts batches.
"""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llm_scratch.text.token_header import HEADER_BYTES, REMEDY, TokenFileError, read_header
from llm_scratch.text.token_ids import check_parts, cut_at
from llm_scratch.text.token_parts import TokenPart
from llm_scratch.text.token_writing import (
    Empty,
    bytes_of_ids,
    progress_bar,
    unpack_tokenizer,
    write_token_file,
)
from llm_scratch.tokenizers.any_tokenizer import fingerprint
from llm_scratch.tokenizers.bpe_pieces import Texts

FEW_DOCUMENTS = 10  # with fewer, whole documents would make parts of chance sizes
BLOCK = 1 << 22  # bytes


class TokenFile:
    """A corpus as ids, mapped from a file that `write_tokens` wrote.

    `tokens` are the ids (n,), mapped; `documents` the index of the first token of each document,
    mapped; `vocab_size` is above every id; `num_bytes` counts the text in UTF-8; `fingerprint`
    tells the tokenizer, `sha256` the content.

    Args:
        path: the file.

    Raises:
        TokenFileError: if it is no token file, or not a whole one. Its content is compared with
            the checksum by `verify` only, since that reads all of it.
        FileNotFoundError: if there is no such file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._header = header = read_header(self.path)
        self.vocab_size = header.vocab_size
        self.num_bytes = header.num_bytes
        self.fingerprint = header.fingerprint.hex()
        self.sha256 = header.sha256.hex()
        self.tokens = np.memmap(self.path, header.dtype, "r", HEADER_BYTES, (header.num_tokens,))
        count = header.num_documents
        self.documents = np.memmap(self.path, "<u8", "r", header.documents_at, (count,))

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        return (
            f"TokenFile({str(self.path)!r}: {len(self.tokens):,} tokens, vocab_size="
            f"{self.vocab_size}, {len(self.documents):,} documents, {self.num_bytes:,} bytes)"
        )

    def __reduce__(self) -> tuple[type[TokenFile], tuple[Path]]:
        return TokenFile, (self.path,)  # another process maps the file, too

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer that made the ids, None if it is one that this library can't keep.

        Raises:
            TokenFileError: if it is damaged.
        """
        with open(self.path, "rb") as file:
            file.seek(self._header.tokenizer_at)
            packed = file.read(self._header.tokenizer_bytes)
        try:
            tokenizer = unpack_tokenizer(packed)
        except ValueError as error:
            raise TokenFileError(f"{self.path} holds a damaged tokenizer: {error}") from error
        if tokenizer is not None and fingerprint(tokenizer) != self.fingerprint:
            raise TokenFileError(f"{self.path} holds another tokenizer than the one of its ids")
        return tokenizer

    @cached_property
    def id_bytes(self) -> np.ndarray | None:
        """How many bytes of text each id stands for: (vocab_size,) int64.

        Special tokens stand for none. It is what makes bits per byte of nats per token; None
        without the tokenizer.
        """
        tokenizer = self.tokenizer
        return None if tokenizer is None else bytes_of_ids(tokenizer, self.vocab_size)

    @property
    def whole(self) -> TokenPart:
        """The whole corpus as one part, for evaluation on a file of its own."""
        return self._part(0, len(self.tokens))

    def split(self, train_frac: float = 0.9, *, min_tokens: int = 2) -> tuple[TokenPart, TokenPart]:
        """Return the first part for training and the rest for validation.

        Ten documents or more stay whole: the cut lies between two of them, as near to
        `train_frac` as it can. With fewer it lies exactly there.

        Args:
            train_frac: the training part's share of the tokens, between 0 and 1.
            min_tokens: what each part needs, one more than the length of a window.

        Raises:
            ValueError: if a part has fewer than `min_tokens`.
        """
        num_tokens = len(self.tokens)
        cut = cut_at(num_tokens, train_frac)
        if len(self.documents) >= FEW_DOCUMENTS:
            cut = self._nearest_start(cut)
        needs = f"{min_tokens} for one window"
        way_out = ", take a smaller length, or give more text"
        check_parts(cut, num_tokens, train_frac, min_tokens, needs, way_out)
        return self._part(0, cut), self._part(cut, num_tokens)

    def _nearest_start(self, token: int) -> int:
        """Return where a document begins, not the first one, as near to a token as there is."""
        starts = self.documents[1:]
        after = int(np.searchsorted(starts, token))
        around = [int(start) for start in starts[max(after - 1, 0) : after + 1]]
        nearest = min(around, key=lambda start: abs(start - token))
        if not 0 < nearest < len(self.tokens):
            raise TokenFileError(f"{self.path} has a document outside its ids; {REMEDY}")
        return nearest

    def _part(self, start: int, stop: int) -> TokenPart:
        reopen = (_reopened_part, (self.path, start, stop))
        return TokenPart(self.tokens[start:stop], self.vocab_size, reopen=reopen)

    def verify(self, *, progress: bool = False) -> None:
        """Read the whole file and compare it with its checksum.

        Raises:
            TokenFileError: if it was changed since it was written.
        """
        digest, size = hashlib.sha256(), self._header.file_bytes
        with open(self.path, "rb") as file, progress_bar(size, "verifying", progress) as bar:
            file.seek(HEADER_BYTES)
            while block := file.read(BLOCK):
                digest.update(block)
                bar.update(len(block))
        if digest.digest() != self._header.sha256:
            raise TokenFileError(f"{self.path} was changed since it was written; {REMEDY}")
        _ = self.tokenizer  # raises if it is not the one of the ids


def _reopened_part(path: Path, start: int, stop: int) -> TokenPart:
    return TokenFile(path)._part(start, stop)


def write_tokens(
    path: str | os.PathLike[str],
    texts: Texts,
    tokenizer: Any,
    *,
    empty: Empty = "drop",
    progress: bool = True,
) -> TokenFile:
    """Encode texts into a token file and return it, opened.

    Memory does not grow with the texts, where the tokenizer has GPT-2's pattern: they are read,
    encoded and written in blocks. (With another pattern, each text is encoded whole.) The file
    takes its place when all of it is written, never half.

    Several texts are documents: `<|endoftext|>` stands behind each of them. Written in a text it
    is that id, too, and ends a document.

    Args:
        path: where to write; only a token file is written over.
        texts: a text, a `Path` (UTF-8), or any number of them; a folder stands for the .txt files
            in it, and a file of rows (JSON, JSON Lines, CSV, TSV) for the `text` of each.
        tokenizer: any with `encode(text)`. It is kept in the file if it is a `BytePairTokenizer`
            or GPT-2's, of others the fingerprint is.
        empty: what to do about texts without a letter: "drop" them with a warning that numbers
            them, or "raise".
        progress: show a bar when it takes longer than a second.

    Raises:
        ValueError: if a text is not UTF-8, an id is not in the vocabulary, there are several texts
            but no `<|endoftext|>` in it, or no text is left.
        FileNotFoundError: if a file is missing.
    """
    write_token_file(Path(path), texts, tokenizer, empty=empty, progress=progress)
    return TokenFile(path)
