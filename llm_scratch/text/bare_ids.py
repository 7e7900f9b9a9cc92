"""Conversion of files of bare token ids, checked, to token files with documents and tokenizer.

`foreign_ids` lists the kinds of such files, and opens them in place.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llm_scratch.compressed import is_compressed
from llm_scratch.files import written_whole
from llm_scratch.text.foreign_ids import map_ids
from llm_scratch.text.token_file import TokenFile
from llm_scratch.text.token_header import HEADER_BYTES, id_type, looks_bare
from llm_scratch.text.token_writing import (
    TokenWriter,
    bytes_of_ids,
    check_place,
    progress_bar,
)

BLOCK = 1 << 20  # ids


def write_bare_ids(
    path: str | os.PathLike[str], files: Iterable[Path], tokenizer: Any, *, progress: bool = True
) -> TokenFile:
    """Write the ids in some files to a token file and return it, opened.

    A document ends with each `<|endoftext|>`, and with each file.

    Args:
        path: the token file to write; only an existing token file is overwritten.
        files: files of bare 16-bit ids (32-bit if the vocabulary is above 65,536), with or without
            llm.c's header, or NumPy's `.npy`.
        tokenizer: the tokenizer that made the ids.
        progress: show a progress bar if it takes longer than a second.

    Raises:
        ValueError: if a file does not consist of ids, or has one outside the vocabulary.
        FileNotFoundError: if a file is missing.
    """
    path = Path(path)
    check_place(path)
    with written_whole(path) as out:
        writer = TokenWriter(out, tokenizer)
        sizes = bytes_of_ids(tokenizer, writer.vocab_size)
        rows = [(file, map_ids(file, id_type(writer.vocab_size))) for file in files]
        with progress_bar(sum(len(ids) for _, ids in rows), "writing", progress) as bar:
            for file, ids in rows:
                writer.begin(str(file))
                for first in range(0, len(ids), BLOCK):
                    block = ids[first : first + BLOCK]
                    writer.write_ids(block, str(file))
                    writer.num_bytes += int(sizes[block].sum())
                    bar.update(len(block))
        if not writer.num_bytes:
            raise ValueError(f"there is no text to write: {path} would hold special tokens alone")
        writer.finish()
    return TokenFile(path)


def refuse_bare_ids(paths: Iterable[Path]) -> None:
    """Refuse files that seem to hold ids instead of text.

    Raises:
        ValueError: naming the first such file, and the option to use.
    """
    for path in paths:
        if path.is_file() and not is_compressed(path):
            with open(path, "rb") as file:
                start = file.read(HEADER_BYTES)
            if looks_bare(start, path.stat().st_size):
                raise ValueError(
                    f"{path} is not a text; if it holds bare ids, as nanoGPT's train.bin does, "
                    "use --bare-ids to make a token file (and --tokenizer to name their tokenizer)"
                )
