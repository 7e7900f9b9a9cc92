"""Files of conversations: their kinds, what is read, repaired, counted, and refused by name."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial

import pytest
from conversation_files import GUANACO, TALK, A, S, U, messages_row, read_rows, share_row

from llm_scratch.conversations.kinds import told_kind
from llm_scratch.conversations.messages import Message
from llm_scratch.conversations.readers import read_conversations


@pytest.fixture
def read(tmp_path):
    return partial(read_rows, tmp_path)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"text": GUANACO}, "guanaco"),
        ({"text": GUANACO, "id": 3}, "guanaco"),
        (share_row(TALK, id="a"), "sharegpt"),
        ({"messages": share_row(TALK)["conversations"]}, "sharegpt"),
        ({"conversation": share_row(TALK)["conversations"]}, "sharegpt"),
        (messages_row(TALK), "messages"),
        (messages_row(TALK, prompt="Tide?", prompt_id="7"), "messages"),
        ({"conversations": messages_row(TALK)["messages"]}, "messages"),
        (
            {"instruction": "And then?", "output": "Ebb.", "history": [["Tide?", "At six."]]},
            "alpaca",
        ),
        (
            {
                "prompt": messages_row(TALK)["messages"][:3],
                "completion": messages_row(TALK)["messages"][3:],
            },
            "prompt-completion",
        ),
        ({"prompt": messages_row(TALK)["messages"][:3], "completion": "Ebb."}, "prompt-completion"),
    ],
)
@pytest.mark.parametrize("name", ["chat.jsonl", "chat.json", "one.json"])
def test_every_kind_is_told_and_read(read, row, kind, name):
    rows = [row, row] if name == "chat.jsonl" else json.dumps([row, row], indent=1)
    if name == "one.json":
        rows = json.dumps(row, indent=2)
    found, summary = read(rows, name)
    count = 1 if name == "one.json" else 2
    assert found == [TALK] * count
    assert (summary.kind, summary.rows, summary.kept) == (kind, count, count)
    assert summary.repaired == summary.dropped == {}


@pytest.mark.parametrize(
    ("row", "talk"),
    [
        (
            {"instruction": "Add.", "input": "2 and 3", "output": "5"},
            [(U, "Add.\n\n2 and 3"), (A, "5")],
        ),
        ({"instruction": "Add.", "input": "", "output": "5"}, [(U, "Add."), (A, "5")]),
        ({"instruction": "Add.", "input": None, "output": "5"}, [(U, "Add."), (A, "5")]),
        ({"instruction": "", "input": "2 + 3", "output": "5"}, [(U, "2 + 3"), (A, "5")]),
        (
            {"instruction": "Add.", "output": "5", "history": None, "system": None},
            [(U, "Add."), (A, "5")],
        ),
        (
            {"Instruction": "Add.", "output": "5", "system": "Be brief."},
            [(S, "Be brief."), (U, "Add."), (A, "5")],
        ),
        ({"prompt": "Add.", "completion": " 5\n"}, [(U, "Add."), (A, " 5\n")]),
        (share_row(TALK[:2], system="Be brief.", tools="", id=None), [(S, "Be brief."), *TALK[:2]]),
        (messages_row([(S, ""), *TALK[:2]]), [(S, ""), *TALK[:2]]),
        (
            {"text": "\n ### Human:Tide?\n### Assistant:  At six.\n"},
            [(U, "Tide?\n"), (A, " At six.\n")],
        ),
        (
            {"text": "### Human: # A\n### Human rights### Assistant: ###"},
            [(U, "# A\n### Human rights"), (A, "###")],
        ),
    ],
)
def test_what_is_said_is_kept_as_it_stands(read, row, talk):
    assert read([row])[0] == [talk]


def test_content_may_be_parts(read):
    parts = [{"type": "text", "text": "At "}, {"type": "text", "value": "six"}, "."]
    turns = [{"role": "user", "content": "Tide?"}, {"role": "assistant", "content": parts}]
    assert read([{"messages": turns}])[0] == [TALK[:2]]


@pytest.mark.parametrize("key", ["weight", "loss_weight", "train"])
def test_weights_say_what_is_learned(tmp_path, key):
    row = messages_row([*TALK, (U, "Why?"), (A, "The moon.")])
    for turn, weight in zip(row["messages"], [0.0, 0, 0, 1, None, True], strict=True):
        turn[key] = weight
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    (messages,), _ = read_conversations(path)
    assert [m.learned for m in messages] == [False, False, False, True, None, True]
    assert [m.is_learned for m in messages] == [False, False, False, True, False, True]


def test_answers_in_a_prompt_are_not_learned(tmp_path):
    turns = messages_row(TALK)["messages"]
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"prompt": turns[:3], "completion": turns[3:]}), encoding="utf-8")
    (messages,), _ = read_conversations(path)
    assert [m.is_learned for m in messages] == [False, False, False, True]


def test_other_names_of_roles_are_counted(read):
    rows = [
        share_row(TALK),
        {
            "conversations": [
                {"from": "user", "value": "Tide?"},
                {"from": "ChatGPT ", "value": "At six."},
            ]
        },
        share_row([("system", "Be brief."), *TALK[:2]]),
    ]
    found, summary = read(rows)
    assert found == [TALK, TALK[:2], [(S, "Be brief."), *TALK[:2]]]
    assert summary.repaired == {"roles by other names": 1}
    for name in ("human", "prompter", "User"):
        talk = [(name, "Tide?"), ("model", "At six.")]
        assert read([messages_row(talk)])[0] == [TALK[:2]]


def test_a_last_question_is_kept_and_counted(read):
    found, summary = read([{"text": GUANACO + "### Human: Why?"}, {"text": GUANACO}])
    assert found == [[*TALK, (U, "Why?")], TALK]
    assert summary.repaired == {"a last question without answer (kept, not learned)": 1}


@pytest.mark.parametrize(
    ("talk", "repair", "reason", "expected", "counted"),
    [
        (TALK[1:], "drop", "the assistant first", TALK[2:], "an answer before the first question"),
        (
            [(S, "Brief."), *TALK[1:]],
            "drop",
            "the assistant first",
            [(S, "Brief."), *TALK[2:]],
            "an answer",
        ),
        (
            [*TALK[:2], (U, " \n"), (A, "")],
            "drop",
            "an empty turn",
            TALK[:2],
            "empty turns dropped",
        ),
        (
            [(U, "Hm."), *TALK],
            "merge",
            "two turns of one role in a row",
            [(U, "Hm.\n\nTide?"), *TALK[1:]],
            "turns of one role in a row merged",
        ),
        (
            [(S, "A"), (S, "B"), *TALK],
            "merge",
            "two turns of one role in a row",
            [(S, "A\n\nB"), *TALK],
            "merged",
        ),
    ],
)
def test_repairs_are_made_on_request_and_counted(read, talk, repair, reason, expected, counted):
    rows = [messages_row(TALK), messages_row(talk)]
    with pytest.raises(ValueError, match=rf"line 2: {reason}: message .*--repair {repair}\)"):
        read(rows)
    found, summary = read(rows, skip_bad=True)
    assert found == [TALK]
    assert summary.dropped == {reason: 1}
    found, summary = read(rows, repair=[repair])
    assert found == [TALK, expected]
    ((name, count),) = summary.repaired.items()
    assert counted in name
    assert count == 1


def test_an_empty_system_text_is_kept(read):
    """Formats with a system text of their own write none where it is empty."""
    talk = [(S, ""), (U, " "), *TALK]
    assert read([messages_row(talk)], repair=["drop"])[0] == [[(S, ""), *TALK]]


def test_a_last_question_that_is_learned_is_not_called_unlearned(read):
    row = messages_row(TALK[:3])
    row["messages"][2]["weight"] = 1
    assert read([row])[1].repaired == {}


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"conversations": []}, "sharegpt"),
        ({"conversations": ["Tide?"]}, "sharegpt"),
        ({"conversation": [{}]}, "sharegpt"),
        ({"messages": [{"value": "Tide?"}]}, "sharegpt"),
        ({"conversations": [{"content": "Tide?"}]}, "messages"),
    ],
)
def test_a_list_without_turns_is_told_by_its_key(row, kind):
    assert told_kind(row) == kind


def test_turns_that_are_learned_differently_are_not_merged(read):
    row = messages_row([*TALK[:2], (A, "Or seven.")])
    row["messages"][2]["weight"] = 0
    with pytest.raises(ValueError, match="two turns of one role in a row"):
        read([row], repair=["merge"])


def test_a_kind_that_is_given_holds(read):
    row = messages_row(TALK, instruction="Add.", output="5")
    assert read([row])[1].kind == "messages"
    found, summary = read([row], kind="alpaca")
    assert (found, summary.kind) == ([[(U, "Add."), (A, "5")]], "alpaca")
    with pytest.raises(ValueError, match="kind='share' is not a kind of file; known are guanaco, "):
        read([row], kind="share")
    for repair in ("drop", ["mend"]):
        with pytest.raises(ValueError, match="must be a list of 'drop' and 'merge'"):
            read([row], repair=repair)


def test_the_summary_says_it_all(read):
    wizard = messages_row([("wizard", "Tide?")])
    rows = [
        messages_row(TALK),
        messages_row(TALK[:3]),
        messages_row([("human", "a"), (A, "b")]),
        wizard,
        wizard,
    ]
    _, summary = read(rows, skip_bad=True)
    lines = str(summary).split("\n")
    assert lines[:3] == [
        "5 rows (messages), 3 kept",
        "repaired: 1 with a last question without answer (kept, not learned)",
        "repaired: 1 with roles by other names",
    ]
    assert lines[3].startswith("dropped: 2 for unknown role; the first: ")
    assert "chat.jsonl: line 4: unknown role: turn 1" in lines[3]
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("file", "kind", "lengths"),
    [
        ("fastchat-dummy-conversation.json", "sharegpt", {2: 167, 4: 166, 6: 167}),
        ("llamafactory-identity.json", "alpaca", {2: 91}),
        ("llamafactory-v1-sft.jsonl", "messages", {2: 500}),
        ("axolotl-conversation.json", "sharegpt", {12: 1}),
    ],
)
def test_files_of_other_projects_are_read(book_file, file, kind, lengths):
    found, summary = read_conversations(book_file(file))
    assert summary.kind == kind
    assert Counter(map(len, found)) == lengths
    assert summary.rows == summary.kept == sum(lengths.values())
    assert summary.repaired == summary.dropped == {}
    for messages in found:
        assert [m.role for m in messages] == [U, A] * (len(messages) // 2)
        assert [m.is_learned for m in messages] == [False, True] * (len(messages) // 2)


def test_weights_of_other_projects_are_read(book_file, tmp_path):
    path = book_file("llamafactory-v1-sft.jsonl")
    found, _ = read_conversations(path)
    assert {(m.role, m.learned) for messages in found for m in messages} == {(U, False), (A, True)}
    assert found[0][0] == Message("user", "hi", learned=False)
    silent = path.read_text(encoding="utf-8").replace('"loss_weight": 1.0', '"loss_weight": 0.0', 1)
    (tmp_path / "chat.jsonl").write_text(silent, encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: nothing learned"):
        read_conversations(tmp_path / "chat.jsonl")
