"""The language of the project: the phrases and moods of `docs/style.md` that a program can find."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = "docs/style.md"
OWN = "tests/project/test_language.py"

# "1 token a step", "a file a chapter": a count, a noun, and the unit that it is counted by.
UNITS = (
    "batch|chapter|character|class|conversation|device|entry|epoch|file|folder|group|head|host|key"
    "|layer|line|matrix|message|model|number|page|paragraph|piece|process|prompt|question|rank"
    "|request|row|script|sequence|step|tensor|test|text|token|turn|word"
)
BETWEEN = (
    "a|after|an|and|answering|are|as|at|become|becomes|before|being|by|call|calls|cutting|divides|each"
    "|first|for|from|get|gets|given|gives|has|have|holds|if|in|inside|into|is|key|like|made|make|makes"
    "|mark|needs|not|of|on|once|or|over|per|reads|see|so|such|than|that|then|time|times|to|toward"
    "|under|using|via|was|what|when|where|which|with|without|within"
)
COMPARED = (
    "better|bigger|great|cheaper|closer|different|earlier|easier|faster|fewer|further|greater|higher"
    "|larger|later|less|longer|lower|more|one|shorter|slower|smaller|worse"
)

# What stands in the page's table -> how it is found.
WORST = {
    "hangs on": r"\bhang(s|ing)? on\b(?! to\b)",
    "is no": rf"(?<!\bthere )\b(is|are|was|were) no (?!({COMPARED})\b)\w",
    "a prompt a line": (
        rf"(\b(an?|one|two|each|\d+)|\{{\}}) (?!({BETWEEN})\b)[a-z-]+(?<!ing) an? ({UNITS})\b(?!-)"
    ),
    "tokens a second": (r"\b(?!(is|as|has|was|its|this|takes|needs|costs)\b)[a-z]+s a second\b"),
    "to the bit": r"\bto the (last )?bit\b",
    "at the most": r"\bat the (most|least)\b(?! \w+ly\b)",
    "anew": r"\banew\b",
    "and its like": r"\band (its|the|their) like\b",
    "in one go": r"\bin one go\b",
    "what it is that": r"\b(what|who) it is that\b",
    "sees to it": r"\bse(e|es|en|eing) to it\b",
    "whole or not at all": r"\bwhole or not at all\b",
    "stand in": r"\bstands? in\b(?! for\b)",
    "mistake in use": r"\bmistakes? in use\b",
    "nothing else than": r"\b(nothing|none|no other) (else )?than\b",
    "an own": r"\ban own\b",
}

# First words that no imperative has: articles, pronouns, question words, numbers.
NOT_VERBS = frozenset(
    "a after all an and any as at before both by each eight every everything for four from how if"
    " in it its likeliest many memory most no none nothing of on one other several some such text"
    " that the their there these they this those three to two up what whatever when where whether"
    " which who whoever whose why with without".split()
)
VERBS_IN_S_OR_ING = frozenset("address bias bring compress discuss express focus guess pass"
                              " possess press process toss".split())  # fmt: skip
NOT_NOUNS = frozenset("how return returns what who whose why".split())


def files() -> list[Path]:
    """Every file whose prose is held to the page; the page and this file list the phrases."""
    found = [ROOT / name for name in ("README.md", "CHANGELOG.md")]
    found += [path for folder in ("docs", "data") for path in (ROOT / folder).rglob("*.md")]
    found += [
        path
        for folder in ("llm_scratch", "chapters", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    ]
    return sorted(path for path in found if name_of(path) not in (PAGE, OWN))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def said_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The strings of a file, with their lines; a formatted value is "{}"."""
    if isinstance(tree, ast.JoinedStr):
        parts = [str(v.value) if isinstance(v, ast.Constant) else "{}" for v in tree.values]
        yield tree.lineno, "".join(parts)
        return
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        yield tree.lineno, tree.value
    for node in ast.iter_child_nodes(tree):
        yield from said_in(node)


def comments_in(text: str) -> Iterator[tuple[int, str]]:
    """The comments of a file; those on lines that follow each other are one."""
    begun, last, words = 0, -1, []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            line = token.start[0]
            if line != last + 1 and words:
                yield begun, " ".join(words)
                words = []
            begun = begun if words else line
            last = line
            words.append(token.string.lstrip("# "))
    if words:
        yield begun, " ".join(words)


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        for paragraph in re.finditer(r"(?:.+\n?)+", text):
            yield text.count("\n", 0, paragraph.start()) + 1, paragraph[0]
    else:
        yield from said_in(parse(path))
        yield from comments_in(text)


def phrases_in(text: str) -> list[str]:
    """The phrases of `WORST` in a text, whatever its line breaks."""
    flat = re.sub(r"\s+", " ", text)
    return [
        found[0]
        for pattern in WORST.values()
        for found in re.finditer(pattern, flat, re.IGNORECASE)
    ]


def is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(made).endswith("property") for made in node.decorator_list)


def wrong_start(node: ast.AST) -> str:
    """The first word of a docstring where it has the wrong mood, else ""."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return ""
    words = (ast.get_docstring(node) or "").split()
    if not words:
        return ""
    word = words[0].strip(",.:;").lower()
    if isinstance(node, ast.ClassDef) or is_property(node):
        return words[0] if word in NOT_NOUNS else ""
    ends = word.endswith(("s", "ing")) and word not in VERBS_IN_S_OR_ING
    return words[0] if ends or word in NOT_VERBS or not word.isalpha() else ""


def test_the_prose_has_none_of_the_worst_phrases():
    found = [
        f"{name_of(path)}:{line}: {phrase}"
        for path in files()
        for line, text in prose_of(path)
        for phrase in phrases_in(text)
    ]
    assert not found, f"see {PAGE} for what to write instead:\n" + "\n".join(found)


def test_docstrings_of_functions_begin_with_a_verb_and_those_of_classes_with_a_noun():
    found = [
        f"{name_of(path)}:{node.lineno}: {node.name}: {word}"
        for path in files()
        if path.suffix == ".py" and not name_of(path).startswith(("tests/", "benchmarks/"))
        for node in ast.walk(parse(path))
        if (word := wrong_start(node))
    ]
    assert not found, f"see {PAGE} for how docstrings begin:\n" + "\n".join(found)


def test_the_page_lists_every_phrase_that_is_searched_for():
    table = (ROOT / PAGE).read_text(encoding="utf-8").partition("## Preferred words")[2]
    assert not [phrase for phrase in WORST if phrase not in table]


@pytest.mark.parametrize(
    "text",
    [
        "it hangs on the\nbatch",
        "this is no token file",
        "A prompt a line",
        "8 rows a step",
        "{} bytes a token",
        "20 tokens a second",
        "equal to the bit",
        "16 at the most",
        "written whole or not at all",
    ],
)
def test_a_phrase_is_found_whatever_its_case_and_line_breaks(text):
    assert phrases_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "hang on to it",
        "there is no such file",
        "it is no longer read",
        "the mean of a row",
        "one token per step",
        "this is a second try",
        "stand in for what would open a window",
    ],
)
def test_good_english_is_left_alone(text):
    assert not phrases_in(text)


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ('def f():\n    """The rows."""', "The"),
        ('def f():\n    """Returns the rows."""', "Returns"),
        ('def f():\n    """Scaling them up."""', "Scaling"),
        ('def f():\n    """Return the rows."""', ""),
        ('def f():\n    """Pass them on."""', ""),
        ('@property\ndef f():\n    """The rows."""', ""),
        ('@property\ndef f():\n    """How many rows."""', "How"),
        ('class C:\n    """What comes."""', "What"),
        ('class C:\n    """A row."""', ""),
    ],
)
def test_the_mood_of_a_docstring_is_told_by_its_first_word(code, word):
    assert wrong_start(ast.parse(code).body[0]) == word
