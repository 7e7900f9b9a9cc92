"""Write instructions.json: 1,100 exercises, by rule or out of the tables in sources/.

    python data/make_instructions.py

The same file comes out at every call, on every platform. Each entry has an instruction, an input
(often empty), an output, and the kind of exercise. What can be computed is computed here; the rest
is written by hand.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SEED = 1100
COUNT = 1100

Entry = dict[str, str]

ADJECTIVES = "red green blue small big old new cold warm dark quiet happy".split()
NOUNS = "apple boat cat door fish garden house lamp moon river stone tree".split()
UNITS = [
    ("kilometers", "meters", 1000),
    ("meters", "centimeters", 100),
    ("centimeters", "millimeters", 10),
    ("kilograms", "grams", 1000),
    ("liters", "milliliters", 1000),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("days", "hours", 24),
    ("weeks", "days", 7),
]


def conversions() -> Iterator[Entry]:
    """Yield conversions between units, of small whole numbers."""
    for large, small, factor in UNITS:
        for n in range(2, 13):
            yield entry(f"Convert {n} {large} to {small}.", f"{n} {large} is {n * factor} {small}.")


def upper_cases() -> Iterator[Entry]:
    """Yield texts of two words to be written in upper case."""
    for text in two_words():
        yield entry("Write the text in upper case.", text.upper(), text)


def lower_cases() -> Iterator[Entry]:
    """Yield texts of two words to be written in lower case."""
    for text in two_words():
        yield entry("Write the text in lower case.", text, text.upper())


def two_words() -> Iterator[str]:
    """Yield each adjective with each noun."""
    for adjective in ADJECTIVES:
        for noun in NOUNS:
            yield f"{adjective} {noun}"


def word_counts() -> Iterator[Entry]:
    """Yield texts of two to six words to be counted."""
    for i, first in enumerate(NOUNS):
        for n in range(2, 7):
            rest = [(ADJECTIVES + NOUNS)[(5 * i + 7 * k) % 24] for k in range(1, n)]
            text = " ".join([first, *rest])
            yield entry("How many words are in the text?", f"The text has {n} words.", text)


def letter_counts() -> Iterator[Entry]:
    """Yield words whose letters are to be counted."""
    for word in (ADJECTIVES + NOUNS) + "sun sea bread cloud flower bridge window summer".split():
        yield entry(
            f"How many letters are in the word '{word}'?", f"'{word}' has {len(word)} letters."
        )


def first_letters() -> Iterator[Entry]:
    """Yield words whose first letter is asked for."""
    for word in ADJECTIVES + NOUNS:
        yield entry("What is the first letter of the word?", word[0], word)


def additions() -> Iterator[Entry]:
    """Yield sums of two numbers up to 12."""
    for a in range(1, 13):
        for b in range(1, 13):
            yield entry(f"What is {a} + {b}?", f"{a} + {b} = {a + b}")


def subtractions() -> Iterator[Entry]:
    """Yield differences of two numbers up to 12, none below zero."""
    for a in range(2, 13):
        for b in range(1, a):
            yield entry(f"What is {a} - {b}?", f"{a} - {b} = {a - b}")


def multiplications() -> Iterator[Entry]:
    """Yield products of two numbers up to 10."""
    for a in range(2, 11):
        for b in range(2, 11):
            yield entry(f"What is {a} times {b}?", f"{a} times {b} is {a * b}.")


def reversals() -> Iterator[Entry]:
    """Yield texts of two or three words to be read from the end."""
    for i, first in enumerate(NOUNS):
        for step in range(1, 6):
            words = [first, NOUNS[(i + step) % 12], NOUNS[(i + 2 * step + 1) % 12]]
            words = words[: 2 + step % 2]
            yield entry(
                "Reverse the order of the words.", " ".join(reversed(words)), " ".join(words)
            )


def sortings() -> Iterator[Entry]:
    """Yield three words each to be put in alphabetical order."""
    for words in permutations(NOUNS, 3):
        yield entry(
            "Sort the words in alphabetical order.", ", ".join(sorted(words)), ", ".join(words)
        )


def number_sortings() -> Iterator[Entry]:
    """Yield three numbers each to be put in order."""
    for numbers in permutations(range(1, 10), 3):
        yield entry(
            "Sort the numbers from smallest to largest.",
            ", ".join(map(str, sorted(numbers))),
            ", ".join(map(str, numbers)),
        )


def parities() -> Iterator[Entry]:
    """Yield numbers that are even or odd."""
    for n in range(1, 61):
        yield entry(f"Is {n} even or odd?", f"{n} is {'odd' if n % 2 else 'even'}.")


def comparisons() -> Iterator[Entry]:
    """Yield pairs of numbers of which the larger is asked for."""
    for a in range(1, 21):
        for b in range(1, 21):
            if a != b:
                yield entry("Which number is larger?", str(max(a, b)), f"{a} or {b}")


# Kind of exercise, what yields all of it, how many are drawn.
RULES: list[tuple[str, Callable[[], Iterator[Entry]], int]] = [
    ("conversion", conversions, 95),
    ("uppercase", upper_cases, 95),
    ("lowercase", lower_cases, 50),
    ("counting", word_counts, 60),
    ("letters", letter_counts, 32),
    ("first letter", first_letters, 24),
    ("addition", additions, 82),
    ("subtraction", subtractions, 40),
    ("multiplication", multiplications, 46),
    ("reversing", reversals, 40),
    ("sorting", sortings, 40),
    ("sorting numbers", number_sortings, 30),
    ("parity", parities, 30),
    ("comparison", comparisons, 30),
]


def entry(instruction: str, output: str, text: str = "") -> Entry:
    """Return an exercise without its kind."""
    return {"instruction": instruction, "input": text, "output": output}


def read_tables(path: Path) -> Iterator[Entry]:
    """Yield the exercises of a file of tables: patterns, and rows that fill them."""
    kind, patterns = "", {"input": ""}
    for line in path.read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"\[([\w ]+)\]", line):
            kind, patterns = heading[1], {"input": ""}
        elif pattern := re.fullmatch(r"(instruction|input|output): (.*)", line):
            patterns[pattern[1]] = pattern[2]
        elif line and not line.startswith("#"):
            fields = [field.replace("\\n", "\n") for field in line.split(" | ")]
            filled = {
                key: fill(patterns[key], fields) for key in ("instruction", "input", "output")
            }
            yield {**filled, "kind": kind}


def fill(pattern: str, fields: list[str]) -> str:
    """Return a pattern with {1}, {2}, ... replaced by the fields."""
    return re.sub(r"\{(\d)\}", lambda slot: fields[int(slot[1]) - 1], pattern)


def shuffled(items: list[Entry], seed: int) -> list[Entry]:
    """Return the items in an order that depends on the seed alone."""
    draw = random.Random(seed).random
    keys = [draw() for _ in items]
    return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]


def entries() -> list[Entry]:
    """Return all exercises, those of each kind spread over the whole list."""
    found = list(read_tables(FOLDER / "sources" / "instructions.txt"))
    for number, (kind, all_of, count) in enumerate(RULES):
        drawn = shuffled(list(all_of()), SEED + number)[:count]
        found += [{**exercise, "kind": kind} for exercise in drawn]
    if len(found) != COUNT or len({(e["instruction"], e["input"]) for e in found}) != COUNT:
        raise ValueError(
            f"{len(found)} exercises, some perhaps twice; {COUNT} different are needed"
        )
    return shuffled(found, SEED)


def build() -> str:
    """Return the content of instructions.json, one entry per line."""
    lines = ",\n".join(json.dumps(e, ensure_ascii=False) for e in entries())
    return f"[\n{lines}\n]\n"


if __name__ == "__main__":
    (FOLDER / "instructions.json").write_bytes(build().encode("utf-8"))
