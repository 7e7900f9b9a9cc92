"""What does not fit, what is kept in a file, and what was only thought."""

from __future__ import annotations

import json
import warnings

import pytest
from chat_models import chat_tokenizer, scripted_session, small_session

from llm_scratch.chat.fitting import NoRoomError
from llm_scratch.chat.saved import ChatFileError, read_chat
from llm_scratch.chat.thoughts import ThoughtSplitter, as_read, thoughts_of, without_thoughts
from llm_scratch.conversations.encoding import encode_prompt
from llm_scratch.conversations.formats import FORMATS, find_format
from llm_scratch.conversations.messages import Message
from llm_scratch.conversations.templates import TemplateFormat
from llm_scratch.generation.choosing import SamplingSettings
from llm_scratch.tokenizers.any_tokenizer import decode

THINK = ("<think>", "</think>")
CHATML = find_format("chatml")


def tokens_of(*messages):
    return len(encode_prompt(messages, CHATML, chat_tokenizer()))


def test_whole_oldest_turns_go_and_the_reply_says_which():
    session = small_session(system="Be kind.", context=200, max_new_tokens=10)
    forgotten = []
    for number in range(12):
        before = session.messages
        reply = session.reply(f"{number} What is the tide?")
        str(reply)
        gone = reply.forgotten
        assert session.messages[:1] == before[:1]
        assert (
            session.messages[1 : len(before) - len(gone.messages)]
            == (before[1 + len(gone.messages) :])
        )
        assert gone.messages == before[1 : 1 + len(gone.messages)]
        assert len(reply.prompt_ids) + 10 <= 200
        assert list(reply.prompt_ids) == encode_prompt(
            session.messages[:-1], CHATML, session.tokenizer
        )
        if gone.turns:
            whole = tokens_of(*before, Message("user", f"{number} What is the tide?"))
            assert whole + 10 > 200
            assert gone.tokens == whole - len(reply.prompt_ids)
        forgotten.append(gone.turns)
    assert forgotten[0] == 0
    assert sum(forgotten) > 2
    assert sum(forgotten) == 12 - len(session.messages) // 2


def test_two_turns_that_go_together_are_said_so():
    session = small_session(context=100, max_new_tokens=4)
    for _ in range(4):
        str(session.reply("Why?"))
    reply = session.reply("The tide is the rise and fall of the sea. " * 3)
    assert reply.forgotten.turns > 1
    said = f"forgot the {reply.forgotten.turns} oldest turns ({reply.forgotten.tokens} tokens)"
    assert str(reply.forgotten) == f"{said} to fit 100"


@pytest.mark.parametrize("overflow", ["drop", "stop"])
def test_what_never_fits_is_refused_with_three_numbers(overflow):
    session = small_session(system="Be kind.", context=80, max_new_tokens=40, overflow=overflow)
    str(session.reply("Why?"))
    before = session.messages
    newest = Message("user", "The tide and the sea. " * 20)
    with pytest.raises(NoRoomError) as caught:
        session.reply(newest.content)
    assert session.messages == before
    error = caught.value
    assert (error.answer_tokens, error.context) == (20, 80)  # a quarter is kept for the answer
    if overflow == "drop":
        assert error.prompt_tokens == tokens_of(before[0], newest)
    assert f"{error.prompt_tokens:,} tokens" in str(error)


def test_stop_never_drops():
    session = small_session(context=100, max_new_tokens=10, overflow="stop")
    while tokens_of(*session.messages, Message("user", "What is the tide?")) + 10 <= 100:
        str(session.reply("What is the tide?"))
        assert session.last_reply.forgotten.turns == 0
    before = session.messages
    assert len(before) > 2
    with pytest.raises(NoRoomError, match="the conversation has .* let the oldest turns go"):
        session.reply("What is the tide?")
    assert session.messages == before


def test_an_answer_ends_with_the_context_and_can_go_no_further():
    session = scripted_session("The tide is high. " * 30, context=60, max_new_tokens=500)
    reply = session.reply("How?")
    str(reply)
    assert reply.finish_reason == "length"
    assert len(reply.prompt_ids) + len(reply.ids) == 60
    with pytest.raises(NoRoomError, match="context is 60"):
        session.continue_()


def test_saved_and_loaded_it_goes_on_as_if_it_had_not_been(tmp_path):
    settings = SamplingSettings(0.9, top_k=20)
    one = small_session(system="Be kind.", settings=settings)
    str(one.reply("What is the tide? \U0001f525 <|im_end|>"))
    one.save(tmp_path / "talk.json")
    other = small_session(seed=99)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saved = other.load(tmp_path / "talk.json")
    assert saved.messages == other.messages == one.messages
    assert other.options == one.options
    assert str(other.reply("Why?")) == str(one.reply("Why?"))
    content = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert set(content) == {
        "format_version", "model", "weights_sha256", "format", "settings", "messages",
    }  # fmt: skip
    assert content["messages"][0] == {"role": "system", "content": "Be kind."}
    assert list(tmp_path.iterdir()) == [tmp_path / "talk.json"]
    assert "<b style" in read_chat(tmp_path / "talk.json")._repr_html_()


def test_another_model_or_format_is_said(tmp_path):
    one = small_session()
    str(one.reply("Why?"))
    one.save(tmp_path / "talk.json")
    other = scripted_session("Yes.", format="transcript")
    with pytest.warns(UserWarning, match="was saved with") as found:
        other.load(tmp_path / "talk.json")
    said = [str(each.message) for each in found]
    assert ["other weights (LlamaModel)" in said[0], "format 'chatml'" in said[1]] == [True, True]
    assert other.messages == one.messages


USER, BOT = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("{", "is damaged"),
        ("[]", "not an object"),
        ('{"text": "x"}', "is not a saved chat: it has no 'format_version'"),
        ({"format_version": 2}, "version 2, this library reads 1"),
        ({"model": None}, "must be texts"),
        ({"settings": []}, "settings are a list"),
        ({"settings": {"temperature": "hot"}}, "a setting that can't be used"),
        ({"settings": {"settings": {}}}, "a setting that can't be used"),
        ({"settings": {"context": []}}, "a setting that can't be used"),
        ({"settings": {"volume": 1}}, "no setting 'volume'"),
        ({"settings": {"answers": -1}}, "answers=-1"),
        ({"messages": {}}, "messages are an object"),
        ({"messages": [USER]}, "must take turns"),
        ({"messages": [BOT, USER]}, "must take turns"),
        ({"messages": [USER, {"role": "tool", "content": ""}]}, "message 2 has no role and text"),
        ({"messages": [USER, {"role": "assistant", "content": 3}]}, "message 2 has no role"),
        ({"messages": [USER, 7]}, "message 2 has no role"),
        ({"messages": [{"role": "user", "content": "\ud83d"}, BOT]}, "message 1 has no role"),
    ],
)
def test_a_file_that_is_no_chat_changes_nothing(tmp_path, changes, message):
    session, path = small_session(), tmp_path / "talk.json"
    str(session.reply("Why?"))
    session.save(path)
    text = changes
    if isinstance(changes, dict):
        text = json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes})
    path.write_text(text, encoding="utf-8")
    before = session.messages, session.options
    with pytest.raises(ChatFileError, match=message):
        session.load(path)
    assert (session.messages, session.options) == before


def test_a_thought_is_kept_and_not_read_again():
    session = scripted_session(
        "<think>\nHm, the sea.\n</think>\n\nHigh.", "Low.", format=FORMATS["qwen3"]
    )
    str(session.reply("How?"))
    assert session.messages[-1].content == "<think>\nHm, the sea.\n</think>\n\nHigh."
    str(session.reply("And now?"))
    read = decode(session.tokenizer, session.last_reply.prompt_ids)
    assert "assistant\nHigh.<|im_end|>" in read
    assert "Hm" not in read


def test_a_question_whose_answer_is_only_thought_is_not_read_again():
    session = scripted_session("<think>\nHm, the sea.", "Low.", format=FORMATS["qwen3"])
    str(session.reply("How?"))
    str(session.reply("And now?"))
    read = decode(session.tokenizer, session.last_reply.prompt_ids)
    assert "How?" not in read
    assert "And now?" in read


def test_a_prompt_that_begins_the_thought_says_so():
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content.split('</think>')[-1].strip() }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    session = scripted_session("Hm.\n</think>\n\nHigh.", format=TemplateFormat(template))
    reply = session.reply("How?")
    assert reply.thinking
    str(reply)
    assert session.messages[-1].content == "<think>\nHm.\n</think>\n\nHigh."


def test_thoughts_are_taken_out_of_what_is_read():
    assert without_thoughts("<think>a</think>\n\nb", THINK) == "b"
    assert without_thoughts("a</think>b", THINK) == "b"
    assert without_thoughts(" <think>a", THINK) == ""
    assert without_thoughts("b <think>", THINK) == "b <think>"
    assert without_thoughts("<think>a</think>b", None) == "<think>a</think>b"
    said = [Message("user", "1"), Message("assistant", " "), Message("user", "2")]
    assert as_read(said, None) == said[2:]
    assert thoughts_of(FORMATS["qwen3"]) == THINK
    assert thoughts_of(FORMATS["chatml"]) is None


@pytest.mark.parametrize("size", range(1, 12))
def test_a_thought_is_told_from_what_is_said_however_it_comes(size):
    for text, thinking, expected in (
        ("\n<think>hm < so</think>\n\nHigh </b>", False, [("\n<think>hm < so</think>", True)]),
        ("hm < so</think>High", True, [("hm < so</think>", True)]),
        ("<thin ice> High", False, []),
        ("<thin", False, []),
        ("<think>hm </thi", False, [("<think>hm </thi", True)]),
    ):
        splitter = ThoughtSplitter(THINK, thinking)
        found = [
            part
            for start in range(0, len(text), size)
            for part in splitter.push(text[start : start + size])
        ]
        found += splitter.flush()
        thought = "".join(part for part, is_thought in found if is_thought)
        assert thought == "".join(part for part, _ in expected)
        assert "".join(part for part, _ in found) == text
        assert all(part for part, _ in found)


def test_a_model_with_a_shorter_context_takes_a_chat_over_within_it(tmp_path):
    one = small_session()
    str(one.reply("Why?"))
    one.save(tmp_path / "talk.json")
    shorter = small_session(context=100)
    shorter.load(tmp_path / "talk.json")
    assert shorter.options.context == shorter.model.cfg.context_length
    assert one.options.context > shorter.options.context
