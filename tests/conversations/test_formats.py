"""Built-in formats: their layouts by hand, and what holds for all of them on made conversations."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conversations_made import (
    CONTROLS,
    COUNTS,
    END,
    STRINGS,
    TURNS,
    beginning_tokenizer,
    conversations,
    made,
    prompts_of,
    tokenizer_with,
)
from hypothesis import given

from llm_scratch.conversations.encoding import encode_conversation, encode_prompt
from llm_scratch.conversations.formats import FORMATS, find_format
from llm_scratch.conversations.messages import Message

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately "
    "completes the request."
)
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
SMOLLM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
CHATML = (
    "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    "A<|im_end|>\n<|im_start|>user\nP<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
)
CHATML_ALONE = "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"

# Each with the system text S, the questions Q and P, and the answers A and B; and the same without
# a system text and the second turn. @ is the end of text.
LAYOUTS = {
    "llama2": (
        "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nQ [/INST] A </s><s>[INST] P [/INST] B </s>",
        "<s>[INST] Q [/INST] A </s>",
    ),
    "guanaco-llama2": (
        "[INST] <<SYS>>\nS\n<</SYS>>\n\nQ [/INST]\nA@[INST] P [/INST]\nB@",
        "[INST] Q [/INST]\nA@",
    ),
    "llama3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nP<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nB<|eot_id|>",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>",
    ),
    "chatml": (CHATML, CHATML_ALONE),
    "qwen2.5": (CHATML, f"<|im_start|>system\n{QWEN}<|im_end|>\n{CHATML_ALONE}"),
    "qwen3": (CHATML, CHATML_ALONE),
    "smollm2": (CHATML, f"<|im_start|>system\n{SMOLLM}<|im_end|>\n{CHATML_ALONE}"),
    "mistral": (
        "<s>[INST] S\n\nQ[/INST] A</s>[INST] P[/INST] B</s>",
        "<s>[INST] Q[/INST] A</s>",
    ),
    "zephyr": (
        "<|system|>\nS@\n<|user|>\nQ@\n<|assistant|>\nA@\n<|user|>\nP@\n<|assistant|>\nB@\n",
        "<|user|>\nQ@\n<|assistant|>\nA@\n",
    ),
    "vicuna": (
        "S USER: Q ASSISTANT: A@USER: P ASSISTANT: B@",
        f"{VICUNA} USER: Q ASSISTANT: A@",
    ),
    "guanaco": (
        "S\n\n### Human: Q### Assistant: A@### Human: P### Assistant: B@",
        "### Human: Q### Assistant: A@",
    ),
    "alpaca": (
        "S\n\n### Instruction:\nQ\n\n### Response:\nA@### Instruction:\nP\n\n### Response:\nB@",
        f"{ALPACA}\n\n### Instruction:\nQ\n\n### Response:\nA@",
    ),
    "transcript": (
        "S\n\nUser: Q\nBot: A@\nUser: P\nBot: B@\n",
        "User: Q\nBot: A@\n",
    ),
    "phi-3": (
        "<|system|>\nS<|end|>\n<|user|>\nQ<|end|>\n<|assistant|>\nA<|end|>\n"
        "<|user|>\nP<|end|>\n<|assistant|>\nB<|end|>\n",
        "<|user|>\nQ<|end|>\n<|assistant|>\nA<|end|>\n",
    ),
    "book": (
        "S\n\n### Instruction:\nQ\n\n### Response:\nA@### Instruction:\nP\n\n### Response:\nB@",
        f"{ALPACA}\n\n### Instruction:\nQ\n\n### Response:\nA@",
    ),
    "book-phi": (
        "<|system|>\nS\n<|user|>\nQ\n<|assistant|>:A@<|user|>\nP\n<|assistant|>:B@",
        "<|user|>\nQ\n<|assistant|>:A@",
    ),
}
# What is learned around an answer, and by which tokens it ends (@: the tokenizer's end of text).
LEARNED = {
    "llama2": (" ", " </s>"),
    "mistral": (" ", "</s>"),
    "llama3": ("", "<|eot_id|>"),
    "phi-3": ("", "<|end|>"),
    **dict.fromkeys(("chatml", "qwen2.5", "qwen3", "smollm2"), ("", "<|im_end|>")),
    **dict.fromkeys(("vicuna", "guanaco", "transcript"), (" ", "@")),
    **dict.fromkeys(("guanaco-llama2", "zephyr", "alpaca", "book", "book-phi"), ("", "@")),
}
WHOLE = ("chatml", "qwen2.5", "qwen3", "smollm2", "book", "book-phi")  # which strip nothing


def tokenizers_for(format):
    """One that has every format's control tokens, and one that begins texts too."""
    return tokenizer_with(tuple(c for c in CONTROLS if c != END)), beginning_tokenizer(
        format.controls
    )


def text_of(format, tokenizer, messages):
    return tokenizer.decode(encode_conversation(messages, format, tokenizer).ids)


def test_layouts_are_there_for_every_format():
    assert list(LAYOUTS) == list(FORMATS)
    assert LEARNED.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", FORMATS)
def test_layout_is_the_documented_one(name):
    format = find_format(name)
    tokenizer, beginning = tokenizers_for(format)
    for messages, layout in zip((TURNS, TURNS[1:3]), LAYOUTS[name], strict=True):
        assert text_of(format, tokenizer, messages) == layout.replace("@", END)
        expected = layout.replace("@", "</s>")
        begins = name not in ("llama2", "llama3", "mistral")  # which say how they begin
        assert text_of(format, beginning, messages) == "<s>" * begins + expected


@pytest.mark.parametrize("name", FORMATS)
def test_texts_are_stripped_unless_the_format_keeps_them(name):
    format = find_format(name)
    tokenizer = tokenizer_with(format.controls)
    padded = [Message(each.role, f" \n{each.content}\n ") for each in TURNS]
    same = text_of(format, tokenizer, padded) == text_of(format, tokenizer, TURNS)
    assert same == (name not in WHOLE)
    assert name not in WHOLE or " \nQ\n " in text_of(format, tokenizer, padded)


@pytest.mark.parametrize("name", [n for n, each in FORMATS.items() if each.default_system])
def test_system_text_that_is_empty_means_none_at_all(name):
    format = find_format(name)
    tokenizer = tokenizer_with(format.controls)
    text = text_of(format, tokenizer, [Message("system", " "), *TURNS[1:3]])
    assert text == text_of(replace(format, default_system=""), tokenizer, TURNS[1:3])
    assert format.default_system not in text


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", FORMATS)
def test_prompts_are_prefixes_of_what_is_learned(name, count):
    format = find_format(name)

    @made(count)
    @given(conversations())
    def check(messages):
        for tokenizer in tokenizers_for(format):
            encoded = encode_conversation(messages, format, tokenizer)
            for prompt in prompts_of(messages):
                ids = encode_prompt(prompt, format, tokenizer)
                assert encoded.ids[: len(ids)] == tuple(ids)
                assert encoded.learned[len(ids)]
                assert not encoded.learned[len(ids) - 1]

    check()


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", FORMATS)
def test_what_people_say_yields_no_control_id(name, count):
    format = find_format(name)

    @made(count)
    @given(conversations())
    def check(messages):
        for tokenizer in tokenizers_for(format):
            plain = [Message(each.role, "x") for each in messages]
            special = [
                [i for i in encode_conversation(each, format, tokenizer).ids
                 if tokenizer.is_special_token(i)]
                for each in (messages, plain)
            ]  # fmt: skip
            assert special[0] == special[1]

    check()


@pytest.mark.parametrize("name", FORMATS)
def test_every_control_string_of_every_format_is_text_where_people_say_it(name):
    format, said = find_format(name), " ".join(STRINGS).strip()
    for tokenizer in tokenizers_for(format):
        found = []
        for content in ("x", said):
            talk = [Message(role, content) for role in ("system", "user", "assistant")]
            ids = encode_conversation(talk, format, tokenizer).ids
            found.append([i for i in ids if tokenizer.is_special_token(i)])
            assert tokenizer.decode(ids).count(content) >= 3
        assert found[0] == found[1]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", FORMATS)
def test_answers_and_their_ends_are_learned_and_nothing_else(name, count):
    format = find_format(name)
    lead, trail = LEARNED[name]

    @made(count)
    @given(conversations())
    def check(messages):
        for tokenizer, end in zip(tokenizers_for(format), (END, "</s>"), strict=True):
            encoded = encode_conversation(messages, format, tokenizer)
            pairs = list(zip(encoded.ids, encoded.learned, strict=True))
            learned = tokenizer.decode([i for i, is_learned in pairs if is_learned])
            answers = [each.content for each in messages if each.role == "assistant"]
            if name not in WHOLE:
                answers = [answer.strip() for answer in answers]
            tail = trail.replace("@", end)
            assert learned == "".join(f"{lead}{answer}{tail}" for answer in answers)

    check()


@pytest.mark.parametrize("name", FORMATS)
def test_messages_say_themselves_whether_they_are_learned(name):
    format = find_format(name)
    tokenizer = tokenizer_with(format.controls)
    asked, first = Message("user", "Q", learned=True), Message("assistant", "A", learned=False)
    messages = [TURNS[0], asked, first, *TURNS[3:]]
    encoded = encode_conversation(messages, format, tokenizer)
    pairs = list(zip(encoded.ids, encoded.learned, strict=True))
    learned = tokenizer.decode([i for i, is_learned in pairs if is_learned])
    lead, trail = LEARNED[name]
    assert learned == f"Q{lead}B{trail.replace('@', END)}"
    for prompt in prompts_of(messages):
        ids = encode_prompt(prompt, format, tokenizer)
        assert encoded.ids[: len(ids)] == tuple(ids)


@pytest.mark.parametrize("name", FORMATS)
def test_answers_end_by_the_formats_end_first(name):
    format = find_format(name)
    tokenizer = tokenizer_with((*format.controls, "<|eom_id|>", "<|end_of_text|>"))
    ids = format.end_ids(tokenizer)
    assert tokenizer.decode(ids[:1]) == LEARNED[name][1].strip().replace("@", END)
    assert tokenizer.eot_token in ids
    more = {"<|eom_id|>", "<|end_of_text|>"} & set(map(tokenizer.decode, [[i] for i in ids]))
    assert bool(more) == (name == "llama3")


@pytest.mark.parametrize("name", [n for n, each in FORMATS.items() if each.controls])
def test_control_tokens_that_a_vocabulary_lacks_are_named_with_the_way_out(name):
    format = find_format(name)
    tokenizer = tokenizer_with(format.controls[1:])
    with pytest.raises(ValueError, match="no special token .*add_tokens") as error:
        encode_prompt(TURNS[:2], format, tokenizer)
    assert format.controls[0] in str(error.value)
    assert not any(f" {token}," in str(error.value) for token in format.controls[1:])


def test_end_of_text_is_asked_for_where_answers_end_with_it():
    from llm_scratch.tokenizers.bpe import BytePairTokenizer

    bare = BytePairTokenizer([], ())
    with pytest.raises(
        ValueError, match="no end-of-text token, which ends an answer in format 'guanaco'"
    ):
        encode_prompt(TURNS[:2], find_format("guanaco"), bare)


def test_find_format_lists_the_names():
    with pytest.raises(
        ValueError, match="no format is called 'lama2'; use one of llama2, guanaco-"
    ):
        find_format("lama2")
