"""Conversations written as each kind of file, and read again; what a kind can't hold is named."""

from __future__ import annotations

import json
import re

import pytest
from conversation_files import GUANACO, TALK
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llm_scratch.conversations.kinds import KINDS, turns_of
from llm_scratch.conversations.messages import ConversationError, Message
from llm_scratch.conversations.readers import read_conversations
from llm_scratch.conversations.writers import row_of, write_conversations

MESSAGES = [Message(role, content) for role, content in TALK]
SYSTEM = Message("system", "Be brief.")
MARKS = (
    "### Human:",
    "### Assistant: ",
    "### Human",
    "###",
    "#",
    "[INST]",
    "<|im_end|>",
    "\n",
    " ",
)
TEXTS = (
    st.lists(
        st.one_of(
            st.sampled_from(MARKS), st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
        ),
        min_size=1,
        max_size=4,
    )
    .map("".join)
    .filter(str.strip)
)


@st.composite
def conversations(draw):
    """Sound ones: one to three turns, some with a system text, some with turns not learned."""
    talk = [Message("system", draw(st.just("") | TEXTS))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        talk.append(Message("user", draw(TEXTS), draw(st.sampled_from([None, None, False]))))
        answered = draw(st.sampled_from([None, None, None, True, False]))
        talk.append(Message("assistant", draw(TEXTS), answered))
    if draw(st.booleans()):
        talk.append(Message("user", draw(TEXTS)))
    assume(any(message.is_learned for message in talk))
    return talk


def seen(messages):
    return [(m.role, m.content, m.is_learned) for m in messages]


def can_hold(kind, messages):
    """What the kinds have a place for, in other words than the writers'."""
    text = "".join(m.content for m in messages)
    plain = all(m.is_learned == (m.role == "assistant") for m in messages)
    marked = any(mark in m.content for m in messages for mark in ("### Human:", "### Assistant:"))
    roles = "".join(m.role[0] for m in messages)
    return {
        "guanaco": plain and not marked and "s" not in roles,
        "sharegpt": plain,
        "messages": bool(text),
        "alpaca": plain and roles == "ua",
        "prompt-completion": [m.is_learned for m in messages].index(True) == len(messages) - 1,
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300)
@given(messages=conversations())
def test_what_a_kind_can_hold_comes_back(kind, messages):
    if can_hold(kind, messages):
        row = json.loads(json.dumps(row_of(messages, kind)))
        assert seen(turns_of(row, kind).messages) == seen(messages)
    else:
        with pytest.raises(ConversationError, match=f"{kind} can't hold"):
            row_of(messages, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["json", "jsonl"])
@settings(max_examples=25)
@given(data=st.lists(conversations(), max_size=4))
def test_files_come_back(tmp_path_factory, kind, ending, data):
    data = [*data, MESSAGES[:2]]  # which all kinds can hold
    held = [messages for messages in data if can_hold(kind, messages)]
    path = tmp_path_factory.getbasetemp() / f"written.{ending}"
    dropped = write_conversations(data, path, kind, skip_bad=True)
    assert sum(dropped.values()) == len(data) - len(held)
    found, summary = read_conversations(path, kind=kind)
    assert list(map(seen, found)) == list(map(seen, held))
    assert summary.dropped == {}


def test_rows_are_those_that_people_know():
    one, share = MESSAGES[:2], [("human", "Tide?"), ("gpt", "At six.")]
    assert row_of(MESSAGES, "guanaco") == {"text": GUANACO}
    assert row_of(one, "sharegpt") == {
        "conversations": [{"from": role, "value": text} for role, text in share]
    }
    turns = [{"role": role, "content": text} for role, text in TALK[:2]]
    assert row_of(one, "messages") == {"messages": turns}
    weighed = [
        one[0],
        Message("assistant", "At six.", True),
        one[0],
        Message("assistant", "B", False),
    ]
    assert [turn.get("weight") for turn in row_of(weighed, "messages")["messages"]] == [
        None,
        1,
        None,
        0,
    ]
    expected = {"instruction": "Tide?", "input": "", "output": "At six."}
    assert row_of(one, "alpaca") == expected
    assert row_of(one, "prompt-completion") == {"prompt": "Tide?", "completion": "At six."}
    assert row_of([SYSTEM, *one], "prompt-completion") == {
        "prompt": [{"role": "system", "content": "Be brief."}, turns[0]],
        "completion": [turns[1]],
    }


@pytest.mark.parametrize(
    ("messages", "kind", "message"),
    [
        ([SYSTEM, *MESSAGES], "guanaco", "guanaco can't hold a system text: .*message 1 is one"),
        (
            [SYSTEM, *MESSAGES[:2]],
            "alpaca",
            "alpaca can't hold more than a question and its answer: ",
        ),
        (MESSAGES, "alpaca", "alpaca can't hold more than a question .* user, assistant, user, "),
        (
            MESSAGES,
            "prompt-completion",
            "prompt-completion can't hold learned turns beside the last",
        ),
        (
            [Message("user", "Say ### Human: a"), MESSAGES[1]],
            "guanaco",
            "guanaco can't hold its own marks .*: message 1 has '### Human:' at position 4",
        ),
        (
            [*MESSAGES[:3], Message("assistant", "Ebb.", False)],
            "sharegpt",
            r"sharegpt can't hold which .*message 4 \(assistant\) is not learned; messages can",
        ),
        (MESSAGES[1:], "messages", "the assistant first"),
        (MESSAGES[:1], "messages", "nothing learned"),
        ([MESSAGES[0], Message("assistant", " ")], "messages", "an empty turn"),
        (
            [MESSAGES[0], Message("assistant", "\udc00")],
            "messages",
            "half a character: message 2 has a",
        ),
    ],
)
def test_what_a_kind_can_not_hold_is_named(tmp_path, messages, kind, message):
    path = tmp_path / "chat.jsonl"
    with pytest.raises(ConversationError, match=message) as caught:
        row_of(messages, kind)
    reason, detail = caught.value.args
    with pytest.raises(ConversationError, match=re.escape(f"{reason}: conversation 2: {detail}")):
        write_conversations([MESSAGES[:2], messages], path, kind)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=r"no conversation is left to write .*chat.jsonl \(1 for "):
        write_conversations([messages], path, kind, skip_bad=True)
    dropped = write_conversations([messages, MESSAGES[:2]], path, kind, skip_bad=True)
    assert dropped == {reason: 1}


def test_files_have_a_row_per_line(tmp_path):
    for name, expected in (
        ("a.jsonl", '{"text": "### Human: é### Assistant: b"}\n' * 2),
        (
            "a.json",
            '[\n{"text": "### Human: é### Assistant: b"},\n'
            '{"text": "### Human: é### Assistant: b"}\n]\n',
        ),
    ):
        talk = [Message("user", "é"), Message("assistant", "b")]
        assert write_conversations([talk, talk], tmp_path / name, "guanaco") == {}
        assert (tmp_path / name).read_bytes().decode() == expected


def test_files_of_other_forms_and_kinds_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a.txt: must end in .json or .jsonl or .ndjson"):
        write_conversations([MESSAGES], tmp_path / "a.txt", "messages")
    with pytest.raises(ValueError, match="kind='text' is not a kind of file; known are guanaco"):
        write_conversations([MESSAGES], tmp_path / "a.json", "text")
    with pytest.raises(ValueError, match=r"no conversation is left .* \(none came\)"):
        write_conversations([], tmp_path / "a.json", "messages")
