"""Formulas as text: a number is computed from the formula that is printed beside it.

A formula is a sum of products, "2 e N C + L (8 N + a N F)"; its letters stand for numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

TOKEN = re.compile(r"\d+|[A-Za-z]\w*|[+/()-]")

LEGEND = {
    "B": "rows of a micro batch",
    "T": "tokens of a row",
    "N": "B T, tokens of a micro batch",
    "C": "width of the model",
    "L": "blocks",
    "H": "heads",
    "G": "heads with keys and values of their own",
    "D": "width of a head",
    "F": "width inside the feed-forward network",
    "V": "vocabulary",
    "W": "V, rounded up to 64",
    "K": "tokens whose logits exist at a time",
    "E": "experts",
    "k": "experts of a token",
    "r": "rank of LoRA",
    "P": "parameters",
    "Q": "parameters that learn",
    "M": "parameters that Muon trains",
    "S": "parameters that one process holds",
    "U": "parameters that learn, of those that one process holds",
    "O": "parameters whose state one process holds",
    "X": "numbers in the matrices of a block",
    "Y": "parameters outside the blocks",
    "Z": "parameters of a block",
    "A": "micro batches of a step",
    "R": "processes",
    "l": "blocks that keep everything at that moment",
    "c": "blocks of which the input is kept at that moment",
    "j": "frozen blocks that keep everything at that moment",
    "w": "blocks whose weights are kept in a bytes",
    "m": "blocks that are whole at that moment",
    "q": "numbers whose gradients are there at that moment",
    "u": "numbers whose gradients are divided by then",
    "t": "numbers of the block's matrices that have gradients by then",
    "p": "bytes of a parameter",
    "h": "bytes of a gathered number of a block",
    "a": "bytes of a computed number",
    "e": "bytes of a number between blocks",
    "s": "bytes of an attention score",
    "g": "bytes of a number in the gradient of the head, while it is summed up",
}
"""The meanings of the letters in formulas."""


@dataclass(frozen=True)
class Term:
    """One use of memory.

    Args:
        name: what the memory holds.
        kind: parameters, gathered, gradients, optimizer, activations, temporary or other.
        formula: the formula of the bytes, in the letters of `LEGEND`.
        bytes: the number of bytes.
    """

    name: str
    kind: str
    formula: str
    bytes: int


@dataclass(frozen=True)
class Peak:
    """The memory held at one moment of a step.

    Args:
        moment: the name of the moment.
        terms: the terms that add up to it.
    """

    moment: str
    terms: tuple[Term, ...] = field(repr=False)

    @property
    def bytes(self) -> int:
        """The sum of all terms in bytes."""
        return sum(term.bytes for term in self.terms)

    def of_kind(self, kind: str) -> int:
        """Return the bytes of one kind."""
        return sum(term.bytes for term in self.terms if term.kind == kind)


class Letters:
    """Numbers by letter, with which formulas are evaluated."""

    def __init__(self, numbers: Mapping[str, int]) -> None:
        self.numbers = dict(numbers)

    def value(self, formula: str) -> int:
        """Return the value of a formula, rounded down.

        Raises:
            ValueError: if the text is not a formula, or a letter has no number.
        """
        tokens = TOKEN.findall(formula)
        total, rest = self._sum(tokens)
        if rest:
            raise ValueError(f"{formula!r} is not a formula: {' '.join(rest)!r} is left over")
        return int(total)

    def term(self, name: str, kind: str, formula: str) -> Term:
        """Return a term with this formula and its value."""
        return Term(name, kind, formula, self.value(formula))

    def _sum(self, tokens: list[str]) -> tuple[float, list[str]]:
        total, tokens = self._product(tokens)
        while tokens and tokens[0] in "+-":
            more, rest = self._product(tokens[1:])
            total, tokens = (total + more if tokens[0] == "+" else total - more), rest
        return total, tokens

    def _product(self, tokens: list[str]) -> tuple[float, list[str]]:
        product, tokens = self._factor(tokens)
        while tokens and tokens[0] not in "+-)":
            divides = tokens[0] == "/"
            factor, tokens = self._factor(tokens[divides:])
            product = product / factor if divides else product * factor
        return product, tokens

    def _factor(self, tokens: list[str]) -> tuple[float, list[str]]:
        if not tokens or tokens[0] in ")+-/":
            raise ValueError(f"a number or letter is missing before {' '.join(tokens)!r}")
        first, rest = tokens[0], tokens[1:]
        if first == "(":
            total, rest = self._sum(rest)
            if rest[:1] != [")"]:
                raise ValueError("a formula lacks a closing bracket")
            return total, rest[1:]
        if first.isdigit():
            return int(first), rest
        if first not in self.numbers:
            raise ValueError(f"the letter {first} has no number here")
        return self.numbers[first], rest


def letters_in(terms: Iterable[Term]) -> list[str]:
    """Return the letters in the formulas of terms, in the order of `LEGEND`."""
    used = {token for term in terms for token in TOKEN.findall(term.formula)}
    return [letter for letter in LEGEND if letter in used]
