"""The data sets of the project: made by their scripts, without repetition, and right."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "data"
MADE = {
    "make_messages.py": "messages.tsv",
    "make_instructions.py": "instructions.json",
    "make_preferences.py": "preferences.json",
}
# Hosts and numbers that are set aside for examples and fiction.
HOST = re.compile(r"[\w-]+(?:\.[\w-]+)+")
RESERVED_HOST = re.compile(r"(?:.+\.)?(?:example|example\.(?:com|net|org))", re.IGNORECASE)
RESERVED_NUMBER = re.compile(r"555\d\d|07700|0?900\d{3}")
FACTORS = {
    **{("kilometers", "meters"): 1000, ("meters", "centimeters"): 100},
    **{("centimeters", "millimeters"): 10, ("kilograms", "grams"): 1000},
    **{("liters", "milliliters"): 1000, ("hours", "minutes"): 60, ("minutes", "seconds"): 60},
    **{("days", "hours"): 24, ("weeks", "days"): 7},
}


@pytest.fixture(scope="module")
def messages() -> list[tuple[str, str]]:
    lines = (DATA / "messages.tsv").read_text(encoding="utf-8").splitlines()
    return [tuple(line.split("\t")) for line in lines]


@pytest.fixture(scope="module")
def instructions() -> list[dict[str, str]]:
    return json.loads((DATA / "instructions.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def preferences() -> list[dict[str, str]]:
    return json.loads((DATA / "preferences.json").read_text(encoding="utf-8"))


BUILD = """
import runpy, sys
sys.stdout.buffer.write(runpy.run_path(sys.argv[1])["build"]().encode("utf-8"))
"""


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, marks=pytest.mark.script("-c", BUILD, DATA / script))
        for script, file in MADE.items()
    ],
)
def test_script_writes_the_file_as_it_is(file, run) -> None:
    assert run.output.encode("utf-8") == (DATA / file).read_bytes()


def test_messages_have_two_labels_in_these_numbers(messages) -> None:
    assert all(len(row) == 2 for row in messages)
    assert Counter(label for label, _ in messages) == {"ham": 1150, "spam": 380}


def test_messages_are_short_lines_without_quotation_marks(messages) -> None:
    for _, text in messages:
        assert text == text.strip() != ""
        assert '"' not in text
        assert len(text.split()) <= 40


def test_messages_do_not_repeat_each_other(messages) -> None:
    for label in ("ham", "spam"):
        seen = []
        for text in (text for found, text in messages if found == label):
            words = set(re.sub(r"[,.!?:;()+-]", " ", re.sub(r"\d+", "0", text.lower())).split())
            assert all(len(words & other) <= 0.6 * len(words | other) for other in seen), text
            seen.append(words)
    assert len({text.lower() for _, text in messages}) == len(messages)


def test_messages_name_reserved_hosts_only(messages) -> None:
    found = 0
    for _, text in messages:
        for host in HOST.findall(text):
            if re.search(r"\.[a-z]{2,}$", host, re.IGNORECASE):
                assert RESERVED_HOST.fullmatch(host), text
                found += 1
    assert found > 100


def test_messages_hold_reserved_numbers_only(messages) -> None:
    for _, text in messages:
        for number in re.findall(r"\d{5,}", text.replace(",", "")):
            assert RESERVED_NUMBER.fullmatch(number), text


def test_words_of_both_labels_overlap(messages) -> None:
    words = {label: Counter() for label in ("ham", "spam")}
    for label, text in messages:
        words[label].update(re.findall(r"[a-z]+", text.lower()))
    for word in ("prize", "free", "money", "claim", "urgent", "congratulations", "card", "mum"):
        assert words["ham"][word], word
        assert words["spam"][word], word


def test_instructions_are_1100_different_ones(instructions) -> None:
    assert len(instructions) == 1100
    assert len({(e["instruction"], e["input"]) for e in instructions}) == 1100
    for e in instructions:
        assert set(e) == {"instruction", "input", "output", "kind"}
        assert e["instruction"] == e["instruction"].strip() != ""
        assert e["output"] == e["output"].strip() != ""
        assert e["kind"]


def test_instructions_have_an_input_in_about_half(instructions) -> None:
    assert 0.4 < sum(not e["input"] for e in instructions) / 1100 < 0.6


def test_instructions_have_short_outputs(instructions, tokenizer) -> None:
    assert max(len(tokenizer.encode(e["output"])) for e in instructions) <= 40


def of_kind(instructions: list[dict[str, str]], kind: str, least: int) -> list[dict[str, str]]:
    found = [e for e in instructions if e["kind"] == kind]
    assert len(found) >= least
    return found


def test_conversions_are_right(instructions) -> None:
    for e in of_kind(instructions, "conversion", 90):
        n, large, small = re.fullmatch(
            r"Convert (\d+) (\w+) to (\w+)\.", e["instruction"]
        ).groups()  # fmt: skip
        assert e["output"] == f"{n} {large} is {int(n) * FACTORS[large, small]} {small}."


def test_letter_cases_are_right(instructions) -> None:
    for e in of_kind(instructions, "uppercase", 90):
        assert e["input"].islower()
        assert e["output"] == e["input"].upper()
    for e in of_kind(instructions, "lowercase", 40):
        assert e["input"].isupper()
        assert e["output"] == e["input"].lower()


def test_counts_are_right(instructions) -> None:
    for e in of_kind(instructions, "counting", 50):
        assert e["output"] == f"The text has {e['input'].count(' ') + 1} words."
    for e in of_kind(instructions, "letters", 30):
        word = e["instruction"].split("'")[1]
        assert e["output"] == f"'{word}' has {sum(c.isalpha() for c in word)} letters."


def test_sums_differences_and_products_are_right(instructions) -> None:
    for e in of_kind(instructions, "addition", 60):
        a, b = map(int, re.findall(r"\d+", e["instruction"]))
        assert e["output"] == f"{a} + {b} = {a + b}"
    for e in of_kind(instructions, "subtraction", 40):
        a, b = map(int, re.findall(r"\d+", e["instruction"]))
        assert e["output"] == f"{a} - {b} = {a - b}"
    for e in of_kind(instructions, "multiplication", 40):
        a, b = map(int, re.findall(r"\d+", e["instruction"]))
        assert e["output"] == f"{a} times {b} is {sum([a] * b)}."


def test_orders_are_right(instructions) -> None:
    for e in of_kind(instructions, "reversing", 40):
        assert e["output"].split() == e["input"].split()[::-1]
    for e in of_kind(instructions, "sorting", 40):
        words = e["output"].split(", ")
        assert all(a < b for a, b in zip(words, words[1:], strict=False))
        assert Counter(words) == Counter(e["input"].split(", "))
    for e in of_kind(instructions, "sorting numbers", 30):
        assert e["output"] == ", ".join(sorted(e["input"].split(", "), key=int))


def test_parities_and_comparisons_are_right(instructions) -> None:
    for e in of_kind(instructions, "parity", 30):
        n = e["instruction"].split()[1]
        assert e["output"] == f"{n} is {'even' if n[-1] in '02468' else 'odd'}."
    for e in of_kind(instructions, "comparison", 30):
        a, b = map(int, e["input"].split(" or "))
        assert int(e["output"]) - (a + b) / 2 == abs(a - b) / 2 > 0
    for e in of_kind(instructions, "first letter", 20):
        assert e["input"].startswith(e["output"])
        assert len(e["output"]) == 1


def test_answers_do_not_merely_repeat_the_input(instructions) -> None:
    for e in instructions:
        assert e["output"] != e["input"] or e["kind"].startswith("sorting"), e


def test_preferences_answer_the_exercises_in_two_manners(preferences, instructions) -> None:
    known = {(e["instruction"], e["input"]): e["output"] for e in instructions}
    assert len(preferences) == 300
    assert len({(e["instruction"], e["input"]) for e in preferences}) == 300
    for e in preferences:
        assert set(e) == {"instruction", "input", "output", "chosen", "rejected"}
        assert known[e["instruction"], e["input"]] == e["output"]
        assert e["output"] in e["chosen"]
        assert e["output"] in e["rejected"]
        assert len(e["chosen"]) > len(e["output"])
        assert e["chosen"] != e["rejected"]


def test_read_me_names_each_file_and_its_size() -> None:
    text = (DATA / "README.md").read_text(encoding="utf-8")
    for path in DATA.iterdir():
        if path.name not in ("README.md", "__pycache__"):
            assert f"`{path.name}" in text, path.name
    conversations = ("conversations.jsonl", "conversations-guanaco.jsonl")
    for file in (*MADE.values(), *conversations, "the-tide-clock.txt"):
        row = next(line for line in text.splitlines() if line.startswith(f"| `{file}`"))
        assert row.endswith(f"| {(DATA / file).stat().st_size} |")
