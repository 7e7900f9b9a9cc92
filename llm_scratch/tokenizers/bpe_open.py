"""One way to name a tokenizer: "gpt2", or a file in any of the formats."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from llm_scratch.files import PathLike, parse_json, read_bytes
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.bpe_files import LONGEST_FILE, file_errors, read_tokenizer_file
from llm_scratch.tokenizers.tokenizer_json_parts import is_byte_level
from llm_scratch.tokenizers.wrapped import WrappedTokenizer


def open_tokenizer(source: str | os.PathLike[str]) -> BytePairTokenizer | WrappedTokenizer:
    """Open the tokenizer that a name or a path stands for.

    Args:
        source: "gpt2", or the path of a file: saved by `BytePairTokenizer.save`, a `.tiktoken`
            file, or Hugging Face's `tokenizer.json`.

    Raises:
        TokenizerFileError: if the file is damaged or of another kind.
        FileNotFoundError: if there is no such file.
        ImportError: if it is a `tokenizer.json` for which the package `tokenizers` is missing.
    """
    if source == "gpt2":
        return BytePairTokenizer.gpt2()
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"no tokenizer at {path}: give 'gpt2' or the path of a file")
    if path.suffix.lower() == ".tiktoken":
        return BytePairTokenizer.from_tiktoken(path)
    with file_errors(path, "tokenizer file"):
        data = read_bytes(path, most_bytes=LONGEST_FILE)
    return tokenizer_of_bytes(data, path)


def open_tokenizer_json(
    path: PathLike, ignore_keys: Collection[str] = ()
) -> BytePairTokenizer | WrappedTokenizer:
    """Open the tokenizer in a `tokenizer.json`: our own byte-level BPE, or a wrapped one.

    Args:
        path: the file.
        ignore_keys: for a byte-level BPE, settings to ignore.
    """
    with file_errors(path, "tokenizer.json"):
        ours = is_byte_level(read_tokenizer_file(path))
    if ours:
        return BytePairTokenizer.from_tokenizer_json(path, ignore_keys=ignore_keys)
    return WrappedTokenizer.load(path)


def tokenizer_of_bytes(
    data: bytes, path: PathLike = "the tokenizer"
) -> BytePairTokenizer | WrappedTokenizer:
    """Open the tokenizer in the bytes of a file that `save` wrote; `path` is for errors."""
    with file_errors(path, "tokenizer file"):
        content = parse_json(path, data)
        wrapped = "model" in content and not is_byte_level(content)
    return (WrappedTokenizer if wrapped else BytePairTokenizer.from_bytes)(data, path)
