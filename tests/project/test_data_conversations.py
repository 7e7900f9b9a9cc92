"""The conversations of the project: well-formed, different, right, and the same in both forms."""

from __future__ import annotations

import contextlib
import io
import json
import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "data"
COUNT, WITH_SYSTEM = 334, 114
TURNS = {1: 120, 2: 83, 3: 66, 4: 32, 5: 19, 6: 14}
# What some chat format takes for its own marks.
MARKS = re.compile(
    r"<\||\|>|\[/?INST\]|</?s>|<</?SYS>>|### ?(?:Human|Assistant|Instruction|Input|Response)\b"
    r"|</?think>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>|\[/?SYSTEM_PROMPT\]|\{\{|\}\}"
    r"|^(?:User|Human|Assistant|Bot|System|USER|ASSISTANT): ",
    re.MULTILINE,
)
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
PRINTS = re.compile(r"(?:This|It) prints ((?:`[^`]+`(?:, | and then | and )?)+)")
NUMBER = r"\d[\d,]*(?:\.\d+)?"
SUM = re.compile(rf"(?<![\w./(^])({NUMBER}(?: [-+x/] {NUMBER})+) = (?:about )?({NUMBER})")

Messages = list[dict[str, str]]


@pytest.fixture(scope="module")
def conversations() -> list[Messages]:
    lines = (DATA / "conversations.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    rows = [json.loads(line) for line in lines]
    assert all(set(row) == {"messages"} for row in rows)
    return [row["messages"] for row in rows]


def said(messages: Messages, role: str) -> list[str]:
    return [message["content"] for message in messages if message["role"] == role]


@pytest.fixture(scope="module")
def answers(conversations) -> list[str]:
    return [answer for messages in conversations for answer in said(messages, "assistant")]


def test_conversations_are_as_many_as_the_page_says(conversations) -> None:
    assert len(conversations) == COUNT
    assert Counter(len(said(messages, "user")) for messages in conversations) == TURNS
    assert sum(messages[0]["role"] == "system" for messages in conversations) == WITH_SYSTEM
    page = (DATA / "README.md").read_text(encoding="utf-8")
    turns = ", ".join(map(str, TURNS.values()))
    assert f"{COUNT} conversations of one to six turns ({turns})" in page
    assert f"{WITH_SYSTEM} of them with a system text" in page
    assert f"the {COUNT - WITH_SYSTEM} without one" in page


def test_roles_alternate_and_the_assistant_ends(conversations) -> None:
    for messages in conversations:
        assert all(set(message) == {"role", "content"} for message in messages)
        roles = [message["role"] for message in messages if message is not messages[0]]
        first = messages[0]["role"]
        assert first in ("system", "user")
        talk = roles if first == "system" else [first, *roles]
        assert talk == ["user", "assistant"] * (len(talk) // 2), messages


def test_texts_are_clean(conversations) -> None:
    for content in (message["content"] for messages in conversations for message in messages):
        assert content == content.strip() != ""
        assert not re.search(r"[^\S\n]\n|[\t\r\u00a0\u2028\ufeff]", content), content
        assert unicodedata.normalize("NFC", content) == content


def test_texts_hold_no_marks_of_a_chat_format(conversations) -> None:
    for content in (message["content"] for messages in conversations for message in messages):
        assert not MARKS.search(content), content


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]+|0", re.sub(r"\d+", "0", text.lower())))


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_first_texts_do_not_repeat_each_other(conversations, role: str) -> None:
    seen: list[set[str]] = []
    texts = [said(messages, role)[0] for messages in conversations if said(messages, role)]
    for text in texts:
        words = words_of(text)
        if len(words) > 5:
            assert all(len(words & other) <= 0.5 * len(words | other) for other in seen), text
            seen.append(words)
    if role != "assistant":
        assert len({text.lower() for text in texts}) == len(texts)


def test_code_runs_and_prints_what_the_answer_says(conversations) -> None:
    blocks = claims = 0
    for messages in conversations:
        names = {"__name__": "a_conversation"}
        for answer in said(messages, "assistant"):
            printed = io.StringIO()
            for code in CODE.findall(answer):
                blocks += 1
                with contextlib.redirect_stdout(printed):
                    exec(code, names)
            for claim in PRINTS.findall(answer):
                claims += 1
                assert printed.getvalue().split("\n")[:-1] == re.findall("`(.+?)`", claim), answer
    assert blocks >= 60
    assert claims >= 30


def calculate(term: str) -> float:
    """Work out "2 + 3 x 4", products first."""
    total = 0.0
    for sign, product in re.findall(r"(^|[-+] )((?:\S+ [x/] )*\S+)", term.replace(",", "")):
        first, *others = re.split(r" (?=[x/] )", product)
        value = float(first)
        for operator, number in (other.split() for other in others):
            value = value * float(number) if operator == "x" else value / float(number)
        total += -value if sign == "- " else value
    return total


def test_calculate() -> None:
    assert calculate("2 + 3 x 4 - 10 / 4") == 11.5
    assert calculate("1,000 - 1 x 3 x 2") == 994


def test_sums_in_answers_are_right(answers) -> None:
    found = [pair for answer in answers for pair in SUM.findall(answer)]
    assert len(found) >= 40
    for term, result in found:
        stated = result.rstrip(",").replace(",", "")
        places = len(stated.partition(".")[2])
        assert abs(calculate(term) - float(stated)) <= 0.501 * 10**-places, (term, result)


def test_answers_are_short(answers) -> None:
    assert max(len(answer.split()) for answer in answers) <= 150
    assert min(len(answer.split()) for answer in answers) == 1
