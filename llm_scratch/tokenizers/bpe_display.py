"""Displays of a tokenizer at work: coloured tokens, and the merges of a word step by step."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

# Five pale backgrounds in rotation, for a terminal (256 colours) and for a web page.
_TERMINAL = (153, 157, 223, 218, 183)
_PAGE = ("#bfdcff", "#c3f0c3", "#ffdfae", "#ffc9dd", "#dccbff")


def token_text(token: bytes) -> str:
    r"""Return a token as printable text: partial characters as `\xe2`, line breaks as ↵."""
    text = token.decode("utf-8", errors="backslashreplace")
    signs = {"\n": "↵", "\r": "␍", "\t": "⇥"}
    return "".join(
        signs.get(char) or (char if char.isprintable() else ascii(char)[1:-1]) for char in text
    )


@dataclass(frozen=True)
class TokenDisplay:
    """A text split into its tokens for display, coloured in a notebook and in a terminal.

    If the output is not a terminal, or the environment variable NO_COLOR is set, bars separate the
    tokens instead.

    Args:
        ids: the id of each token.
        tokens: the bytes of each token.
    """

    ids: tuple[int, ...]
    tokens: tuple[bytes, ...]

    def __str__(self) -> str:
        return self.coloured() if terminal_has_colours() else self.plain()

    __repr__ = __str__

    def plain(self) -> str:
        """Return two lines: the tokens between bars, and their ids."""
        return "|".join(map(token_text, self.tokens)) + "\n" + " ".join(map(str, self.ids))

    def coloured(self) -> str:
        """Return one line for a terminal: each token on its colour, followed by its id."""
        cells = []
        for i, (token_id, token) in enumerate(zip(self.ids, self.tokens, strict=True)):
            background = f"\x1b[30;48;5;{_TERMINAL[i % len(_TERMINAL)]}m"
            cells.append(f"{background}{token_text(token)}\x1b[0m\x1b[2m{token_id}\x1b[0m")
        return " ".join(cells)

    def _repr_html_(self) -> str:
        import html

        cells = []
        for i, (token_id, token) in enumerate(zip(self.ids, self.tokens, strict=True)):
            text = html.escape(token_text(token))
            cells.append(
                f'<span style="background:{_PAGE[i % len(_PAGE)]};color:#222;padding:1px 0;'
                f'border-radius:3px" title="id {token_id}: {html.escape(repr(token))}">{text}'
                f'<sub style="color:#666">{token_id}</sub></span>'
                # A line break in the text also breaks the line here.
                + ("<br>" if token.endswith(b"\n") else "")
            )
        return (
            '<div style="font-family:monospace;line-height:2;white-space:pre-wrap">'
            + "<wbr>".join(cells)
            + "</div>"
        )


def terminal_has_colours() -> bool:
    """Return whether standard output is a terminal that shows colours, and NO_COLOR is not set."""
    if "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        return False
    return bool(getattr(sys.stdout, "isatty", lambda: False)())


@dataclass(frozen=True)
class MergeStep:
    """One step on the way from the bytes of a word to its tokens.

    Args:
        tokens: the tokens of the word after the step.
        merged: the two tokens that this step joined, None at the start.
        token_id: the id of the token that they became, None at the start.
    """

    tokens: tuple[bytes, ...]
    merged: tuple[bytes, bytes] | None = None
    token_id: int | None = None

    def __str__(self) -> str:
        line = "|".join(map(token_text, self.tokens))
        if self.merged is None:
            return line
        left, right = map(token_text, self.merged)
        return f"{line}   ({left!r} + {right!r} = token {self.token_id})"


def merge_steps(
    pieces: Iterable[str], merges: Iterable[tuple[bytes, bytes]], ids: Mapping[bytes, int]
) -> Iterator[MergeStep]:
    """Yield the steps from each piece's bytes to its tokens, one merge per step.

    Args:
        pieces: the pieces of a text.
        merges: the merges in the order of learning.
        ids: the id of each token.
    """
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    for piece in pieces:
        tokens = [bytes([byte]) for byte in piece.encode("utf-8")]
        yield MergeStep(tuple(tokens))
        while pairs := [*zip(tokens, tokens[1:], strict=False)]:
            first = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
            if first not in ranks:
                break
            at = pairs.index(first)
            tokens[at : at + 2] = [first[0] + first[1]]
            yield MergeStep(tuple(tokens), first, ids[tokens[at]])
