"""Token ids written by other programs, opened in place.

datatrove writes a file of ids (`.ds`) and, beside it, the ends of its documents (`.ds.index`) and
the name of the tokenizer (`.ds.metadata`). nanoGPT's `train.bin` holds only ids, llm.c's files
begin with a header of 1,024 bytes, and NumPy's files state their type. None holds the tokenizer.

Source:
    huggingface/datatrove, `DocumentTokenizer` and `TokenizedFile`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llm_scratch.files import first_line
from llm_scratch.text.joined_array import JoinedArray, Row
from llm_scratch.text.token_contents import Contents, map_bytes
from llm_scratch.text.token_header import LLM_C_MAGIC, NUMPY_MAGIC, TokenFileError, id_type
from llm_scratch.text.token_ids import outside
from llm_scratch.text.token_writing import progress_bar
from llm_scratch.tokenizers.any_tokenizer import fingerprint, vocab_size_of
from llm_scratch.tokenizers.bpe_open import open_tokenizer
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer

LLM_C_HEADER = 1024  # bytes
DATATROVE = ".ds"
INDEX, METADATA, LOSS = ".index", ".metadata", ".loss"
DTYPES = ("uint16", "uint32")
# The names under which GPT-2's tokenizer is published.
GPT2_NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")
LONGEST_METADATA = 1 << 16  # bytes
BLOCK = 1 << 22  # ids, or ends of documents
READ_AT_ONCE = 1 << 26  # bytes; a larger index is not checked on opening


@dataclass(frozen=True)
class NamedTokenizer:
    """A tokenizer, its vocabulary size, and the name the user gave ("" for an object)."""

    tokenizer: Any
    vocab_size: int
    name: str


def named_tokenizer(tokenizer: Any) -> NamedTokenizer:
    """Return a tokenizer that is given by name, by file, or as an object.

    Raises:
        ValueError: if it does not state its number of ids.
    """
    name = os.fspath(tokenizer) if isinstance(tokenizer, (str, os.PathLike)) else ""
    opened = open_tokenizer(name) if name else tokenizer
    if not (vocab_size := vocab_size_of(opened)):
        raise ValueError(f"a {type(opened).__name__} does not say how many ids it has")
    return NamedTokenizer(opened, vocab_size, name)


def datatrove_files(path: Path) -> list[Path]:
    """Return the datatrove file at a path, or those in a folder; [] if there are none."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix == DATATROVE)
    return [path] if path.suffix == DATATROVE else []


def datatrove_contents(files: Sequence[Path], given: NamedTokenizer | None) -> Contents:
    """Return the contents of datatrove files, mapped and joined in order.

    Raises:
        TokenFileError: if a file is damaged or has no index, or the files name several tokenizers.
        ValueError: if the tokenizer is not given, or is not the one that a file names.
        FileNotFoundError: if a file is missing.
    """
    named = [(file, name) for file in files if (name := _tokenizer_name(file))]
    for file, name in named:
        if name != named[0][1]:
            raise TokenFileError(
                f"{file} was written with the tokenizer {name!r}, {named[0][0]} with "
                f"{named[0][1]!r}; they do not make one corpus"
            )
    if given is None:
        name = named[0][1] if named else "NAME"
        raise ValueError(
            f"{files[0]} does not hold its tokenizer; name it: --tokenizer {name} (gpt2, or a file)"
        )
    if named:
        _compare_names(*named[0], given)
    marked = [str(file) for file in files if _beside(file, LOSS).exists()]
    if marked:
        warnings.warn(f"{marked[0]}{LOSS} is not read: every token is learned", stacklevel=4)
    mapped = [_map_datatrove(file) for file in files]
    filled = [ids for ids, _ in mapped if len(ids)]
    if not filled:
        raise TokenFileError(f"{files[0]} holds no ids")
    if len({ids.dtype for ids in filled}) > 1:
        raise TokenFileError(f"{files[0].parent} has files of 16 and of 32 bits for each id")
    joined = JoinedArray(filled)
    tokens = joined.between(0, len(joined))
    if (wanted := id_type(given.vocab_size)) != tokens.dtype:
        raise ValueError(
            f"{files[0]} has ids of {8 * tokens.dtype.itemsize} bits, but a tokenizer of "
            f"{given.vocab_size} ids has {8 * wanted.itemsize}; is it another one?"
        )
    return _contents(files, tokens, _starts(mapped), given, [ends for _, ends in mapped])


def bare_contents(path: Path, given: NamedTokenizer | None, dtype: str | None) -> Contents:
    """Return the contents of a file of bare ids, mapped, as one document.

    Raises:
        ValueError: if the tokenizer or the type is missing, or the file does not hold such ids.
        FileNotFoundError: if there is no such file.
    """
    if given is None:
        raise ValueError(
            f"{path} does not hold its tokenizer; name it: --tokenizer gpt2, or a file"
        )
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"{dtype=} must be one of {', '.join(DTYPES)}")
    ids = map_ids(path, np.dtype(dtype).newbyteorder("<") if dtype else None)
    if ids.dtype.kind == "i" and (lowest := int(ids.min())) < 0:
        raise ValueError(f"{path}: {outside(lowest, given.vocab_size)}")
    return _contents([path], ids, np.zeros(1, "<u8"), given, [])


def map_ids(path: Path, dtype: np.dtype | None) -> np.ndarray:
    """Return the ids in a file, mapped: (n,).

    Args:
        path: bare ids, with llm.c's header or without one, or NumPy's `.npy`.
        dtype: the type of bare ids; None for files that state it.

    Raises:
        ValueError: if the size is not a whole number of ids, a NumPy file holds something else, or
            the type is missing.
        FileNotFoundError: if there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file of ids at {path}")
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(LLM_C_HEADER)
    if start.startswith(NUMPY_MAGIC):
        return _map_numpy(path)
    if dtype is None:
        raise ValueError(f"{path} does not name the type of its ids; add --dtype uint16 or uint32")
    offset = LLM_C_HEADER if start.startswith(LLM_C_MAGIC) else 0
    count, rest = divmod(size - offset, dtype.itemsize)
    if rest or count < 1:
        raise ValueError(
            f"{path} has {size} bytes, which is not a whole number of ids of {dtype.itemsize} "
            "bytes; are they ids of this tokenizer?"
        )
    return np.memmap(path, dtype, "r", offset, (count,))


def _map_numpy(path: Path) -> np.ndarray:
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as err:
        raise ValueError(f"{path} is damaged: {first_line(err)}") from err
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not len(ids):
        raise ValueError(f"{path} holds {ids.dtype} {ids.shape}, not one flat row of ids")
    return ids


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _tokenizer_name(path: Path) -> str:
    """Return the name of the tokenizer in a file's metadata, "" if there is none."""
    metadata = _beside(path, METADATA)
    if not metadata.is_file():
        return ""
    with open(metadata, "rb") as file:
        line = file.read(LONGEST_METADATA).decode("utf-8", "replace").partition("\n")[0]
    name, bar, size = line.rpartition("|")
    if not bar or size.strip() not in ("2", "4"):
        raise TokenFileError(f"{metadata} is damaged: it begins with {line[:40]!r}, not NAME|2")
    return "" if name == "Unknown Tokenizer" else name


def _compare_names(path: Path, name: str, given: NamedTokenizer) -> None:
    """Check that a tokenizer is the one that a file names, as far as a name can tell."""
    parts = Path(name).parts
    theirs = parts[-1].lower() in GPT2_NAMES
    if theirs != (fingerprint(given.tokenizer) == fingerprint(GPT2Tokenizer())):
        called = given.name or type(given.tokenizer).__name__
        raise ValueError(
            f"{path} was written with the tokenizer {name!r}, got {called!r}; use the first"
        )
    if not theirs and given.name and parts[-1] not in Path(given.name).parts:
        warnings.warn(
            f"{path} was written with the tokenizer {name!r}; make sure that {given.name!r} is the "
            "same one",
            stacklevel=5,
        )


def _map_datatrove(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of a file (n,) and the ends of its documents, after the cheap checks."""
    index = _beside(path, INDEX)
    if not path.is_file():
        raise FileNotFoundError(f"no file of ids at {path}")
    if not index.is_file():
        raise TokenFileError(
            f"{path} has no {index.name} beside it; copy it too, or let llm-scratch prepare "
            "--bare-ids make a token file of the ids alone"
        )
    data, found = map_bytes(path), index.stat().st_size
    if found % 8:
        raise TokenFileError(f"{index} has {found} bytes, not a multiple of 8; copy it again")
    ends = map_bytes(index).view("<u8")
    last = int(ends[-1]) if len(ends) else 0
    if len(data) not in (2 * last, 4 * last):
        raise TokenFileError(
            f"{path} has {len(data)} bytes, but its documents end after {last} ids, of 2 or 4 "
            "bytes; copy both files again"
        )
    if found <= READ_AT_ONCE:
        _check_ends(index, ends)
    return data.view("<u4" if last and len(data) == 4 * last else "<u2"), ends


def _check_ends(index: Path, ends: np.ndarray) -> None:
    for first in range(0, len(ends), BLOCK):
        block = ends[first : first + BLOCK + 1]
        if (block[1:] < block[:-1]).any():
            raise TokenFileError(f"{index} is damaged: a document ends before the previous one")


def _starts(mapped: Sequence[tuple[np.ndarray, np.ndarray]]) -> Row:
    """Return the starts of documents: each is the end of the one before."""
    arrays, added, before = [], [], 0
    for ids, ends in mapped:
        if len(ends):
            arrays += [np.zeros(1, "<u8"), ends[:-1]]
            added += [before, before]
        before += len(ids)
    starts = JoinedArray(arrays, added)
    return starts.between(0, len(starts))


def _contents(
    files: Sequence[Path],
    tokens: Row,
    documents: Row,
    given: NamedTokenizer,
    ends: Sequence[np.ndarray],
) -> Contents:
    return Contents(
        tokens=tokens,
        documents=documents,
        vocab_size=given.vocab_size,
        num_bytes=0,
        fingerprint=fingerprint(given.tokenizer),
        sha256="",
        tokenizer=lambda: given.tokenizer,
        verify=partial(_verify, files, tokens, given.vocab_size, ends),
    )


def _verify(
    files: Sequence[Path],
    tokens: Row,
    vocab_size: int,
    ends: Sequence[np.ndarray],
    progress: bool,
) -> None:
    """Check every id and every document's end, since there is no checksum.

    Raises:
        TokenFileError: if a document ends before the previous one, or an id is not in the
            vocabulary.
    """
    for file, own in zip(files, ends, strict=False):  # bare ids have no ends
        _check_ends(_beside(file, INDEX), own)
    with progress_bar(len(tokens) * tokens.dtype.itemsize, "verifying", progress) as bar:
        for first in range(0, len(tokens), BLOCK):
            block = tokens[first : first + BLOCK]
            if (highest := int(block.max())) >= vocab_size:
                raise TokenFileError(f"{files[0].parent}: {outside(highest, vocab_size)}")
            bar.update(block.nbytes)
