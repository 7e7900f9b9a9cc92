"""Conversations as rows: what is learned, what is cut, and what is left out."""

from __future__ import annotations

import warnings

import pytest
import torch
from conversations_made import made, tokenizer_with
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.testing import assert_close

from llm_scratch.conversations.encoding import EncodedConversation, encode_conversation
from llm_scratch.conversations.formats import FORMATS, find_format
from llm_scratch.conversations.measuring import Cut, measure_conversations
from llm_scratch.conversations.messages import Message
from llm_scratch.finetuning.conversation_rows import (
    conversation_rows,
    encoded_row,
    packed_conversations,
)
from llm_scratch.model.llama import LlamaModel
from llm_scratch.text.token_rows import IGNORE_INDEX
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training.steps import Engine, compute_gradients

GUANACO = find_format("guanaco-llama2")
PLAIN_FORMATS = [each for each in FORMATS.values() if not each.controls]
SHORT = (Message("user", "Say tide."), Message("assistant", "The tide."))
LONG = (
    Message("system", "Be brief."),
    Message("user", "Say gull."),
    Message("assistant", "A gull."),
    Message("user", "And now say bell."),
    Message("assistant", "The bell rings, and rings again."),
    Message("user", "And rope?"),
    Message("assistant", "Rope."),
)
SKIPPED = (
    Message("user", "Say tide."),
    Message("assistant", "No.", learned=False),
    Message("user", "Say tide, I said."),
    Message("assistant", "The tide."),
)


@pytest.fixture(scope="module")
def small():
    return BytePairTokenizer.train("Say tide. The bell rings and rings again. Rope. Gull.", 280)


def tokens_of(conversation, tokenizer, format=GUANACO):
    return encode_conversation(conversation, format, tokenizer)


@pytest.mark.parametrize("format", PLAIN_FORMATS, ids=lambda each: each.name)
def test_row_learns_what_the_format_marks(small, format):
    conversations = [SHORT, LONG, SKIPPED]
    rows = conversation_rows(conversations, small, format)
    assert len(rows) == 3
    for number, conversation in enumerate(conversations):
        encoded = tokens_of(conversation, small, format)
        inputs, targets = (part.tolist() for part in rows[number])
        assert inputs == list(encoded.ids[: len(inputs)])
        learned = [
            (place, token_id)
            for place, token_id in enumerate(encoded.ids)
            if encoded.learned[place]
        ]
        wanted = [(k + 1, t) for k, t in enumerate(targets) if t != IGNORE_INDEX]
        assert wanted == learned
        assert targets[-1] != IGNORE_INDEX  # nothing is computed that teaches nothing


def test_row_ends_with_the_last_token_that_is_learned():
    encoded = EncodedConversation((5, 6, 7, 8, 9), (False, False, True, True, False))
    assert encoded_row(encoded) == ([5, 6, 7], [IGNORE_INDEX, 7, 8])
    with pytest.raises(ValueError, match="nothing in the conversation is learned"):
        encoded_row(EncodedConversation((5, 6), (True, False)))


def test_last_question_without_answer_changes_nothing(small):
    open_end = (*SHORT, Message("user", "And then?"))
    one, other = (conversation_rows([each], small, GUANACO)[0] for each in (SHORT, open_end))
    assert_close(one, other, atol=0, rtol=0)


@pytest.mark.parametrize("answers", [1, 2])
def test_long_conversation_keeps_whole_turns_from_the_front(small, answers):
    kept = LONG[: 1 + 2 * answers]
    most = len(conversation_rows([kept], small, GUANACO)[0][0])
    too_few = len(conversation_rows([LONG], small, GUANACO)[0][0])
    for length in (most, too_few - 1) if answers == 2 else (most, most + 1):
        with pytest.warns(UserWarning, match=f"1 of 2 .* longer than {length} tokens and lost"):
            rows = conversation_rows([SHORT, LONG], small, GUANACO, max_length=length)
        assert_close(rows[1], conversation_rows([kept], small, GUANACO)[0], atol=0, rtol=0)
        assert rows[1][1][-1] == tokens_of(LONG, small).ids[-1]  # the end of text is learned


def test_conversation_is_cut_after_an_answer_that_is_learned(small):
    most = len(conversation_rows([SKIPPED], small, GUANACO)[0][0])
    with pytest.warns(UserWarning, match="1 of 2 .* first answer that does not fit"):
        rows = conversation_rows([SHORT, SKIPPED], small, GUANACO, max_length=most - 1)
    assert len(rows) == 1


def test_conversation_whose_first_answer_does_not_fit_is_left_out(small):
    most = len(conversation_rows([LONG[:3]], small, GUANACO)[0][0])
    with pytest.warns(UserWarning, match=f"1 of 2 .* does not fit into {most - 1} tokens"):
        rows = conversation_rows([SHORT, LONG], small, GUANACO, max_length=most - 1)
    assert len(rows) == 1
    with (
        pytest.warns(UserWarning, match="1 of 1"),
        pytest.raises(ValueError, match="no rows are left of 1 conversations"),
    ):
        conversation_rows([LONG], small, GUANACO, max_length=most - 1)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([("user", "a"), ("bot", "b")], "'bot'; allowed are system, user, assistant"),
        ([("user", "a"), ("assistant", " ")], "is empty"),
        ([("assistant", "a"), ("user", "b")], "message 1"),
        ([("user", "a")], "nothing in the conversation is learned"),
        ([], "no message from the user"),
    ],
)
def test_what_is_no_conversation_is_named(small, messages, message):
    odd = [Message(*each) for each in messages]
    with pytest.raises(ValueError, match=rf"conversations\[1\]: .*{message}"):
        conversation_rows([SHORT, odd], small, GUANACO)


def test_answer_that_is_not_to_be_learned_alone_is_named(small):
    silent = (SHORT[0], Message("assistant", "The tide.", learned=False))
    with pytest.raises(ValueError, match=r"conversations\[0\]: nothing in the conversation"):
        conversation_rows([silent], small, GUANACO)


def test_format_that_the_tokenizer_cannot_write_is_refused(small):
    with pytest.raises(ValueError, match=r"<\|im_start\|> <\|im_end\|>"):
        conversation_rows([SHORT], small, find_format("chatml"))


def test_packs_hold_several_conversations_within_the_context(small):
    rows = conversation_rows([SHORT, LONG, SKIPPED] * 9, small, GUANACO)
    packs = packed_conversations(rows, 8192)
    assert packs.num_rows(1024) == len(packs) < 4
    shorter = packed_conversations(rows, int(rows.lengths.max()))
    assert shorter.num_rows(int(rows.lengths.max())) == len(shorter) > len(packs)
    with pytest.raises(ValueError, match="at most 9 fit"):
        packed_conversations(rows, 9)


def test_an_end_mark_as_padding_does_no_harm(small):
    """The row of padding's own id is learned where it ends an answer, and only there."""
    rows = conversation_rows([SHORT, LONG], small, GUANACO)
    end = tokens_of(SHORT, small).ids[-1]
    rows.pad_id = end
    inputs, targets = rows.padded([0, 1])
    size = len(rows[0][0])
    assert set(inputs[0, size:].tolist()) == {end}
    assert set(targets[0, size:].tolist()) == {IGNORE_INDEX}
    assert targets[0, size - 1] == end


def test_packed_conversations_teach_what_they_teach_alone(small):
    rows = conversation_rows([SHORT, LONG, SKIPPED], small, GUANACO)
    sizes = {"vocab_size": small.n_vocab, "emb_dim": 16, "n_heads": 4, "n_layers": 2}
    found = []
    for batches in ([rows.padded([i]) for i in range(3)],
                    [packed_conversations(rows, 1024).packed([0])]):  # fmt: skip
        torch.manual_seed(1)
        model = LlamaModel({**sizes, "context_length": 1024, "hidden_dim": 24, "n_kv_groups": 2})
        engine = Engine(model, [torch.optim.SGD(model.parameters(), 0.1)], torch.device("cpu"))
        loss, count = compute_gradients(engine, batches)
        found.append((loss, count, [p.grad for p in model.parameters()]))
    assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)


@st.composite
def weighted(draw):
    """A conversation in which any turn may be learned or not, and perhaps a question is last."""
    words = st.sampled_from(["Tide.", "The bell rings.", "Say gull, say rope, say tide again."])
    flags = st.sampled_from([None, None, True, False])
    roles = ["system"] * draw(st.integers(0, 1)) + ["user", "assistant"] * draw(st.integers(1, 4))
    roles += ["user"] * draw(st.integers(0, 1))
    return [Message(role, draw(words), draw(flags)) for role in roles]


@pytest.mark.parametrize("name", ["guanaco-llama2", "vicuna", "chatml"])
@made(60)
@given(data=st.data())
def test_context_cuts_what_was_measured(name, data):
    format, messages = find_format(name), data.draw(weighted())
    tokenizer = tokenizer_with(format.controls)
    assume(any(message.is_learned for message in messages))
    measured = measure_conversations([messages], format, tokenizer)
    (tokens,), (ends,) = measured.tokens, measured.ends
    context = data.draw(st.sampled_from(ends)) + data.draw(st.integers(-1, 1))
    assume(context > 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            rows = conversation_rows([messages], tokenizer, format, max_length=context)
        except ValueError:
            found = Cut(0, 1, tokens)
        else:
            found = Cut(len(caught), 0, tokens - 1 - int(rows.lengths[0]) if caught else 0)
    assert measured.cut(context) == found
