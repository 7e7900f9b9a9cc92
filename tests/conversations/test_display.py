"""Conversations as they are shown and measured: what is learned, ids, lengths, what is cut."""

from __future__ import annotations

import re

import pytest
from conversation_files import TALK

from llm_scratch.conversations.display import show_conversation
from llm_scratch.conversations.encoding import EncodedConversation, encode_conversation
from llm_scratch.conversations.formats import find_format
from llm_scratch.conversations.measuring import Cut, measure_conversations
from llm_scratch.conversations.messages import ConversationError, Message
from llm_scratch.conversations.writers import text_row

FORMAT = find_format("guanaco-llama2")
END = "<|endoftext|>"
MESSAGES = [Message(role, content) for role, content in TALK]
SHOWN = (
    f"[INST] Tide? [/INST]\n[[At six.{END}]][INST] And then? [/INST]\n[[Ebb.{END}]]"  # the format's
)
COLOURED = SHOWN.replace("[[", "\x1b[0m\x1b[32m").replace("]]", "\x1b[0m\x1b[90m")


def test_what_is_learned_is_set_off(tokenizer):
    encoded = encode_conversation(MESSAGES, FORMAT, tokenizer)
    assert show_conversation(encoded, tokenizer, color=False) == SHOWN
    assert show_conversation(encoded, tokenizer) == "\x1b[90m" + COLOURED.removesuffix("\x1b[90m")
    silent = [*MESSAGES[:3], Message("assistant", "Ebb.", learned=False)]
    encoded = encode_conversation(silent, FORMAT, tokenizer)
    assert show_conversation(encoded, tokenizer, color=False).endswith(f"[/INST]\nEbb.{END}")


def test_ids_stand_behind_their_tokens(tokenizer):
    encoded = encode_conversation(MESSAGES[:2], FORMAT, tokenizer)
    for color in (False, True):
        shown = show_conversation(encoded, tokenizer, color=color, ids=True)
        assert [int(i) for i in re.findall(r"\((\d+)\)", shown)] == list(encoded.ids)
    shown = show_conversation(encoded, tokenizer, color=False, ids=True)
    assert shown.startswith(f"[({encoded.ids[0]})INST({encoded.ids[1]})")
    assert shown.endswith(f"{END}(50256)]]")
    assert re.sub(r"\(\d+\)", "", shown) == show_conversation(encoded, tokenizer, color=False)


def test_a_terminal_obeys_no_text(tokenizer):
    text = "a\x1b[2J\x07\r\n\tb\x9b1m\x7f"
    ids = tuple(tokenizer.encode(text))
    encoded = EncodedConversation(ids, (True,) * len(ids))
    shown = show_conversation(encoded, tokenizer, color=False)
    assert shown == "[[a\\x1b[2J\\x07\\r\n\tb\\x9b1m\\x7f]]"
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)


def test_lengths_are_those_of_the_ids(tokenizer):
    encoded = [encode_conversation(m, FORMAT, tokenizer) for m in (MESSAGES, MESSAGES[:2])]
    found = measure_conversations([MESSAGES, MESSAGES[:2]], FORMAT, tokenizer)
    assert found.turns == (2, 1)
    assert found.tokens == tuple(len(each.ids) for each in encoded)
    assert found.learned == tuple(sum(each.learned) for each in encoded)
    assert found.learned_share == sum(found.learned) / sum(found.tokens)
    # The last token is learned: a model reads all before it.
    assert [ends[-1] for ends in found.ends] == [tokens - 1 for tokens in found.tokens]
    assert found.ends[0][0] == found.tokens[1] - 1


def test_a_context_cuts_whole_turns(tokenizer):
    found = measure_conversations([MESSAGES, MESSAGES[:2]], FORMAT, tokenizer)
    whole, first = found.tokens
    assert found.cut(whole - 1) == Cut(0, 0, 0)
    assert found.cut(whole - 2) == found.cut(first - 1) == Cut(1, 0, whole - first)
    assert found.cut(first - 2) == Cut(0, 2, whole + first)
    # Text after the last answer, from which nothing is learned, does not count as lost.
    asked = measure_conversations([[*MESSAGES, Message("user", "Why?" * 50)]], FORMAT, tokenizer)
    assert asked.tokens[0] > whole + 50
    assert asked.cut(whole - 1) == Cut(0, 0, 0)
    assert asked.cut(whole - 2) == Cut(1, 0, asked.tokens[0] - first)


def test_what_can_not_be_measured_is_named(tokenizer):
    with pytest.raises(ValueError, match="conversation 2: the assistant first: message 1"):
        measure_conversations([MESSAGES, MESSAGES[1:]], FORMAT, tokenizer)
    with pytest.raises(ValueError, match=r"conversation 1: .* no special token <\|im_start\|>"):
        measure_conversations([MESSAGES], find_format("chatml"), tokenizer)
    with pytest.raises(ValueError, match="there is no conversation to measure"):
        measure_conversations([], FORMAT, tokenizer)


def test_text_rows_are_what_a_format_writes(tokenizer):
    text = SHOWN.replace("[[", "").replace("]]", "")
    assert text_row(MESSAGES, FORMAT, tokenizer) == {"text": text}
    said = [Message("user", f"Say {END}!"), MESSAGES[1]]
    with pytest.raises(ConversationError, match=r"token in a message: it contains '<\|endoft"):
        text_row(said, FORMAT, tokenizer)
    with pytest.raises(ConversationError, match="the assistant first"):
        text_row(MESSAGES[1:], FORMAT, tokenizer)
