"""The split of a text into pieces, which happens before any merge.

Byte-pair encoding never merges across pieces. GPT-2's pattern splits a text into words, numbers and
punctuation, each with the one space before it, so that no token ever spans two words.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import regex

from llm_scratch.compressed import check_readable
from llm_scratch.data_files import file_texts, holds_rows
from llm_scratch.files import Span, open_text
from llm_scratch.tokenizers.any_tokenizer import any_of, check_surrogates
from llm_scratch.tokenizers.gpt2 import GPT2_PATTERN
from llm_scratch.tokenizers.known_patterns import ASCII_FORMS

Texts = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

# Unicode grows, but whether a character is a letter must not depend on the version of a library:
# GPT-2's ids, as tiktoken computes them, follow Unicode 16. These are the letters and digits that
# were added later, which `regex` may already know. They are split like any unknown character.
_LATER_BELOW = (
    "\u0558\u058b-\u058c\u088f\u0c5c\u0cdc\u208f\u209d-\u209f\ua7ce-\ua7cf\ua7d2\ua7d4\ua7dd-\ua7f1"
    "\uab6c-\uab6d"
)
_LATER_ABOVE = (
    "\U000107bb-\U000107bf\U00010940-\U00010959\U00010ec5-\U00010eee\U00011b0a\U00011db0-\U00011df1"
    "\U0001246f\U00012475-\U0001247f\U00012550-\U00012686\U00016ea0-\U00016ed3\U00016ff2-\U00016ff6"
    "\U000187f8-\U000187ff\U00018cd6-\U00018cda\U00018d09-\U000191d2\U0001b123-\U0001b128\U0001b168"
    "\U0001d6a6\U0001df1f-\U0001df24\U0001df2b-\U0001dfff\U0001e6c0-\U0001e6ff\U0002b73a-\U0002b73f"
    "\U0002b81e\U0002cea2-\U0002cead\U000323b0-\U0003fc3f"
)
_LATER = re.compile(f"[{_LATER_BELOW}{_LATER_ABOVE}]")
_PERHAPS_LATER = re.compile(f"[{_LATER_BELOW}{_LATER_ABOVE[0]}-{_LATER_ABOVE[-1]}]")  # found faster
_UNKNOWN = "\uffff"

# White space after anything else always begins a new piece of GPT-2's pattern, so a text cut
# before it splits into the same pieces. (A text cut *after* a line break would not.)
_CUT = regex.compile(r"\S(?=\s)")
_LAST_CUT = regex.compile(r"\S(?=\s)", regex.REVERSE)

BLOCK = 1 << 15  # characters: long enough to be fast, short enough that most blocks are ASCII


@lru_cache(maxsize=32)
def piece_finder(pattern: str) -> Callable[[str], list[str]]:
    """Return the function that splits a text into pieces by a pattern: str -> list of str.

    Raises:
        ValueError: if the pattern is not a regular expression.
    """
    try:
        compiled = regex.compile(pattern)
    except regex.error as err:
        raise ValueError(f"pattern {pattern!r} is not a regular expression: {err}") from err
    find_all = partial(_whole_matches, compiled) if compiled.groups else compiled.findall
    find_in_ascii = find_all
    if pattern in ASCII_FORMS:
        find_in_ascii = re.compile(ASCII_FORMS[pattern], re.ASCII).findall

    def find(text: str) -> list[str]:
        if text.isascii():
            return find_in_ascii(text)
        if _PERHAPS_LATER.search(text) and _LATER.search(text):
            return [text[start:end] for start, end in match_spans(text, pattern)]
        return find_all(text)

    return find


def match_spans(text: str, pattern: str) -> Iterator[tuple[int, int]]:
    """Yield where each match of a pattern begins and ends."""
    known = _LATER.sub(_UNKNOWN, text) if not text.isascii() else text
    return (match.span() for match in regex.finditer(pattern, known))


def _whole_matches(compiled: regex.Pattern[str], text: str) -> list[str]:
    """Return the matches of the whole pattern; `findall` would return the groups in it."""
    return [match.group() for match in compiled.finditer(text)]


def find_pieces(text: str, pattern: str = GPT2_PATTERN) -> list[str]:
    """Split a text into pieces: str -> list of str whose concatenation is the text.

    Raises:
        ValueError: if the pattern leaves out part of the text.
    """
    pieces = piece_finder(pattern)(text)
    if pattern == GPT2_PATTERN:
        return pieces
    pieces = [piece for piece in pieces if piece]
    if (kept := sum(map(len, pieces))) != len(text):
        raise ValueError(
            f"the pattern {pattern!r} matches {kept} of {len(text)} characters and would lose the "
            r"others; let it match every character, for example by adding '|\s+|.' at its end"
        )
    return pieces


def text_blocks(text: str, pattern: str, size: int = BLOCK) -> Iterator[str]:
    """Yield a long text in blocks of about `size` characters that split into the same pieces.

    Only GPT-2's pattern is known to allow this; for another pattern, the text is one block.
    """
    if pattern == GPT2_PATTERN:
        return blocks_before(_CUT, text, size)
    return iter((text,))


def blocks_before(cut: Any, text: str, size: int) -> Iterator[str]:
    """Yield a text in blocks of about `size` characters that end where a pattern matches."""
    start = 0
    while len(text) - start > size:
        if not (found := cut.search(text, start + size - 1)):
            break
        yield text[start : found.end()]
        start = found.end()
    yield text[start:]


class Text(NamedTuple):
    """A text, a text file or a span of one, with the name that errors use: its number and place."""

    name: str
    source: str | Path | Span


def text_sources(texts: Any) -> Iterable[str | Path]:
    """Return the texts and paths in one text, one path, or any number of either.

    A folder stands for the files in it whose names end in .txt, in any case. If the texts are a
    sequence, a missing file is an error at once.

    Raises:
        TypeError: if it is anything else.
        FileNotFoundError: if a file is missing.
        ValueError: if a folder has no text.
    """
    if isinstance(texts, bytes) or not isinstance(texts, (str, os.PathLike, Iterable)):
        raise TypeError(f"texts must be a str, a path or several, got {type(texts).__name__}")
    if isinstance(texts, (str, os.PathLike)):
        texts = (texts,)
    found = (source for text in texts for source in _sources(text))
    return list(found) if isinstance(texts, Sequence) else found


def _sources(text: Any) -> list[str | Path]:
    if isinstance(text, os.PathLike):
        path = Path(text)
        if not path.is_dir():
            if not path.is_file():
                raise FileNotFoundError(f"no text at {path}")
            check_readable(path)
            return [path]
        files = (file for file in sorted(path.rglob("*")) if file.suffix.lower() == ".txt")
        if found := [file for file in files if file.is_file()]:
            return list(found)
        raise ValueError(f"the folder {path} has no .txt file; name its files one by one")
    if not isinstance(text, str):
        raise TypeError(f"a text must be a str or a path, got {type(text).__name__}")
    if len(text) < 256 and os.path.isfile(text):
        warnings.warn(
            f"{text!r} is used as a text; to read the file of that name, pass Path({text!r})",
            stacklevel=6,
        )
    return [text]


def each_text(sources: Iterable[str | Path | Span], field: str = "text") -> Iterator[Text]:
    """Yield each text and text file, and one field of each row of a file of rows (JSON, CSV, ...).

    Args:
        sources: see `text_sources`; of a large file, spans may come in its place.
        field: what the text of a row is called.

    Raises:
        ValueError: naming the text, or the file and row, with a lone surrogate or without text.
    """
    number = 0
    for source in sources:
        rows: Iterable[tuple[str, str | Path | Span]]
        if isinstance(source, str):
            check_surrogates(source, f"text {number + 1}: ")
            rows = [("", source)]
        elif holds_rows(path := source.path if isinstance(source, Span) else source):
            rows = ((f" ({where})", text) for where, text in file_texts(source, field))
        else:
            rows = [(f" ({path})", source)]
        for where, text in rows:
            number += 1
            yield Text(f"text {number}{where}", text)


def blocks_of(source: str | Path | Span, whole: bool, size: int = 1 << 20) -> Iterator[str]:
    """Yield a text, or a file's text, in blocks that split into the same pieces as the whole.

    Args:
        source: the text, the path of its file, or a span of that file.
        whole: yield everything at once, as needed if `can_be_cut` is false.
        size: the approximate number of characters per block.
    """
    if isinstance(source, str):
        yield from [source] if whole else text_blocks(source, GPT2_PATTERN, size)
        return
    with open_text(source) as file:
        yield from file_blocks(file, whole, size)


def can_be_cut(pattern: Any, special_tokens: Iterable[str]) -> bool:
    """Return whether a text may be cut into blocks, which only GPT-2's pattern is known to allow.

    A cut before white space could also split a special token that contains some.
    """
    blank = any(char.isspace() for name in special_tokens for char in name)
    return pattern == GPT2_PATTERN and not blank


def file_blocks(file: TextIO, whole: bool = False, size: int = 1 << 20) -> Iterator[str]:
    """Yield an open text file in blocks that split into the same pieces as the whole.

    Args:
        file: the file, opened for reading text.
        whole: yield everything at once, for patterns or special tokens that a cut could break.
        size: the number of characters to read at a time.
    """
    if whole:
        yield file.read()
        return
    held: list[str] = []  # the text read since the last cut
    while chunk := file.read(size):
        if found := _LAST_CUT.search(chunk):
            yield "".join([*held, chunk[: found.end()]])
            held = [chunk[found.end() :]]
        else:
            held.append(chunk)
    yield "".join(held)


def split_specials(text: str, special_tokens: Collection[str]) -> list[str]:
    """Split a text at its special tokens: [text, special, text, special, ..., text].

    If one special token begins with another, the longer one is taken.
    """
    return any_of(frozenset(special_tokens)).split(text) if special_tokens else [text]
