from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm_scratch.tokenizers.simple import (
    SimpleTokenizerV1,
    SimpleTokenizerV2,
    UnknownIdError,
    UnknownTokenError,
    build_vocab,
    split_words,
)

SPECIALS = ("<|endoftext|>", "<|unk|>")
QUOTED = (
    '"It\'s the last he painted, you know," \n           Mrs. Gisburn said with pardonable pride.'
)
QUOTED_IDS = [1, 56, 2, 850, 988, 602, 533, 746, 5, 1126, 596, 5, 1, 67, 7, 38, 851, 1108, 754]
JOINED = "Hello, do you like tea? <|endoftext|> In the sunlit terraces of the palace."
JOINED_IDS = [1131, 5, 355, 1126, 628, 975, 10, 1130, 55, 988, 956, 984, 722, 988, 1131, 7]


@pytest.fixture
def book_vocab(verdict: str) -> dict[str, int]:
    return build_vocab(split_words(verdict))


@pytest.fixture
def book_vocab_with_specials(verdict: str) -> dict[str, int]:
    return build_vocab(split_words(verdict), SPECIALS)


# --- the book's figures


def test_verdict_has_the_books_length(verdict):
    assert len(verdict) == 20479
    assert verdict[:99] == (
        "I HAD always thought Jack Gisburn rather a cheap genius--though a good fellow enough--so "
        "it was no "
    )


def test_split_words_gives_the_books_pieces():
    assert split_words("Hello, world. Is this-- a test?") == (
        ["Hello", ",", "world", ".", "Is", "this", "--", "a", "test", "?"]
    )


def test_split_words_gives_the_books_first_thirty_words(verdict):
    words = split_words(verdict)
    assert len(words) == 4690
    assert " ".join(words[:30]) == (
        "I HAD always thought Jack Gisburn rather a cheap genius -- though a good fellow enough -- "
        "so it was no great surprise to me to hear that , in"
    )


def test_build_vocab_gives_the_books_numbers(book_vocab):
    assert len(book_vocab) == 1130
    assert list(book_vocab.items())[:11] == list(
        zip(["!", '"', "'", "(", ")", ",", "--", ".", ":", ";", "?"], range(11), strict=True)
    )
    assert list(book_vocab)[43:51] == (
        ["Grindles", "HAD", "Had", "Hang", "Has", "He", "Her", "Hermia"]
    )


def test_build_vocab_puts_special_tokens_last_as_the_book(book_vocab_with_specials):
    assert len(book_vocab_with_specials) == 1132
    assert list(book_vocab_with_specials.items())[-5:] == [
        ("younger", 1127),
        ("your", 1128),
        ("yourself", 1129),
        ("<|endoftext|>", 1130),
        ("<|unk|>", 1131),
    ]


def test_v1_gives_the_books_ids_and_text(book_vocab):
    tokenizer = SimpleTokenizerV1(book_vocab)
    ids = tokenizer.encode(QUOTED)
    assert ids == [*QUOTED_IDS, 793, 7]
    assert tokenizer.decode(ids) == (
        '" It\' s the last he painted, you know," Mrs. Gisburn said with pardonable pride.'
    )


def test_v1_refuses_the_books_unknown_word(book_vocab):
    with pytest.raises(UnknownTokenError, match=r"^'Hello' is not .* 1130 .* SimpleTokenizerV2"):
        SimpleTokenizerV1(book_vocab).encode("Hello, do you like tea. Is this-- a test?")


def test_v2_gives_the_books_ids_and_text(book_vocab_with_specials):
    tokenizer = SimpleTokenizerV2(book_vocab_with_specials)
    ids = tokenizer.encode(JOINED)
    assert ids == JOINED_IDS
    assert tokenizer.decode(ids) == (
        "<|unk|>, do you like tea? <|endoftext|> In the sunlit terraces of the <|unk|>."
    )


# --- invariants


def test_decode_reattaches_colon_and_semicolon_in_v2_only():
    text = "a: b; c, d. e? f!"
    vocab = build_vocab(split_words(text), SPECIALS)
    v1, v2 = SimpleTokenizerV1(vocab), SimpleTokenizerV2(vocab)
    assert v1.decode(v1.encode(text)) == "a : b ; c, d. e? f!"
    assert v2.decode(v2.encode(text)) == text


@given(st.text())
def test_split_words_with_spaces_joins_to_the_text(text):
    assert "".join(split_words(text, keep_spaces=True)) == text


@given(st.text())
def test_split_words_drops_nothing_but_spaces(text):
    assert "".join(split_words(text)) == "".join(text.split())


@given(st.text())
@pytest.mark.parametrize("tokenizer_class", [SimpleTokenizerV1, SimpleTokenizerV2])
def test_simple_tokenizers_keeping_spaces_give_the_text_back(tokenizer_class, text):
    vocab = build_vocab(split_words(text, keep_spaces=True), SPECIALS)
    tokenizer = tokenizer_class(vocab, keep_spaces=True)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_simple_tokenizers_keep_line_breaks_and_dashes_on_request():
    text = "left--right\n\nend"
    vocab = build_vocab(split_words(text, keep_spaces=True))
    exact = SimpleTokenizerV1(vocab, keep_spaces=True)
    assert exact.decode(exact.encode(text)) == text
    lossy = SimpleTokenizerV1(vocab)
    assert lossy.decode(lossy.encode(text)) == "left -- right end"


@given(st.text(), st.text())
def test_v2_encodes_any_text_and_decodes_its_own_ids(known, text):
    tokenizer = SimpleTokenizerV2(build_vocab(split_words(known), SPECIALS))
    assert isinstance(tokenizer.decode(tokenizer.encode(text)), str)


def test_build_vocab_does_not_depend_on_order_or_count():
    assert build_vocab(["b", "a", "b"]) == build_vocab(iter(["a", "b"])) == {"a": 0, "b": 1}


def test_build_vocab_counts_a_special_token_in_the_text_once():
    assert build_vocab(["<|unk|>", "b"], ["<|unk|>", "<|unk|>"]) == {"b": 0, "<|unk|>": 1}


def test_simple_tokenizers_tell_their_size():
    vocab = build_vocab(["a", "b"], SPECIALS)
    assert SimpleTokenizerV1(vocab).n_vocab == SimpleTokenizerV2(vocab).n_vocab == 4


@pytest.mark.parametrize("ids", [[0, 1], (0, 1), np.array([0, 1]), torch.tensor([0, 1])])
def test_simple_tokenizers_decode_lists_arrays_and_tensors(ids):
    vocab = build_vocab(["a", "b"], SPECIALS)
    assert SimpleTokenizerV1(vocab).decode(ids) == SimpleTokenizerV2(vocab).decode(ids) == "a b"


# --- errors


def test_v1_unknown_word_is_a_value_error_and_a_key_error():
    tokenizer = SimpleTokenizerV1(build_vocab(["a", "b", "c"]))
    for kind in (ValueError, KeyError):
        with pytest.raises(kind, match="^'d' is not in the vocabulary of 3 tokens"):
            tokenizer.encode("a d")


@pytest.mark.parametrize("tokenizer_class", [SimpleTokenizerV1, SimpleTokenizerV2])
@pytest.mark.parametrize("bad_id", [4, -1])
def test_simple_tokenizers_name_an_id_that_they_do_not_know(tokenizer_class, bad_id):
    tokenizer = tokenizer_class(build_vocab(["a", "b"], SPECIALS))
    with pytest.raises(UnknownIdError, match=rf"^id {bad_id} is not .* 4 tokens"):
        tokenizer.decode([0, bad_id])


def test_v2_asks_for_an_unknown_token_in_its_vocabulary():
    with pytest.raises(ValueError, match=r"lacks '<\|unk\|>'; build it with build_vocab"):
        SimpleTokenizerV2(build_vocab(["a"]))


def test_build_vocab_refuses_a_text_that_is_not_split():
    with pytest.raises(TypeError, match="split_words"):
        build_vocab("a text")
