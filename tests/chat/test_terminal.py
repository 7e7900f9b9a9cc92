"""A conversation in a terminal, without one: lines in, text out."""

from __future__ import annotations

import io
import re

import pytest
from chat_models import scripted_session, small_session

from llm_scratch.chat.commands import COMMANDS
from llm_scratch.chat.terminal import AGAIN, INTERRUPTED, Screen, Terminal
from llm_scratch.chat.typed import Command, next_input, piped_lines
from llm_scratch.conversations.display import DIM, RESET
from llm_scratch.conversations.formats import FORMATS


def reader(*lines):
    """Gives these lines, raises those that are errors, and ends."""
    left = iter(lines)

    def read_line(prompt):
        line = next(left, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    return read_line


def talk(session, *lines, prompts=True, colour=False, **options):
    out = io.StringIO()
    screen = Screen(out, out, colour, prompts)
    options = {"stats": False, **options}
    status = Terminal(session, reader(*lines), screen, **options).run()
    return status, out.getvalue()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Why?"], "Why?"),
        (["/undo"], Command("undo", "")),
        (["/set  top_k  3 "], Command("set", "top_k  3")),
        (["/nothing here"], Command("nothing", "here")),
        (["/"], Command("", "")),
        (["//usr/bin"], "/usr/bin"),
        ([" /undo"], " /undo"),
        (['"""one', "/undo", 'two"""'], "one\n/undo\ntwo"),
        (['"""one"""'], "one"),
        (['"""', "one", '"""'], "\none\n"),
        (['"""one', "two"], "one\ntwo"),
        (["/multi", "one", "/undo", "/end"], "one\n/undo"),
        (["/multi STOP", "/end", "STOP"], "/end"),
        (["/multi", "one\ntwo\n/end"], "one\ntwo"),
        (["/multi", "one"], "one"),
        (["first\n/undo\nlast"], "first\n/undo\nlast"),
        (["/usr/bin\nlast"], "/usr/bin\nlast"),
        (["// a comment\ncode()"], "// a comment\ncode()"),
        (["/system Be kind.\nAnd brief."], Command("system", "Be kind.\nAnd brief.")),
    ],
)
def test_an_input_is_a_message_or_a_command(lines, expected):
    assert next_input(reader(*lines), "", COMMANDS) == expected


def test_piped_lines_are_utf8_and_end_anyhow():
    class Pipe:
        buffer = io.BytesIO("caf\u00e9\r\n\n\U0001f525".encode())

    read_line = piped_lines(Pipe())
    assert [read_line("") for _ in range(3)] == ["caf\u00e9", "", "\U0001f525"]
    with pytest.raises(EOFError):
        read_line("")


def test_speakers_are_named_for_somebody_and_not_for_a_pipe():
    status, shown = talk(scripted_session("High."), "How is the tide?", "")
    assert (status, shown) == (0, "Bot:  High.\n\n")
    assert talk(scripted_session("High."), "How is the tide?", prompts=False) == (0, "High.\n")


def test_stats_are_in_the_words_of_the_series():
    _, shown = talk(scripted_session("High."), "How?", "Why?", stats=True)
    pattern = r"\d+ tokens in \d\.\d\ds: \d+\.\d\d tokens/s, prompt \d+ tokens \(0 reused\) in \d"
    lines = [line for line in shown.splitlines() if " tokens/s" in line]
    assert len(lines) == 2
    assert all(re.match(pattern, line) for line in lines)


def test_debug_shows_what_is_sent_and_what_comes_back():
    session = scripted_session("High.")
    _, shown = talk(session, "How?", debug=True)
    lines = shown.splitlines()
    places = [
        lines.index(mark)
        for mark in (
            ">>> sending to model", "<<< end of send", ">>> model returns", "<<< end model result",
        )
    ]  # fmt: skip
    assert places == sorted(places)
    assert lines[places[0] + 1] == "<|im_start|>user"
    assert lines[places[2] + 1] == "High.<|im_end|>"
    sent, reply = lines[places[1] + 1], session.last_reply
    assert sent.startswith(f"{len(reply.prompt_ids)} ids: {reply.prompt_ids[0]} ")
    assert lines[-2] == (
        f"{len(reply.ids)} ids: {' '.join(map(str, reply.ids))}; ended by stop ('<|im_end|>')"
    )


def test_commands_do_what_they_say(tmp_path):
    session, path = small_session(system="Be kind."), tmp_path / "talk.json"
    status, shown = talk(
        session, "Why?", "/save " + str(path), "/regen", "And now?", "/undo", "/show history",
        "/clear", f"/load {path}", "/system", "/system Be brief.", "/set temperature 0.5",
        "/set top_k all", "/set seed 7", "/show", "/show prompt", "/show tokens", "/help",
    )  # fmt: skip
    assert status == 0
    assert [each.role for each in session.messages] == ["system", "user", "assistant"]
    assert session.messages[0].content == "Be brief."
    assert (session.options.settings.temperature, session.options.seed) == (0.5, 7)
    for text in (
        "saved 3 messages", "a temperature of 0 writes the same again", "took back: And now?",
        "system: Be kind.\nuser: Why?\nassistant: ", "forgot what was said", "3 messages from",
        "\nBe kind.\n", "temperature          0.5\n", "top_k                all\n",
        "<|im_start|>system\nBe kind.<|im_end|>", "tokens read, ", "/multi [END]",
    ):  # fmt: skip
        assert text in shown, text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/nothing", "no command /nothing, and nothing was sent; /help"),
        ("/undo", "nothing to take back"),
        ("/regen", "ask something first"),
        ("/continue", "no answer to continue"),
        ("/set volume 3", "/set NAME VALUE sets one of temperature"),
        ("/set temperature", "/set NAME VALUE"),
        ("/set temperature hot", "temperature is a number, not 'hot'"),
        ("/set top_k 1.5", "top_k is a whole number"),
        ("/set context 9999", "more than this model's 512"),
        ("/set seed none", "seed=None"),
        ("/show all", "/show all is unknown"),
        ("/show prompt", "nothing has been sent"),
        ("/save", "name a file"),
        ("/load no/such/file", "no/such/file"),
        ("The tide. " * 200, "are reserved for an answer"),
    ],
)
def test_mistakes_are_shown_and_change_nothing(line, message):
    session = small_session()
    before = session.messages, session.options
    status, shown = talk(session, line, prompts=False)
    assert message in shown
    assert status == 1
    assert shown.count("\n") == 1
    assert (session.messages, session.options) == before
    assert talk(session, line)[0] == 0  # somebody has seen it


def test_the_end_of_input_and_exit_leave():
    assert talk(small_session()) == (0, "\n")
    session = small_session()
    assert talk(session, "/exit", "Why?")[0] == 0
    assert session.messages == ()


def test_ctrl_c_at_the_prompt_asks_first_and_an_input_between_counts():
    stop = KeyboardInterrupt()
    status, shown = talk(small_session(), stop, "/show", stop, stop, "Why?")
    assert status == INTERRUPTED
    assert shown.count(AGAIN) == 2


def test_ctrl_c_stops_an_answer_alone_and_continue_goes_on():
    session = scripted_session("The tide is high.", raises={4: KeyboardInterrupt()})
    _, shown = talk(session, "How?", "/show settings")
    said = session.messages[-1].content
    assert f"Bot:  {said}\n[stopped; /continue]\n" in shown
    assert 0 < len(said) < len("The tide is high.")
    assert "temperature" in shown  # it went on
    status, _ = talk(
        scripted_session("The tide is high.", raises={3: KeyboardInterrupt()}),
        "How?",
        prompts=False,
    )
    assert status == INTERRUPTED


def test_an_answer_that_reached_its_length_says_how_to_go_on():
    session = scripted_session("The tide is high.", max_new_tokens=4)
    _, shown = talk(session, "How?", "/continue", "/set max_new_tokens 500", "/continue")
    assert "[stopped at 4 tokens; /continue]" in shown
    assert "[stopped at 8 tokens; /continue]" in shown
    assert session.messages[-1].content == "The tide is high."


def test_a_model_cannot_drive_the_terminal():
    session = scripted_session("\x1b[2J\x1b]0;title\x07 ok\r\x9b5n")
    _, shown = talk(session, "How?", "/show history", "/show prompt", debug=True)
    assert not set("\x1b\x07\r\x9b") & set(shown)
    assert r"Bot:  \x1b[2J\x1b]0;title\x07 ok\r\x9b5n" in shown


def test_thoughts_are_dim_where_there_is_colour():
    text = "<think>Hm.</think>\nHigh."
    for colour, expected in ((True, f"{DIM}<think>Hm.</think>{RESET}\nHigh."), (False, text)):
        session = scripted_session(text, format=FORMATS["qwen3"])
        _, shown = talk(session, "How?", colour=colour)
        assert shown.replace(f"{RESET}{DIM}", "").startswith(f"Bot:  {expected}\n")


def test_what_is_forgotten_is_said():
    session = small_session(context=100, max_new_tokens=10)
    _, shown = talk(session, *["What is the tide?"] * 5)
    assert "forgot the oldest turn (" in shown
    assert "tokens) to fit 100\nBot:  " in shown
