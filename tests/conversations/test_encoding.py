"""Segments as ids: where text is cut, and what is refused."""

from __future__ import annotations

import pytest
from conversations_made import END, tokenizer_with

from llm_scratch.conversations.encoding import (
    EncodedConversation,
    encode_conversation,
    encode_prompt,
)
from llm_scratch.conversations.formats import find_format
from llm_scratch.conversations.messages import Message
from llm_scratch.tokenizers.any_tokenizer import encode
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.wrapped import WrappedTokenizer

ASKED = [Message("user", "What is the tide?")]
ANSWERED = [*ASKED, Message("assistant", "The tide is the rise of the sea.")]


@pytest.mark.parametrize("name", ["guanaco-llama2", "book", "transcript"])
def test_text_that_lies_together_has_the_ids_of_the_whole(name):
    tokenizer = tokenizer_with()
    ids = encode_prompt(ASKED, find_format(name), tokenizer)
    assert ids == encode(tokenizer, tokenizer.decode(ids), "text")


def test_answers_are_encoded_apart_from_the_prompt():
    tokenizer = tokenizer_with()
    ids = encode_conversation(ANSWERED, find_format("book"), tokenizer).ids
    prompt = encode_prompt(ASKED, find_format("book"), tokenizer)
    answer = [*encode(tokenizer, ANSWERED[1].content, "text"), tokenizer.eot_token]
    assert list(ids) == prompt + answer


def test_answers_that_are_not_learned_are_encoded_apart_too():
    tokenizer, book = BytePairTokenizer([(b"\n", b"\n")]), find_format("book")
    messages = [*ASKED, Message("assistant", "\n\nA", learned=False), *ANSWERED]
    ids = encode_conversation(messages, book, tokenizer).ids
    first = encode_prompt(ASKED, book, tokenizer)
    joined = encode(tokenizer, tokenizer.decode(first) + "\n\nA", "text")
    assert joined[: len(first) + 1] != list(ids[: len(first) + 1])
    for prompt in (ASKED, messages[:3]):
        start = encode_prompt(prompt, book, tokenizer)
        assert list(ids[: len(start)]) == start


def test_marks_and_ids_belong_together():
    with pytest.raises(ValueError, match="2 ids and 1 marks"):
        EncodedConversation((1, 2), (True,))


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "no message from the user"),
        ([Message("system", "S")], "no message from the user"),
        ([Message("assistant", "A")], "message 1 has role 'assistant' where 'user' is expected"),
        ([*ASKED, *ASKED], "message 2 has role 'user' where 'assistant' is expected"),
        ([*ASKED, Message("system", "S")], "message 2 has role 'system'"),
        ([Message("tool", "x")], "message 1 has role 'tool'; allowed are system, user, assist"),
        ([Message("user", " \n")], r"message 1 \(user\) is empty; leave the turn out"),
        ([*ASKED, Message("assistant", "")], r"message 2 \(assistant\) is empty"),
    ],
)
def test_unsound_conversations_are_refused(messages, problem):
    for name in ("chatml", "guanaco"):
        tokenizer = tokenizer_with(find_format(name).controls)
        with pytest.raises(ValueError, match=problem):
            encode_conversation(messages, find_format(name), tokenizer)


def test_conversations_without_anything_to_learn_are_refused():
    tokenizer = tokenizer_with()
    unlearned = [*ASKED, Message("assistant", "A", learned=False)]
    for messages in (ASKED, unlearned):
        with pytest.raises(ValueError, match="nothing in the conversation is learned"):
            encode_conversation(messages, find_format("guanaco"), tokenizer)


def test_prompts_end_with_the_users_words():
    with pytest.raises(ValueError, match="the last message is the assistant's"):
        encode_prompt(ANSWERED, find_format("guanaco"), tokenizer_with())


def sentencepiece_like():
    """A tokenizer in the way of Llama 2's, which puts a blank before every text."""
    tokenizers = pytest.importorskip("tokenizers")
    letters = ["<unk>", "<s>", "</s>", "\u2581", *(chr(i) for i in range(33, 127))]
    vocab = {token: i for i, token in enumerate(letters)}
    vocab |= {"\n": len(vocab), "\u2581A": len(vocab) + 1, "\u2581Q": len(vocab) + 2}
    merges = [("\u2581", "A"), ("\u2581", "Q")]
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges, unk_token="<unk>"))
    made.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("\u2581"), tokenizers.normalizers.Replace(" ", "\u2581")]
    )
    made.add_special_tokens(["<s>", "</s>"])
    return WrappedTokenizer(made.to_str().encode(), "letters", {"eos_token_id": 2})


def tokens_of(tokenizer, messages, name, whole=True):
    encoded = encode_conversation(messages, find_format(name), tokenizer)
    return " ".join(str(tokenizer.id_to_token(i)) for i in encoded.ids).replace("\u2581", "_")


def test_tokenizers_that_begin_texts_with_a_blank_add_none_inside_of_a_turn():
    tokenizer = sentencepiece_like()
    messages = [Message("user", "Q"), Message("assistant", "A")]
    assert (
        tokens_of(tokenizer, messages, "llama2") == "<s> _ [ I N S T ] _Q _ [ / I N S T ] _A _ </s>"
    )
    assert tokens_of(tokenizer, messages, "guanaco-llama2").endswith("[ / I N S T ] \n A </s>")
    for name in ("llama2", "guanaco-llama2", "vicuna"):
        whole = encode_conversation(messages, find_format(name), tokenizer).ids
        prompt = encode_prompt(messages[:1], find_format(name), tokenizer)
        assert whole[: len(prompt)] == tuple(prompt)


def test_end_of_text_needs_not_be_a_special_token_of_the_table():
    class Letters:
        eos_token_id = 255

        def encode(self, text):
            return list(text.encode("latin-1"))

        def decode(self, ids):
            return bytes(ids).decode("latin-1")

    ids = encode_conversation(ANSWERED, find_format("guanaco"), Letters()).ids
    assert ids[-1] == 255
    assert END not in Letters().decode(ids)
