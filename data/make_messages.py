"""Write messages.tsv: short messages with the labels ham and spam, out of the lists in sources/.

    python data/make_messages.py

The same file comes out at every call, on every platform. Messages are put together by a small
grammar from hand-written pieces; then some are written as people type: in small letters, with
abbreviations, with a slip. A message that is too much like an earlier one of its label is left out.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SEED = 2024
COUNTS = {"ham": 1150, "spam": 380}
MOST_TURNS = {"ham": 11, "spam": 6}  # of one pattern
MOST_TRIES = 4  # in one turn
MOST_ALIKE = 0.6  # shared words of two messages, divided by all their words
MOST_WORDS = 40

SHORT_FORMS = {
    **{"you": "u", "your": "ur", "are": "r", "please": "pls", "tomorrow": "tmrw", "because": "cos"},
    **{"tonight": "2nite", "to": "2", "for": "4", "and": "n", "with": "w", "thanks": "thx"},
    **{"what": "wot", "message": "msg", "minutes": "mins", "about": "abt", "really": "rly"},
    **{"people": "ppl", "before": "b4", "great": "gr8", "later": "l8r", "know": "kno"},
}

Grammar = dict[str, list[str]]


class Chooser:
    """Choices that depend on the seed alone: only `random()` is promised to stay the same."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed).random

    def one_of(self, items: list[str]) -> str:
        """Return one of the items."""
        return items[int(self.random() * len(items))]

    def shuffled(self, items: list) -> list:
        """Return the items in another order."""
        keys = [self.random() for _ in items]
        return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]


def read_grammar(path: Path) -> Grammar:
    """Return the lists of a source file: name -> entries."""
    grammar: Grammar = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            entries = grammar.setdefault(heading[1], [])
        elif line and not line.startswith("#"):
            entries.append(line)
    return grammar


def filled(pattern: str, grammar: Grammar, chooser: Chooser) -> str:
    """Return a pattern with every slot filled; a slot that comes twice gets two entries."""
    taken: set[str] = set()

    def entry(slot: re.Match[str]) -> str:
        entries = [e for e in grammar[slot[1]] if e not in taken]
        found = chooser.one_of(entries)
        taken.add(found)
        return filled(found, grammar, chooser)

    return re.sub(r"\{(\w+)\}", entry, pattern)


def ham_pattern(core: str, grammar: Grammar, chooser: Chooser) -> str:
    """Return a pattern for a message that is not spam: its core, perhaps a greeting, an end."""
    parts = [core]
    if chooser.random() < 0.4:
        parts.insert(0, chooser.one_of(grammar["opener"]))
    if chooser.random() < 0.4:
        end = "" if core[-1] in ".?!)" else chooser.one_of([",", ".", "!", " -"])
        parts[-1] += end
        parts.append(chooser.one_of(grammar["closer"]))
    return " ".join(parts)


def spam_pattern(core: str, grammar: Grammar, chooser: Chooser) -> str:
    """Return a pattern for a spam message; the quiet ones have no shouted greeting."""
    loud = core in grammar["core"] and chooser.random() < 0.6
    return f"{{greet}} {core}" if loud else core


def as_typed(text: str, chooser: Chooser) -> str:
    """Return a text as a person in a hurry types it, or as it is."""
    if chooser.random() < 0.25:
        text = " ".join(
            SHORT_FORMS.get(word, word) if chooser.random() < 0.8 else word for word in text.split()
        )
    chance = chooser.random()
    if chance < 0.15 and not has_link(text):
        text = text.lower()
    elif chance < 0.5:
        text = text[0].upper() + text[1:]
    if chooser.random() < 0.08:
        text = with_a_slip(text, chooser)
    if chooser.random() < 0.1 and text[-1] in ".!?":
        text = text[:-1]
    return text


def with_a_slip(text: str, chooser: Chooser) -> str:
    """Return a text in which two letters of a long word have changed places."""
    words = text.split()
    long = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if not long:
        return text
    i = long[int(chooser.random() * len(long))]
    at = 1 + int(chooser.random() * (len(words[i]) - 2))
    words[i] = words[i][:at] + words[i][at + 1] + words[i][at] + words[i][at + 2 :]
    return " ".join(words)


def has_link(text: str) -> bool:
    """Return whether a text names a host."""
    return ".example" in text or "example." in text


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text in small letters; numbers count as one and the same word."""
    return frozenset(re.sub(r"\d+", "0", text.lower()).translate(NO_MARKS).split())


NO_MARKS = str.maketrans(dict.fromkeys(",.!?:;()-+", " "))


def too_similar(words: frozenset[str], others: list[frozenset[str]]) -> bool:
    """Return whether the words are mostly those of one of the others."""
    return any(len(words & other) > MOST_ALIKE * len(words | other) for other in others)


def messages_of(label: str) -> list[str]:
    """Return as many messages of a label as there should be, the hand-written ones first."""
    grammar = read_grammar(FOLDER / "sources" / f"{label}.txt")
    chooser = Chooser(SEED + len(label))
    pattern_of = {"ham": ham_pattern, "spam": spam_pattern}[label]
    found = list(grammar["whole"])
    seen = [words_of(text) for text in found]
    # A core gets several turns, and in each a few tries: some are too much like earlier ones.
    turns = [c for part in ("core", "money", "quiet") for c in grammar.get(part, [])]
    turns = chooser.shuffled(turns * MOST_TURNS[label])
    for core in turns:
        if len(found) == COUNTS[label]:
            return found
        for _ in range(MOST_TRIES):
            text = as_typed(filled(pattern_of(core, grammar, chooser), grammar, chooser), chooser)
            words = words_of(text)
            if len(text.split()) <= MOST_WORDS and not too_similar(words, seen):
                found.append(text)
                seen.append(words)
                break
    raise ValueError(f"only {len(found)} different messages with the label {label}; add patterns")


def build() -> str:
    """Return the content of messages.tsv: a label, a tab and a text in each line."""
    rows = [(label, text) for label in COUNTS for text in messages_of(label)]
    return "".join(f"{label}\t{text}\n" for label, text in Chooser(SEED).shuffled(rows))


if __name__ == "__main__":
    (FOLDER / "messages.tsv").write_bytes(build().encode("utf-8"))
