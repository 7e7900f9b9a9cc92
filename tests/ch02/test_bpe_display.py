"""Tokens in colours and merges step by step."""

from __future__ import annotations

import html
import re

import pytest

from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.bpe_display import token_text
from llm_scratch.tokenizers.gpt2 import END_OF_TEXT


@pytest.fixture(scope="module")
def gpt2() -> BytePairTokenizer:
    return BytePairTokenizer.gpt2()


def test_explain_goes_from_bytes_to_the_tokens_one_merge_a_step(gpt2):
    steps = list(gpt2.explain("lower"))
    assert [str(step) for step in steps] == [
        "l|o|w|e|r",
        "l|o|w|er   ('e' + 'r' = token 263)",
        "l|ow|er   ('o' + 'w' = token 322)",
        "l|ower   ('ow' + 'er' = token 789)",
        "lower   ('l' + 'ower' = token 21037)",
    ]
    assert steps[0].merged is None
    assert steps[1].merged == (b"e", b"r")


@pytest.mark.parametrize("text", ["Hello, world", "unbelievable aaaaaaa", "é🔥漢字", "   \n x", ""])
def test_explain_ends_where_encode_does(gpt2, text):
    steps = list(gpt2.explain(text))
    followers = [*steps[1:], None][: len(steps)]
    ends = [
        step.tokens
        for step, following in zip(steps, followers, strict=True)
        if following is None or following.merged is None  # the next one begins another piece
    ]
    tokens = [token for piece in ends for token in piece]
    assert tokens == gpt2.decode_tokens_bytes(gpt2.encode(text))


def test_show_puts_bars_between_tokens_where_there_are_no_colours(gpt2):
    shown = gpt2.show(f"Hello, wörld\n{END_OF_TEXT}")
    assert str(shown) == ("Hello|,| w|ör|ld|↵|<|endoftext|>\n15496 11 266 30570 335 198 50256")
    assert repr(shown) == str(shown)
    assert len(gpt2.show(END_OF_TEXT, special="text").ids) == 7


def test_show_colours_tokens_in_turn_in_a_terminal(gpt2, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    shown = str(gpt2.show("Hello, world"))
    backgrounds = re.findall(r"\x1b\[30;48;5;(\d+)m", shown)
    assert len(backgrounds) == 3
    assert all(a != b for a, b in zip(backgrounds, backgrounds[1:], strict=False))
    assert re.sub(r"\x1b\[[\d;]*m", "", shown) == "Hello15496 ,11  world995"
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in str(gpt2.show("Hello"))


def test_show_is_html_in_a_notebook(gpt2):
    page = gpt2.show("<b>&\nHello there")._repr_html_()
    text = html.unescape(re.sub(r"<sub[^>]*>\d+</sub>|<[^>]*>", "", page))
    assert text == "<b>&↵Hello there"
    assert page.count("<br>") == 1
    assert ">15496</sub>" in page
    backgrounds = re.findall(r"background:(#\w+)", page)
    assert all(a != b for a, b in zip(backgrounds, backgrounds[1:], strict=False))


@pytest.mark.parametrize(
    ("token", "text"),
    [(b"\xe2\x80", r"\xe2\x80"), (b"\n\t\r", "↵⇥␍"), (b" a", " a"), (b"\x00\x1b", r"\x00\x1b")],
)
def test_token_text_shows_what_can_not_be_printed(token, text):
    assert token_text(token) == text


def test_repr_names_the_tokenizer(gpt2):
    assert repr(gpt2) == "BytePairTokenizer(name='gpt2', n_vocab=50257)"
