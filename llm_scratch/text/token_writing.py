"""Writing of token files: texts of any length are read, encoded and written in blocks."""

from __future__ import annotations

import hashlib
import json
import warnings
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import regex

from llm_scratch.files import Span, written_whole
from llm_scratch.text.token_header import (
    HEADER_BYTES,
    Header,
    id_type,
    is_token_file,
    padding,
)
from llm_scratch.tokenizers.any_tokenizer import (
    encode,
    end_of_text_id,
    fingerprint,
    special_tokens_of,
    vocab_size_of,
)
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.bpe_open import tokenizer_of_bytes
from llm_scratch.tokenizers.bpe_pieces import (
    Text,
    Texts,
    blocks_of,
    can_be_cut,
    each_text,
    text_sources,
)
from llm_scratch.tokenizers.gpt2 import GPT2_PATTERN, GPT2Tokenizer
from llm_scratch.tokenizers.simple import END_OF_TEXT, UnknownIdError
from llm_scratch.tokenizers.wrapped import WrappedTokenizer

Empty = Literal["drop", "raise"]

GPT2 = b"gpt2"  # in place of the tokenizer: the one that ships with this library
BLOCK = 1 << 20  # characters
NO_MARK = -1
INSIDE = -2  # in place of the previous id, in the middle of a text
_NOT_BLANK = regex.compile(r"\S")  # the \S by which texts are cut; str.strip's differs
SHOWN = 20


def write_token_file(
    path: Path, texts: Texts, tokenizer: Any, *, empty: Empty, field: str, progress: bool
) -> None:
    """Encode texts into a token file; see `token_file.write_tokens`."""
    check_empty(empty)
    sources = text_sources(texts)
    total = sum(map(_size, sources)) if isinstance(sources, list) else None
    check_place(path)
    with written_whole(path) as file, progress_bar(total, "encoding", progress) as bar:
        writer = TokenWriter(file, tokenizer)
        blanks = writer.add_texts(each_text(sources, field), empty, bar.update)
        if not writer.num_tokens:
            raise ValueError("there is no text to write: give at least one that is not empty")
        writer.finish()
    warn_of_blanks(blanks, writer.num_texts, stacklevel=4)


def check_empty(empty: str) -> None:
    """Check that `empty` is "drop" or "raise".

    Raises:
        ValueError: if it is not.
    """
    if empty not in ("drop", "raise"):
        raise ValueError(f"{empty=} must be 'drop' or 'raise'")


def warn_of_blanks(blanks: Sequence[str], others: int, stacklevel: int, where: str = "") -> None:
    """Warn of texts that were left out, if there are any."""
    if blanks:
        more = ", ..." if len(blanks) > SHOWN else ""
        warnings.warn(
            f"{where}left out {len(blanks)} empty of {others + len(blanks)} texts: "
            f"{', '.join(blanks[:SHOWN])}{more}",
            stacklevel=stacklevel,
        )


def cuts_texts(tokenizer: Any) -> bool:
    """Return whether a tokenizer may encode a long text in pieces."""
    pattern = getattr(tokenizer, "pattern", getattr(tokenizer, "_pat_str", None))
    words = getattr(tokenizer, "added_words", ())
    return can_be_cut(pattern, {*special_tokens_of(tokenizer), *words})


def mark_of(tokenizer: Any) -> int:
    """Return the id that ends a document; `NO_MARK` if the tokenizer has none."""
    end = end_of_text_id(tokenizer)
    return NO_MARK if end is None else end


class TokenWriter:
    """A writer of ids to a token file as they come, which writes the header at the end."""

    def __init__(self, file: BinaryIO, tokenizer: Any) -> None:
        vocab_size = vocab_size_of(tokenizer)
        if not vocab_size:
            raise ValueError(
                f"a {type(tokenizer).__name__} does not say how many ids it has; "
                "give it an attribute n_vocab"
            )
        self.vocab_size = vocab_size
        self.tokenizer = tokenizer
        self.whole = not cuts_texts(tokenizer)
        self.mark = mark_of(tokenizer)
        self.file = file
        self.digest = hashlib.sha256()
        self.starts = array("Q")  # of documents
        self.num_texts = self.num_tokens = self.num_bytes = 0
        self.last = self.mark
        self.goes_on = False  # whether the first text begins in another part
        file.write(bytes(HEADER_BYTES))  # the header comes last: it holds the counts

    def add_texts(
        self, texts: Iterable[Text], empty: Empty, advance: Callable[[int], Any]
    ) -> list[str]:
        """Write texts and return the names of those that are empty."""
        blanks = []
        for text in texts:
            if not self.add_text(text, advance):
                blanks.append(text.name)
                if empty == "raise":
                    raise ValueError(f"{text.name} is empty; leave it out, or pass empty='drop'")
        return blanks

    def add_text(self, text: Text, advance: Callable[[int], Any]) -> bool:
        """Write one text and return whether it was written; a blank one is not."""
        inside = isinstance(text.source, Span) and text.source.start > 0
        if inside:  # the text before a cut is never blank
            self.last, self.goes_on = INSIDE, True
        for number, block in enumerate(blocks_of(text.source, self.whole, BLOCK)):
            # A first block is never cut within white space: if it is blank, so is the text.
            if number == 0 and not inside:
                if not _NOT_BLANK.search(block):
                    return False
                self.begin(text.name)
            self.write_ids(encode(self.tokenizer, block), text.name)
            num_bytes = len(block.encode("utf-8"))
            self.num_bytes += num_bytes
            advance(num_bytes)
        return True

    def begin(self, name: str) -> None:
        """Begin a text, after ending the one before."""
        behind = self.num_texts or self.goes_on
        if behind and self.mark == NO_MARK:
            raise ValueError(
                f"this tokenizer has no {END_OF_TEXT} to stand between texts, and {name} is "
                f"the second; give one text, or train a tokenizer with {END_OF_TEXT}"
            )
        if behind:
            self._write_mark()
        self.num_texts += 1

    def _write_mark(self) -> bool:
        missing = self.last != self.mark  # the text may have one at its end
        if missing:
            self.write_ids([self.mark], END_OF_TEXT)
        return missing

    def write_ids(self, ids: Sequence[int] | np.ndarray, name: str) -> None:
        """Write ids of a text, and record where documents begin among them."""
        if not len(ids):
            return
        block = np.array(ids, dtype=np.int64)
        for found in (int(block.min()), int(block.max())):
            if not 0 <= found < self.vocab_size:
                raise ValueError(
                    f"{name} has token id {found}, outside the tokenizer's vocabulary of "
                    f"{self.vocab_size} (0 to {self.vocab_size - 1})"
                )
        before = np.concatenate([[self.last], block[:-1]])
        starts = np.flatnonzero((before == self.mark) & (block != self.mark)) + self.num_tokens
        self.starts.frombytes(starts.astype(np.uint64).tobytes())
        self.num_tokens += len(ids)
        self.last = int(ids[-1])
        self._write(block.astype(id_type(self.vocab_size)).tobytes())

    def finish(self) -> None:
        """Write the sections after the ids, then the header before them."""
        if self.num_texts > 1 or len(self.starts) > 1:  # several documents: end the last, too
            self._write_mark()
        self._finish(b"")

    def finish_part(self, ended: bool, facts: dict[str, Any]) -> None:
        """Finish a part of a corpus, whose first and last text may continue in other parts.

        Args:
            ended: whether the last text ends here. Its end-of-text token is then written, and noted
                as "closed", since a text that turns out to be the only one has none.
            facts: the origin of the part.
        """
        closed = ended and self.num_tokens > 0 and self.mark != NO_MARK and self._write_mark()
        facts = facts | {"texts": self.num_texts, "closed": closed}
        self._finish(json.dumps(facts, sort_keys=True).encode())

    def _finish(self, facts: bytes) -> None:
        num_documents = len(self.starts)
        self._write(bytes(padding(self.file.tell())))
        self._write(np.array(self.starts, dtype="<u8").tobytes())
        identity = fingerprint(self.tokenizer)
        packed = pack_tokenizer(self.tokenizer, identity)
        self._write(packed)
        self._write(facts)
        header = Header(
            vocab_size=self.vocab_size,
            num_tokens=self.num_tokens,
            num_documents=num_documents,
            num_bytes=self.num_bytes,
            tokenizer_bytes=len(packed),
            fingerprint=bytes.fromhex(identity),
            sha256=self.digest.digest(),
            facts_bytes=len(facts),
        )
        self.file.seek(0)
        self.file.write(header.pack())

    def _write(self, data: bytes) -> None:
        self.digest.update(data)
        self.file.write(data)


def bytes_of_ids(tokenizer: Any, vocab_size: int) -> np.ndarray:
    """Return the bytes that each id stands for, 0 for special ones: (vocab_size,) int64."""
    sizes = np.zeros(vocab_size, dtype=np.int64)
    for token_id in range(vocab_size):
        if not tokenizer.is_special_token(token_id):
            with suppress(UnknownIdError):  # a gap in the ids
                sizes[token_id] = len(tokenizer.decode_single_token_bytes(token_id))
    return sizes


def _size(source: str | Path) -> int:
    """Return the approximate number of bytes in a text."""
    return len(source) if isinstance(source, str) else source.stat().st_size


def check_place(path: Path) -> None:
    """Make sure that a new token file overwrites nothing but a token file."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file, such as {path / 'tokens'}")
    if path.is_file() and not is_token_file(path):
        raise ValueError(
            f"{path} is there and is not a token file; give another name, or move it away"
        )


def pack_tokenizer(tokenizer: Any, identity: str) -> bytes:
    """Return the bytes stored for a tokenizer: "gpt2", its JSON file, or none for a foreign one."""
    split_like_gpt2 = getattr(tokenizer, "pattern", GPT2_PATTERN) == GPT2_PATTERN
    if split_like_gpt2 and identity == fingerprint(GPT2Tokenizer()):
        return GPT2
    ours = isinstance(tokenizer, BytePairTokenizer | WrappedTokenizer)
    return tokenizer.to_bytes() if ours else b""


def unpack_tokenizer(packed: bytes) -> Any:
    """Return the tokenizer that `pack_tokenizer` stored; None for a foreign one."""
    if packed in (b"", GPT2):
        return GPT2Tokenizer() if packed else None
    return tokenizer_of_bytes(packed)


def progress_bar(total: int | None, what: str, show: bool) -> Any:
    """Return a progress bar of bytes, which is shown only after one second."""
    from tqdm import tqdm

    look: dict[str, Any] = {"desc": what, "unit": "B", "unit_scale": True, "leave": False}
    return tqdm(total=total, delay=1.0, disable=not show, **look)
