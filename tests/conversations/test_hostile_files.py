"""Files that mean harm, or are damaged: one clear error, or rows that are sound."""

from __future__ import annotations

import json
import random

import pytest
from conversation_files import TALK, messages_row, share_row
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_scratch.conversations.kinds import KEYS, KINDS
from llm_scratch.conversations.messages import check_turns
from llm_scratch.conversations.readers import read_conversations
from llm_scratch.conversations.turns import ROLE_NAMES, TOOL_ROLES

WORDS = st.sampled_from(
    [*KEYS, *ROLE_NAMES, *TOOL_ROLES, "role", "content", "from", "value", "weight", "type"]
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(10**300, 10**301),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["\ud800", "\x00\x1b[2J", "### Human: a### Assistant: b", "### Human:"]),
    WORDS,
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
TURN = st.fixed_dictionaries(
    {"role": WORDS | LEAVES, "content": VALUES}, optional={"weight": VALUES}
)
SHARED = st.fixed_dictionaries({"from": WORDS | LEAVES, "value": VALUES})
ROW = st.one_of(
    st.dictionaries(WORDS, VALUES, max_size=5),
    st.fixed_dictionaries({"messages": st.lists(TURN, max_size=4)}),
    st.fixed_dictionaries({"conversations": st.lists(SHARED, max_size=4)}),
    st.fixed_dictionaries({"prompt": VALUES, "completion": VALUES}),
    st.fixed_dictionaries({"instruction": VALUES, "output": VALUES}, optional={"history": VALUES}),
    VALUES,
)


def read_or_refuse(path, **options) -> bool:
    """Whether a file is read; whatever comes is sound, and an error is one line of the house's."""
    said, found, summary = "", [], None
    try:
        found, summary = read_conversations(path, **options)
    except UnicodeError:
        raise
    except ValueError as err:
        said = str(err)
    if summary is None:
        assert str(path) in said
        assert len(said.splitlines()) == 1
        assert len(said) < 1000
        return False
    assert len(found) == summary.kept
    assert summary.kept + sum(summary.dropped.values()) == summary.rows
    for messages in found:
        check_turns(messages)
        assert any(message.is_learned for message in messages)
        for message in messages:
            message.content.encode("utf-8")
    return True


@pytest.mark.parametrize("kind", [None, *KINDS])
@settings(max_examples=40)
@given(
    rows=st.lists(ROW, max_size=4),
    skip_bad=st.booleans(),
    repair=st.sampled_from([(), ("drop", "merge")]),
)
def test_rows_of_anything_are_read_or_refused(tmp_path_factory, kind, rows, skip_bad, repair):
    path = tmp_path_factory.getbasetemp() / "hostile.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    read_or_refuse(path, kind=kind, skip_bad=skip_bad, repair=repair)


def test_damaged_bytes_are_read_or_refused(tmp_path):
    draw = random.Random(5)
    rows = [
        messages_row(TALK),
        share_row(TALK),
        messages_row([("user", "é\u2028"), ("assistant", "b")]),
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    read = 0
    for content in (json.dumps(rows, ensure_ascii=False).encode(), lines.encode()):
        for _ in range(150):
            data = bytearray(content[: draw.randrange(len(content) + 1)])
            for _ in range(draw.randrange(4)):
                if data:
                    data[draw.randrange(len(data))] = draw.randrange(256)
            path = tmp_path / f"damaged.{draw.choice(('json', 'jsonl', 'txt'))}"
            path.write_bytes(data)
            read += read_or_refuse(path, skip_bad=draw.random() < 0.8)
    assert 10 < read < 290


@pytest.mark.parametrize(
    "content",
    [
        '{"messages": ' * 5000,
        "[" * 100_000,
        '{"messages": [{"role": "user", "content": ' + "[" * 900 + "]" * 900 + "}]}",
        '{"messages": ' + "[" * 900 + "]" * 900 + "}",
        '{"messages": [{"role": ' + "[" * 900 + "]" * 900 + ', "content": "a"}]}',
        '{"text": "### Human: a", "history": ' + "[" * 960 + '"\\u00e9"' + "]" * 960 + "}",
        '{"messages": [{"role": "user", "content": "a", "weight": 1' + "0" * 5000 + "}]}",
        '{"messages": [{"role": "user", "content": "a", "weight": 1e400}]}',
        '{"messages": [{"role": "user", "content": "a", "weight": NaN}]}',
        '{"text": "\x00"}',
        "\x00" * 100,
        '{"messages": [{"role": "' + "a" * 100_000 + '", "content": "a"}]}',
        '{"' + "a" * 100_000 + '": 1}',
    ],
)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_hostile_files_are_refused(tmp_path, content, skip_bad):
    path = tmp_path / "hostile.jsonl"
    path.write_text(content, encoding="utf-8")
    assert not read_or_refuse(path, skip_bad=skip_bad)
