"""Rows that are not conversations: named by file, line and reason, or counted."""

from __future__ import annotations

import json
from functools import partial

import pytest
from conversation_files import GUANACO, TALK, A, S, U, messages_row, read_rows, share_row

from llm_scratch.conversations.readers import read_conversations


@pytest.fixture
def read(tmp_path):
    return partial(read_rows, tmp_path)


GOOD = messages_row(TALK)
BAD = [
    (
        messages_row([("wizard", "Tide?")]),
        "unknown role: turn 1 of 'messages' is by 'wizard'; known are system",
    ),
    (
        messages_row([("tool", "{}")]),
        "tools: turn 1 of 'messages' is by 'tool', which is not learned",
    ),
    (messages_row([(7, "Tide?")]), "unknown role: turn 1 of 'messages' is by 7"),
    (messages_row([(None, "Tide?")]), "unknown role: turn 1 of 'messages' is by null"),
    (messages_row([([], "Tide?")]), "unknown role: turn 1 of 'messages' is by a list"),
    (messages_row([]), "no turn of the user"),
    (messages_row([(S, "Be brief.")]), "no turn of the user"),
    (messages_row([(U, "Tide?")]), "nothing learned: none of its answers"),
    (messages_row([(U, ""), (A, "At six.")]), "an empty turn: message 1"),
    (messages_row([(U, "Tide?"), (A, " \n\t")]), "an empty turn: message 2"),
    (messages_row([(A, "At six.")]), "the assistant first: message 1"),
    (messages_row([*TALK, (S, "Be brief.")]), "a system text that is not first: message 5"),
    (messages_row([(U, "Tide?"), (A, None)]), "no text: turn 2 of 'messages' says null"),
    (messages_row([(U, "Tide?"), (A, 6)]), "no text: turn 2 of 'messages' says 6"),
    (
        messages_row([(U, "Tide?"), (A, 10**400)]),
        "no text: turn 2 of 'messages' says a number of many digits",
    ),
    (messages_row([(U, "Tide?"), (A, {})]), "no text: turn 2 of 'messages' says an object"),
    (
        messages_row([(U, "Tide?"), (A, [{"type": "image_url", "image_url": "x"}])]),
        "a part that is not text: turn 2 .* is 'image_url'",
    ),
    (messages_row([(U, "Tide?"), (A, [3])]), "a part that is not text: .* a part that is 3"),
    (
        messages_row([(U, "Tide?"), (A, [{"type": "text", "text": 3}])]),
        "no text: .* part of text without its 'text'",
    ),
    (
        {
            "messages": [
                *GOOD["messages"][:1],
                {"role": "assistant", "content": None, "tool_calls": [{}]},
            ]
        },
        "tools: turn 2 of 'messages' has 'tool_calls'",
    ),
    (messages_row(TALK, tools=[{"name": "tide"}]), "tools: it has 'tools'"),
    (
        {"messages": [{"role": "user"}]},
        "no 'content': turn 1 of 'messages' has no 'content'; it has 'role'",
    ),
    (
        {"messages": [{}]},
        "no 'role': turn 1 of 'messages' has no 'role' and no 'content'; it has nothing",
    ),
    ({"messages": ["Tide?"]}, "not an object: turn 1 of 'messages' is 'Tide"),
    ({"messages": "Tide?"}, "no turns: 'messages' is 'Tide"),
    ({"messages": None}, "no turns: 'messages' is null"),
    ({"text": GUANACO}, "no turns: it has no 'messages'; it has 'text'"),
    (
        share_row(TALK),
        "no 'role': turn 1 .* has no 'role' and no 'content'; it has 'from', 'value'",
    ),
    (messages_row(TALK, system=3), "no text: 'system' says 3"),
    (messages_row([(S, "A"), *TALK], system="B"), "two turns of one role in a row: message 2"),
    ({"messages": [{**turn, "weight": 0} for turn in GOOD["messages"]]}, "nothing learned"),
    *(
        (
            {"messages": [*GOOD["messages"][:3], GOOD["messages"][3] | {"weight": w}]},
            f"a weight that is not 0 or 1: turn 4 .* has weight {s}",
        )
        for w, s in (
            (0.5, "0.5"),
            ("1", "'1'"),
            (-1, "-1"),
            (float("nan"), "nan"),
            (1e999, "inf"),
            (10**300, "a number"),
            ([], "a list"),
        )
    ),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_rows_that_do_not_fit_are_named_and_counted(read, row, message):
    with pytest.raises(ValueError, match=rf"chat.jsonl: line 2: {message}") as caught:
        read([GOOD, row, GOOD])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    found, summary = read([GOOD, row, GOOD], skip_bad=True)
    assert found == [TALK, TALK]
    assert (summary.rows, summary.kept) == (3, 2)
    assert summary.dropped == {message.partition(":")[0]: 1}
    (first,) = summary.first_dropped.values()
    assert first == str(caught.value)


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("guanaco", {"text": 3}, "no text: 'text' is 3"),
        ("guanaco", {"text": ""}, "no marks: '' has no '### Human:' and no '### Assistant:'"),
        ("guanaco", {"text": "Human: Tide? Assistant: At six."}, "no marks"),
        ("guanaco", {"text": f"Hm. {GUANACO}"}, "text before the first mark: 'Hm.'; remove it"),
        ("guanaco", {"text": "### Assistant: At six."}, "the assistant first"),
        (
            "guanaco",
            {"text": GUANACO + "### Assistant: Ebb."},
            "two turns of one role in a row: .*; or a message contains a mark",
        ),
        ("guanaco", {"text": "### Human: ### Assistant: Ebb."}, "an empty turn: message 1"),
        ("guanaco", {"text": "### Human: Tide?"}, "nothing learned"),
        ("guanaco", {"instruction": "a"}, "no 'text': it has no 'text'; it has 'instruction'"),
        ("alpaca", {"instruction": "a"}, "no 'output'"),
        ("alpaca", {"instruction": "a", "output": " "}, "an empty turn: message 2"),
        ("alpaca", {"instruction": "", "output": "a"}, "an empty turn: message 1"),
        ("alpaca", {"instruction": 3, "output": "a"}, "no text: 'instruction' says 3"),
        ("alpaca", {"instruction": "a", "output": "b", "input": 1.5}, "no text: 'input' says 1.5"),
        (
            "alpaca",
            {"instruction": "a", "output": "b", "history": 3},
            "no pairs in 'history': it holds 3",
        ),
        (
            "alpaca",
            {"instruction": "a", "output": "b", "history": ["cd"]},
            "no pairs in 'history': it holds 'cd'",
        ),
        (
            "alpaca",
            {"instruction": "a", "output": "b", "history": [["c"]]},
            "no pairs in 'history': it holds a list",
        ),
        (
            "alpaca",
            {"instruction": "a", "output": "b", "history": [["c", None]]},
            "no text: 'history' says null",
        ),
        ("prompt-completion", {"prompt": "a"}, "no 'completion'"),
        ("prompt-completion", {"prompt": "a", "completion": 3}, "no text: 'completion' says 3"),
        ("prompt-completion", {"prompt": "a", "completion": []}, "nothing learned"),
        (
            "prompt-completion",
            {"prompt": "a", "completion": [{"role": "wizard", "content": ""}]},
            "unknown role: turn 1 of 'completion'",
        ),
        ("sharegpt", messages_row(TALK), "no 'from'"),
    ],
)
def test_rows_of_each_kind_are_checked(read, kind, row, message):
    with pytest.raises(ValueError, match=rf"chat.jsonl: line 1: {message}"):
        read([row], kind=kind)
    with pytest.raises(
        ValueError, match=rf"none of its 1 rows can be used; the first: .*{message}"
    ):
        read([row], kind=kind, skip_bad=True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"chosen": "a", "rejected": "b", "prompt": "c"},
            "preferences: .* llm-scratch finetune prefer",
        ),
        (
            {"label": "a"},
            "of no known kind: its keys are 'label'; known kinds are guanaco, sharegpt",
        ),
        ({}, "of no known kind: its keys are nothing"),
        (
            {f"key {number}": 1 for number in range(1000)},
            r"of no known kind: .*'key 7', \.\.\.; known",
        ),
    ],
)
def test_rows_that_tell_no_kind_are_refused(read, row, message):
    with pytest.raises(ValueError, match=rf"chat.jsonl: line 1: {message}"):
        read([row, GOOD])
    found, summary = read([row, GOOD], skip_bad=True)
    assert (found, summary.kind, summary.rows) == ([TALK], "messages", 2)


def test_damaged_files_are_named(read, tmp_path):
    with pytest.raises(ValueError, match=r"chat.jsonl: line 2 is not JSON: .* is it cut short\?"):
        read(json.dumps(GOOD) + "\n" + json.dumps(GOOD)[:-9])
    found, summary = read(json.dumps(GOOD) + "\n" + json.dumps(GOOD)[:-9], skip_bad=True)
    assert (found, summary.dropped) == ([TALK], {"not JSON": 1})
    for skip_bad in (False, True):
        with pytest.raises(ValueError, match=r"chat.json: row 2 is not JSON: .* is it cut short\?"):
            read(json.dumps([GOOD, GOOD])[:-9], "chat.json", skip_bad=skip_bad)
        with pytest.raises(ValueError, match="row 1 is followed by '', .* is the file cut short"):
            read(json.dumps([GOOD])[:-1], "chat.json", skip_bad=skip_bad)
        for content in ("", "[]", "\n\n"):
            with pytest.raises(ValueError, match="has no rows; rows with conversations are needed"):
                read(content, "chat.json", skip_bad=skip_bad)
        with pytest.raises(ValueError, match="is a folder; name a file in it"):
            read_conversations(tmp_path, skip_bad=skip_bad)
        with pytest.raises(
            ValueError, match="is not JSON; it must be a list of objects, or one object per"
        ):
            read("prompt,completion\na,b\n", "chat.csv", skip_bad=skip_bad)
        with pytest.raises(FileNotFoundError):
            read_conversations(tmp_path / "none.json", skip_bad=skip_bad)
