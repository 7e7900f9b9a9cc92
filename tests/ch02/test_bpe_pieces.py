"""The split into pieces: the fast patterns and the blocks change nothing."""

from __future__ import annotations

import io
import itertools

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from llm_scratch.tokenizers.bpe_pieces import file_blocks, find_pieces, split_specials, text_blocks
from llm_scratch.tokenizers.gpt2 import GPT2_PATTERN

UNICODE = regex.compile(GPT2_PATTERN)
SPLIT_SENSITIVE = "aZ09'sdtmlvre_-.,! \t\n\r\v\f\x00\x1c\x1d\x1e\x1f\x7f"
blanks_and_words = st.text(alphabet=" \n\t\r\x1c\x85\xa0\u3000ab'1é漢.", max_size=60)


def test_ascii_pattern_equals_gpt2s_on_every_three_characters():
    for parts in itertools.product(SPLIT_SENSITIVE, repeat=3):
        text = "".join(parts)
        assert find_pieces(text) == UNICODE.findall(text)


def test_ascii_pattern_equals_gpt2s_on_every_two_ascii_characters():
    for first, second in itertools.product(map(chr, range(128)), repeat=2):
        assert find_pieces(first + second) == UNICODE.findall(first + second)


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_ascii_pattern_equals_gpt2s_on_any_ascii(text):
    assert find_pieces(text) == UNICODE.findall(text)


@given(blanks_and_words, st.integers(1, 9))
def test_text_blocks_split_into_the_pieces_of_the_whole(text, size):
    blocks = list(text_blocks(text, GPT2_PATTERN, size))
    assert "".join(blocks) == text
    assert [p for block in blocks for p in UNICODE.findall(block)] == UNICODE.findall(text)


def test_text_blocks_are_short_where_the_text_allows_it():
    blocks = list(text_blocks("one two " * 100, GPT2_PATTERN, 10))
    assert max(map(len, blocks)) <= 14
    assert list(text_blocks("one two " * 100, "other", 10)) == ["one two " * 100]
    assert list(text_blocks("x" * 100, GPT2_PATTERN, 10)) == ["x" * 100]


@given(blanks_and_words, st.integers(1, 9))
def test_file_blocks_split_into_the_pieces_of_the_whole(text, size):
    blocks = list(file_blocks(io.StringIO(text, newline=""), size=size))
    assert "".join(blocks) == text
    assert [p for block in blocks for p in UNICODE.findall(block)] == UNICODE.findall(text)
    assert list(file_blocks(io.StringIO(text, newline=""), whole=True, size=size)) == [text]


def test_file_blocks_hold_about_as_much_as_is_read_at_once():
    blocks = list(file_blocks(io.StringIO("one two " * 1000), size=100))
    assert max(map(len, blocks)) <= 110


def test_split_specials_takes_the_longest_from_the_left():
    assert split_specials("a<x>b<x>>c", ("<x>", "<x>>")) == ["a", "<x>", "b", "<x>>", "c"]
    assert split_specials("abc", ()) == ["abc"]
    assert split_specials("a.b", (".",)) == ["a", ".", "b"]


@pytest.mark.parametrize("pattern", [r"(\w)(\w)|\s", r"\w?"])
def test_find_pieces_gives_whole_matches_that_are_not_empty(pattern):
    assert "".join(find_pieces("abcd", pattern)) == "abcd"
    assert "" not in find_pieces("abcd", pattern)
