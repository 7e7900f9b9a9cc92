"""The tokenizer stored with a model's weights: saved, and verified when it is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from llm_scratch.files import read_json, read_text, write_text
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tokenizers.any_tokenizer import fingerprint
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.bpe_open import open_tokenizer_json
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer
from llm_scratch.tokenizers.simple import SimpleTokenizerV1, SimpleTokenizerV2
from llm_scratch.tokenizers.tiktoken_methods import ENDS
from llm_scratch.tokenizers.wrapped import WrappedTokenizer

LONGEST_WORDS = 64 << 20  # bytes in a vocabulary of words

# OpenAI's and Hugging Face's names for merges and vocabulary.
TEXT_FILES = (("vocab.bpe", "encoder.json"), ("merges.txt", "vocab.json"))

WORDS: dict[str, Any] = {"words-2": SimpleTokenizerV2, "words-1": SimpleTokenizerV1}


def save_tokenizer(tokenizer: Any, folder: Path) -> dict[str, Any]:
    """Save a tokenizer's file to a folder, and return its description for `load_tokenizer`.

    The description has kind, file and fingerprint. The file is named after the fingerprint, so that
    a new tokenizer never replaces one that older weights need. GPT-2's ships with this library and
    needs no file.

    Raises:
        TypeError: if it is neither a tokenizer of this library nor GPT-2's.
    """
    mark = fingerprint(tokenizer)
    file = f"tokenizer-{mark[:8]}.json"
    kind = next((kind for kind, words in WORDS.items() if isinstance(tokenizer, words)), "bpe")
    if kind in WORDS:
        content = {"keep_spaces": tokenizer.keep_spaces, "vocab": dict(tokenizer.str_to_int)}
        write_text(folder / file, json.dumps(content, ensure_ascii=False))
    elif isinstance(tokenizer, BytePairTokenizer | WrappedTokenizer):
        tokenizer.save(folder / file)
        kind = "bpe" if isinstance(tokenizer, BytePairTokenizer) else "wrapped"
        if tokenizer.ends:
            return {"kind": kind, "fingerprint": mark, "file": file, "ends": tokenizer.ends}
    elif mark == fingerprint(GPT2Tokenizer()):
        return {"kind": "gpt2", "fingerprint": mark}
    else:
        raise TypeError(
            f"a {type(tokenizer).__name__} can't be saved with a model; BytePairTokenizer, "
            "GPT2Tokenizer, WrappedTokenizer and the simple tokenizers can"
        )
    return {"kind": kind, "fingerprint": mark, "file": file}


def load_tokenizer(description: Mapping[str, Any], folder: Path) -> Any:
    """Load the tokenizer that `save_tokenizer` described.

    Raises:
        FileNotFoundError: if its file is missing.
        WeightsError: if the file is damaged, or belongs to another tokenizer.
    """
    kind, file = description.get("kind"), description.get("file", "")
    if kind != "gpt2" and not (isinstance(file, str) and re.fullmatch(r"[\w.\-]+", file)):
        raise WeightsError(folder, f"{str(file)[:60]!r} is not the name of a tokenizer's file")
    path = folder / str(file)
    if kind != "gpt2" and not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the model's tokenizer")
    try:
        tokenizer = _read(str(kind), path, description.get("ends") or {})
        mark = fingerprint(tokenizer)
    except (ValueError, TypeError, KeyError, AttributeError) as err:
        raise WeightsError(path, f"the tokenizer is damaged: {err}") from err
    if mark != description.get("fingerprint"):
        saved = str(description.get("fingerprint"))[:12]
        hint = f"holds tokenizer {mark[:12]}..., the model was saved with {saved}..."
        raise WeightsError(path, hint)
    return tokenizer


def find_tokenizer(
    folder: Path, ignore_keys: Collection[str] = ()
) -> BytePairTokenizer | WrappedTokenizer | None:
    """Load the tokenizer in a folder in Hugging Face's or OpenAI's layout; None without one.

    The tokens that begin and end a text are read from `tokenizer_config.json`.

    Raises:
        TokenizerFileError: if it is damaged, or of an unsupported kind.
    """
    if (path := folder / "tokenizer.json").is_file():
        tokenizer = open_tokenizer_json(path, ignore_keys)
        for name, token_id in _ends_in(folder, tokenizer).items():
            if getattr(tokenizer, name) is None:
                setattr(tokenizer, name, token_id)
        return tokenizer
    for merges, vocabulary in TEXT_FILES:
        if (folder / merges).is_file() and (folder / vocabulary).is_file():
            return BytePairTokenizer.from_files(folder / merges, folder / vocabulary)
    return None


def _ends_in(folder: Path, tokenizer: Any) -> dict[str, int]:
    """Return the ids of the begin and end tokens that a folder's `tokenizer_config.json` names."""
    path = folder / "tokenizer_config.json"
    config = read_json(path, most_bytes=LONGEST_WORDS) if path.is_file() else {}
    ends = {}
    for name in ENDS:
        token = config.get(name.removesuffix("_id"))
        text = token.get("content") if isinstance(token, Mapping) else token
        if text in tokenizer.special_tokens:
            ends[name] = int(tokenizer.special_tokens[text])
    return ends


def find_template(folder: Path) -> str | None:
    """Read the chat template in a folder in Hugging Face's layout; None without one.

    Of several named templates, the one called "default" is returned.

    Raises:
        FileError: if a file is damaged.
    """
    if (path := folder / "chat_template.jinja").is_file():
        return read_text(path)
    if not (path := folder / "tokenizer_config.json").is_file():
        return None
    template = read_json(path, most_bytes=LONGEST_WORDS).get("chat_template")
    if isinstance(template, list):
        named = {
            each.get("name"): each.get("template") for each in template if isinstance(each, dict)
        }
        template = named.get("default")
    return template if isinstance(template, str) else None


def _read(kind: str, path: Path, ends: Mapping[str, int]) -> Any:
    if kind == "gpt2":
        return GPT2Tokenizer()
    ends = {str(name): int(i) for name, i in ends.items()}
    if kind == "bpe":
        return BytePairTokenizer.load(path, ends)
    if kind == "wrapped":
        return WrappedTokenizer.load(path, ends)
    content = read_json(path, most_bytes=LONGEST_WORDS, error=WeightsError)
    if kind not in WORDS:
        raise ValueError(f"its kind {kind[:40]!r} is not known")
    return WORDS[kind](content["vocab"], keep_spaces=bool(content["keep_spaces"]))
