"""Token files: a corpus encoded once, then mapped into memory by every run that trains on it.

One file, or a folder of parts, holds everything that training needs: the ids, the starts of the
documents, and the tokenizer. Opening it takes milliseconds, whatever its size, since the ids stay
on disk until a batch needs them. `token_header` has the layout, `token_parts` cuts batches.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from llm_scratch.text.foreign_ids import (
    bare_contents,
    datatrove_contents,
    datatrove_files,
    named_tokenizer,
)
from llm_scratch.text.joined_array import between
from llm_scratch.text.part_files import parts_contents, parts_in
from llm_scratch.text.token_contents import Contents, file_contents
from llm_scratch.text.token_header import NUMPY_MAGIC, REMEDY, TokenFileError, is_token_file
from llm_scratch.text.token_ids import check_parts, cut_at
from llm_scratch.text.token_parts import TokenPart
from llm_scratch.text.token_writing import Empty, bytes_of_ids, write_token_file
from llm_scratch.tokenizers.any_tokenizer import fingerprint
from llm_scratch.tokenizers.bpe_pieces import Texts

FEW_DOCUMENTS = 10  # with fewer, a cut between documents may be far from `train_frac`


class TokenFile:
    """A corpus as ids, mapped in place from a file or from the files in a folder.

    `tokens` are the ids (n,), mapped; `documents` the index of the first token of each document,
    mapped; `vocab_size` is above every id; `num_bytes` is the size of the text in UTF-8 (0 if
    unknown); `fingerprint` identifies the tokenizer, `sha256` the content ("" if unknown).

    Args:
        path: a file that `write_tokens` wrote, a folder of parts that `write_parts` wrote, a `.ds`
            file of datatrove or a folder of them, or a file of bare ids.
        tokenizer: the tokenizer of the ids, if the files do not hold it: "gpt2", a file, or the
            tokenizer itself. If they do hold it, both must be the same.
        dtype: the type of bare ids, "uint16" or "uint32"; NumPy's `.npy` states it.

    Raises:
        TokenFileError: if it is not a token file, or incomplete; for a folder, naming the part.
            Only `verify` compares the content with the checksum, since that reads all of it.
        ValueError: if the tokenizer is missing or differs, or the type of the ids is missing.
        FileNotFoundError: if there is no such file.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, tokenizer: Any = None, dtype: str | None = None
    ) -> None:
        self.path = Path(path)
        self._given = {"tokenizer": tokenizer, "dtype": dtype}
        self._contents = contents = _contents_of(self.path, tokenizer, dtype)
        self.tokens, self.documents = contents.tokens, contents.documents
        self.vocab_size = contents.vocab_size
        self.num_bytes = contents.num_bytes
        self.fingerprint = contents.fingerprint
        self.sha256 = contents.sha256

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        return (
            f"TokenFile({str(self.path)!r}: {len(self.tokens):,} tokens, vocab_size="
            f"{self.vocab_size}, {len(self.documents):,} documents, {self.num_bytes:,} bytes)"
        )

    def __reduce__(self) -> tuple[partial[TokenFile], tuple[Path]]:
        return partial(TokenFile, **self._given), (self.path,)  # another process maps it again

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer that made the ids; None if it is of a kind that cannot be stored.

        Raises:
            TokenFileError: if it is damaged.
        """
        return self._contents.tokenizer()

    @cached_property
    def id_bytes(self) -> np.ndarray | None:
        """The number of bytes of text that each id stands for: (vocab_size,) int64.

        0 for special tokens. These sizes convert nats per token to bits per byte. None without the
        tokenizer.
        """
        tokenizer = self.tokenizer
        return None if tokenizer is None else bytes_of_ids(tokenizer, self.vocab_size)

    @property
    def whole(self) -> TokenPart:
        """The whole corpus as one part, for evaluation on a file of its own."""
        return self._part(0, len(self.tokens))

    def split(self, train_frac: float = 0.9, *, min_tokens: int = 2) -> tuple[TokenPart, TokenPart]:
        """Return the first part for training and the rest for validation.

        With ten or more documents, the cut is between two of them, as near to `train_frac` as
        possible. With fewer, it is exactly there.

        Args:
            train_frac: the training part's share of the tokens, between 0 and 1.
            min_tokens: the minimum for each part, one more than the length of a window.

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
        """Return the start of a document nearest to a token, the first document excluded."""
        after = bisect_left(self.documents, token, 1)
        around = (int(start) for start in self.documents[max(after - 1, 1) : after + 1])
        inside = [start for start in around if 0 < start < len(self.tokens)]
        if not inside:
            raise TokenFileError(f"{self.path} has a document outside its ids; {REMEDY}")
        return min(inside, key=lambda start: abs(start - token))

    def _part(self, start: int, stop: int) -> TokenPart:
        reopen = (_reopened_part, (self.path, self._given, start, stop))
        return TokenPart(between(self.tokens, start, stop), self.vocab_size, reopen=reopen)

    def verify(self, *, progress: bool = False) -> None:
        """Read everything and compare it with the checksum.

        Ids written by other programs have no checksum; they are compared with the vocabulary.

        Raises:
            TokenFileError: if it has changed since it was written.
        """
        self._contents.verify(progress)


def _reopened_part(path: Path, given: dict[str, Any], start: int, stop: int) -> TokenPart:
    return TokenFile(path, **given)._part(start, stop)


def _contents_of(path: Path, tokenizer: Any, dtype: str | None) -> Contents:
    """Return the contents at a path, written by this library or another program."""
    given = None if tokenizer is None else named_tokenizer(tokenizer)
    if dtype is not None and (path.is_dir() or (path.is_file() and is_token_file(path))):
        raise ValueError(f"{path} names the type of its ids itself; leave {dtype=} out")
    if files := datatrove_files(path):
        return datatrove_contents(files, given)
    if dtype is not None or (given is not None and _is_numpy(path)):
        return bare_contents(path, given, dtype)
    contents = _folder_contents(path) if path.is_dir() else file_contents(path)
    if given is not None and (own := fingerprint(given.tokenizer)) != contents.fingerprint:
        raise ValueError(
            f"{path} was made with the tokenizer {contents.fingerprint[:12]}..., got "
            f"{own[:12]}...; prepare the text with that one"
        )
    return contents


def _folder_contents(path: Path) -> Contents:
    if not parts_in(path):
        raise FileNotFoundError(
            f"{path} holds no parts of a corpus, and no .ds files; llm-scratch prepare TEXT "
            f"--parts 8 --out {path} makes parts"
        )
    return parts_contents(path)


def _is_numpy(path: Path) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(NUMPY_MAGIC)) == NUMPY_MAGIC


def write_tokens(
    path: str | os.PathLike[str],
    texts: Texts,
    tokenizer: Any,
    *,
    empty: Empty = "drop",
    field: str = "text",
    progress: bool = True,
) -> TokenFile:
    """Encode texts into a token file and return it, opened.

    If the tokenizer has GPT-2's pattern, texts are read, encoded and written in blocks, and memory
    does not grow with them. With another pattern, each text is encoded as a whole. The file is
    written atomically.

    Several texts are documents, each followed by `<|endoftext|>`. Within a text, `<|endoftext|>`
    becomes the same id and also ends a document.

    Args:
        path: the file to write; only a token file is overwritten.
        texts: a text, a `Path` (UTF-8), or any number of them; a folder stands for its .txt files,
            and a file of rows (JSON, JSON Lines, CSV, TSV) for the texts of its rows. Files may be
            compressed (.gz, or .zst with the package zstandard).
        tokenizer: any object with `encode(text)`. It is stored in the file if it is GPT-2's, a
            `BytePairTokenizer` or a `WrappedTokenizer`; otherwise, only its fingerprint is.
        empty: what to do with blank texts: "drop" them with a warning that lists them, or "raise".
        field: the field that holds the text of a row.
        progress: show a progress bar if it takes longer than a second.

    Raises:
        ValueError: if a text is not UTF-8, an id is not in the vocabulary, there are several texts
            but the vocabulary has no `<|endoftext|>`, or no text is left.
        FileNotFoundError: if a file is missing.
    """
    write_token_file(Path(path), texts, tokenizer, empty=empty, field=field, progress=progress)
    return TokenFile(path)
