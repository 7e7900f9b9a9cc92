"""One way to name a tokenizer: "gpt2", or a file of whatever format."""

from __future__ import annotations

import os
from pathlib import Path

from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.bpe_files import file_errors, read_tokenizer_file


def open_tokenizer(source: str | os.PathLike[str]) -> BytePairTokenizer:
    """Return the tokenizer that a name or a path means.

    Args:
        source: "gpt2", or the path of a file: saved by `BytePairTokenizer.save`, a `.tiktoken`
            file, or Hugging Face's `tokenizer.json`.

    Raises:
        TokenizerFileError: if the file is damaged or of another kind.
        FileNotFoundError: if there is no such file.
    """
    if source == "gpt2":
        return BytePairTokenizer.gpt2()
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"no tokenizer at {path}: give 'gpt2' or the path of a file")
    if path.suffix.lower() == ".tiktoken":
        return BytePairTokenizer.from_tiktoken(path)
    with file_errors(path, "tokenizer file"):
        content = read_tokenizer_file(path)
    if "model" in content:
        return BytePairTokenizer.from_tokenizer_json(path)
    return BytePairTokenizer.load(path)
