"""Jinja texts: those that formats write, and foreign ones as formats."""

from __future__ import annotations

import pytest
from conversations_made import (
    COUNTS,
    END,
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
from llm_scratch.conversations.saved_formats import format_of_template
from llm_scratch.conversations.templates import TemplateFormat, nearest_format

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOKENS = ("<|im_start|>", "<|im_end|>")


def text_of(segments):
    return "".join(segment.text for segment in segments)


def own_tokenizers(format):
    """Tokenizers with this format's control tokens alone, so that no text of it is another's."""
    return tokenizer_with(format.controls), beginning_tokenizer(format.controls)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", FORMATS)
def test_jinja_of_a_format_writes_its_text(name, count):
    format = find_format(name)

    @made(count)
    @given(conversations())
    def check(messages):
        for tokenizer in own_tokenizers(format):
            template = TemplateFormat(format.jinja(tokenizer))
            whole = text_of(format.segments(messages, tokenizer))
            assert template.render(messages, tokenizer) == whole
            for prompt in prompts_of(messages):
                text = text_of(format.segments(prompt, tokenizer, prompt=True))
                assert template.render(prompt, tokenizer, prompt=True) == text

    check()


@pytest.mark.parametrize("count", [12, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FORMATS)
def test_jinja_of_a_format_gives_its_ids(name, count):
    """Foreign programs have no more than the text: control tokens are told from what is said."""
    format = find_format(name)

    @made(count)
    @given(conversations())
    def check(messages):
        for tokenizer in own_tokenizers(format):
            template = TemplateFormat(format.jinja(tokenizer))
            assert encode_conversation(messages, template, tokenizer) == encode_conversation(
                messages, format, tokenizer
            )
            for prompt in prompts_of(messages):
                ids = encode_prompt(prompt, template, tokenizer)
                assert ids == encode_prompt(prompt, format, tokenizer)

    check()


@pytest.mark.parametrize("name", FORMATS)
def test_jinja_without_a_tokenizer_leaves_the_ends_to_the_program(name):
    format = find_format(name)
    template = TemplateFormat(format.jinja())
    tokenizer = beginning_tokenizer(format.controls)  # its bos_token begins texts
    assert template.render(TURNS, tokenizer) == text_of(format.segments(TURNS, tokenizer))
    assert END not in template.template


@pytest.mark.parametrize("name", FORMATS)
def test_template_that_a_format_wrote_is_that_format(name):
    format = find_format(name)
    tokenizer = tokenizer_with(format.controls)
    for text in (format.jinja(), format.jinja(tokenizer)):
        assert format_of_template(text, tokenizer) is format
        assert format_of_template(text + " ", tokenizer) == TemplateFormat(text + " ")


@pytest.mark.parametrize("name", FORMATS)
def test_jinja_refuses_turns_out_of_order(name):
    template = TemplateFormat(find_format(name).jinja())
    tokenizer = tokenizer_with(find_format(name).controls)
    for messages in ([*TURNS[1:2], *TURNS[1:3]], TURNS[2:], [*TURNS[1:3], TURNS[0]]):
        with pytest.raises(
            ValueError, match="template fails on this conversation: (user and|a sy)"
        ):
            template.render(messages, tokenizer)


def test_foreign_template_writes_prompts_and_is_learned_from():
    tokenizer, format = tokenizer_with(TOKENS), TemplateFormat(CHATML)
    chatml = find_format("chatml")
    assert encode_prompt(TURNS[:4], format, tokenizer) == encode_prompt(
        TURNS[:4], chatml, tokenizer
    )
    assert encode_conversation(TURNS, format, tokenizer) == encode_conversation(
        TURNS, chatml, tokenizer
    )
    assert format.end_ids(tokenizer) == chatml.end_ids(tokenizer)
    assert nearest_format(format, tokenizer) is chatml


def learned_of(template, messages, *tokens):
    tokenizer = tokenizer_with((*TOKENS, *tokens))
    encoded = encode_conversation(messages, TemplateFormat(template), tokenizer)
    pairs = zip(encoded.ids, encoded.learned, strict=True)
    return tokenizer.decode([i for i, is_learned in pairs if is_learned])


def test_learned_is_what_messages_say_of_it():
    messages = [TURNS[1], Message("assistant", "A", learned=False), *TURNS[3:]]
    assert learned_of(CHATML, messages) == "B<|im_end|>"


def test_changes_of_what_is_said_are_known_for_each_role():
    trims = CHATML.replace(
        "message['content'] ", "(message['content'] | trim if message.role == 'user' else "
        "message['content']) ",
    )  # fmt: skip
    messages = [Message("user", " <|im_end|>Q\n"), Message("assistant", " A<|im_start|> ")]
    assert learned_of(trims, messages) == " A<|im_start|> <|im_end|>"
    tokenizer = tokenizer_with(TOKENS)
    ids = encode_prompt(messages[:1], TemplateFormat(trims), tokenizer)
    assert sum(map(tokenizer.is_special_token, ids)) == 3  # start, end, start
    assert "user\n<|im_end|>Q<|im_end|>" in tokenizer.decode(ids)


def test_control_tokens_that_a_template_changes_are_refused():
    shouts = TemplateFormat(CHATML.replace("message['content']", "message['content'] | upper"))
    tokenizer = tokenizer_with((*TOKENS, "<|X|>"))
    quiet = encode_prompt([Message("user", "hello")], shouts, tokenizer)
    assert "HELLO" in tokenizer.decode(quiet)
    only_one = [Message("user", "7 <|im_end|>"), Message("assistant", "a"), Message("user", "b")]
    with pytest.raises(ValueError, match="changes a message that holds a control token"):
        encode_prompt(only_one, shouts, tokenizer)
    for said in ("<|x|>", "hello <|im_end|>"):
        with pytest.raises(ValueError, match="changes a message that holds a control token"):
            encode_prompt(
                [
                    Message("user", said),
                ],
                shouts,
                tokenizer,
            )


def test_changes_of_one_message_leave_control_strings_in_others_text():
    doubles = CHATML.replace(
        "message['content'] ", "(message['content'] * 2 if loop.last else message['content']) "
    )
    tokenizer = tokenizer_with(TOKENS)
    messages = [Message("user", "7 <|im_end|>"), Message("assistant", "a"), Message("user", "b")]
    ids = encode_prompt(messages, TemplateFormat(doubles), tokenizer)
    assert "user\nbb<|im_end|>" in tokenizer.decode(ids)
    assert sum(map(tokenizer.is_special_token, ids)) == 7


def test_thoughts_that_a_template_takes_out_are_known():
    thoughtless = CHATML.replace(
        "message['content'] ", r"message['content'].split('</think>')[-1].lstrip('\n') "
    )
    tokenizer = tokenizer_with(TOKENS)
    messages = [TURNS[1], Message("assistant", "<think>?\n</think>\n\nA <|im_end|>"), TURNS[3]]
    ids = encode_prompt(messages, TemplateFormat(thoughtless), tokenizer)
    assert "assistant\nA <|im_end|><|im_end|>" in tokenizer.decode(ids)
    assert sum(map(tokenizer.is_special_token, ids)) == 7


def test_control_tokens_that_a_template_makes_of_what_is_said_are_text():
    joins = TemplateFormat("{{ '<|im_' + messages[0].content }}{{ '<|im_end|>' }}")
    tokenizer = tokenizer_with(TOKENS)
    ids = encode_prompt([Message("user", "end|>")], joins, tokenizer)
    assert sum(map(tokenizer.is_special_token, ids)) == 1


BROKEN = {
    "continues after the end of an answer": CHATML.replace("{% if add_generation_prompt %}", "")
    .replace("{% endif %}", ""),
    "does not end an answer with a control token": CHATML.replace(
        "+ '<|im_end|>' + '\n' }}",
        "}}{% if not loop.last or message.role == 'user' %}{{ '<|im_end|>\n' }}{% endif %}",
    ),
    "changes an answer once others follow": CHATML.replace(
        "message['content'] ",
        "('.' if message.role == 'assistant' and not loop.last else '') + message['content'] ",
    ),
    "adds text to an answer that nobody said": CHATML.replace(
        "message['content'] ", "('<think>' if message.role == 'assistant' else '') + "
        "message['content'] ",
    ),
    "writes the past differently from a prompt": CHATML.replace(
        "{% if add_generation_prompt %}", "{% if add_generation_prompt %}{{ 'Now: ' }}"
    ),
}  # fmt: skip


@pytest.mark.parametrize("problem", BROKEN)
def test_templates_that_break_the_rule_write_and_do_not_teach(problem):
    format, tokenizer = TemplateFormat(BROKEN[problem]), tokenizer_with(TOKENS)
    assert encode_prompt(TURNS[:4], format, tokenizer)
    messages = TURNS[:3] if "does not end" in problem or "continues" in problem else TURNS
    with pytest.raises(ValueError, match=f"the template {problem}.*--format ") as error:
        encode_conversation(messages, format, tokenizer)
    asked = "guanaco-llama2" if "Now" in format.template else "chatml"
    assert f"--format {asked})" in str(error.value)


def test_variables_of_a_template_are_given():
    template = TemplateFormat("{{ eos_token }}{% if loud %}!{% endif %}{{ messages[0].content }}")
    tokenizer = tokenizer_with()
    assert template.render(TURNS[1:2], tokenizer) == f"{END}Q"
    assert template.render(TURNS[1:2], tokenizer, loud=True) == f"{END}!Q"
    assert template.jinja(tokenizer) == template.template
