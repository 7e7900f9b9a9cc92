"""`BytePairTokenizer`: encoding, decoding, special tokens, errors, copies."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm_scratch.tokenizers.any_tokenizer import fingerprint, text_to_token_ids
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.gpt2 import END_OF_TEXT, GPT2_PATTERN
from llm_scratch.tokenizers.simple import UnknownIdError, UnknownTokenError

MERGES = [(b"t", b"h"), (b" ", b"th"), (b" th", b"e")]
SAMPLE = "Don't the cats  sit\r\n\n on the wall? Ça va, 漢字 🔥\x00 they thought.\t"


@pytest.fixture(scope="module")
def small() -> BytePairTokenizer:
    return BytePairTokenizer(MERGES)


@pytest.fixture(scope="module")
def gpt2() -> BytePairTokenizer:
    return BytePairTokenizer.gpt2()


def test_bpe_ids_are_bytes_then_merges_then_specials(small):
    assert small.decode_single_token_bytes(0) == b"!"
    assert small.token_bytes(220) == b" "
    assert [small.token_bytes(i) for i in range(256, 260)] == [
        b"th",
        b" th",
        b" the",
        END_OF_TEXT.encode(),
    ]
    assert small.n_vocab == 260
    assert small.max_token_value == small.eot_token == 259
    assert sorted(small.token_bytes(i)[0] for i in range(256)) == list(range(256))


def test_bpe_encode_merges_in_the_order_of_learning(small):
    assert small.decode_tokens_bytes(small.encode(" the other")) == [
        *(b" the", b" ", b"o", b"th", b"e", b"r")
    ]


def test_bpe_encode_merges_from_left_to_right_without_overlap():
    tokenizer = BytePairTokenizer([(b"a", b"a")])
    assert tokenizer.decode_tokens_bytes(tokenizer.encode("aaa")) == [b"aa", b"a"]
    assert tokenizer.decode_tokens_bytes(tokenizer.encode("aaaa")) == [b"aa", b"aa"]


def test_bpe_gpt2_gives_the_books_ids(gpt2):
    assert gpt2.encode("Hello, I am") == [15496, 11, 314, 716]
    assert gpt2.name == "gpt2"
    assert gpt2.n_vocab == 50257


@given(st.text())
def test_bpe_decode_gives_the_text_back(text):
    tokenizer = BytePairTokenizer(MERGES)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", ["", " ", "x", SAMPLE, "   x  y z", "well ? yes .", "\x1c \x85"])
def test_bpe_decode_gives_known_texts_back(small, gpt2, text):
    for tokenizer in (small, gpt2):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_bpe_encode_takes_special_tokens_as_told(small):
    text = f"the{END_OF_TEXT}the"
    ids = small.encode(text, allowed_special="all")
    assert ids.count(259) == 1
    assert small.encode(text, allowed_special={END_OF_TEXT}) == ids
    assert small.decode(ids) == text
    assert 259 not in small.encode(text, disallowed_special=())
    assert small.encode_ordinary(text) == small.encode(text, disallowed_special=())
    with pytest.raises(ValueError, match=r"disallowed special token '<\|endoftext\|>'"):
        small.encode(text)


def test_bpe_encode_takes_the_longer_of_two_special_tokens():
    tokenizer = BytePairTokenizer([], ("<a>", "<a><b>"))
    assert tokenizer.encode("<a><b><a>", allowed_special="all") == [257, 256]


def test_bpe_special_tokens_may_bring_their_ids():
    tokenizer = BytePairTokenizer(MERGES, {"<first>": 0, "<far>": 400})
    assert tokenizer.encode("<first>!<far>", allowed_special="all") == [0, 1, 400]
    assert tokenizer.decode([0, 1, 400]) == "<first>!<far>"
    assert tokenizer.n_vocab == 401
    assert tokenizer.encode(" the") == [259]
    with pytest.raises(UnknownIdError, match="id 399 at position 1 is not in this vocabulary"):
        tokenizer.decode([1, 399])


def test_bpe_methods_with_tiktokens_names_agree_with_each_other(small):
    ids = small.encode(SAMPLE)
    assert small.encode_batch([SAMPLE, ""]) == [ids, []]
    assert small.encode_ordinary_batch([SAMPLE]) == [ids]
    assert small.encode_to_numpy(SAMPLE).tolist() == ids
    assert small.encode_to_numpy(SAMPLE).dtype == np.uint32
    assert small.decode_batch([ids, []]) == [SAMPLE, ""]
    assert small.decode_bytes_batch([ids]) == [SAMPLE.encode()]
    assert [small.encode_single_token(small.token_bytes(i)) for i in range(260)] == [*range(260)]
    assert small.special_tokens_set == {END_OF_TEXT}
    assert [i for i in range(260) if small.is_special_token(i)] == [259]
    assert len(small.token_byte_values()) == 259


def test_bpe_decode_with_offsets_points_to_characters(small):
    text, offsets = small.decode_with_offsets(small.encode("é the"))
    assert text == "é the"
    assert offsets == [0, 0, 1]


@pytest.mark.parametrize("make", [list, tuple, np.array, torch.tensor, iter])
def test_bpe_decode_takes_ids_of_any_kind(small, make):
    assert small.decode(make(small.encode("the 🔥"))) == "the 🔥"


def test_bpe_decode_replaces_half_a_character_unless_told_otherwise(small):
    half = small.encode("é")[:1]
    assert small.decode(half) == "\ufffd"
    with pytest.raises(UnicodeDecodeError):
        small.decode(half, errors="strict")


def test_bpe_text_to_token_ids_knows_its_special_token(small):
    assert text_to_token_ids(END_OF_TEXT, small).tolist() == [[259]]


@pytest.mark.parametrize("bad", [260, -1, 2**40])
def test_bpe_decode_refuses_ids_out_of_range(small, bad):
    with pytest.raises(UnknownIdError, match=f"id {bad} at position 1 .*its highest id is 259"):
        small.decode([0, bad])
    with pytest.raises(ValueError, match="another tokenizer"):
        small.token_bytes(bad)
    with pytest.raises(KeyError):
        small.decode_bytes([bad])


@pytest.mark.parametrize("bad", [[1.0], ["1"], [[1, 2]], [None], torch.tensor([1.0])])
def test_bpe_decode_refuses_what_is_no_whole_number(small, bad):
    with pytest.raises(TypeError, match="an id must be a whole number, got .* at position 0"):
        small.decode(bad)


@pytest.mark.parametrize("bad", [None, 1, b"the", ["the"]])
def test_bpe_encode_refuses_what_is_no_text(small, bad):
    for method in (small.encode, small.encode_ordinary, small.explain):
        with pytest.raises(TypeError, match=r"must be a str, got \w+"):
            method(bad)


@pytest.mark.parametrize("text", ["ab\ud800", "\udfff", f"{END_OF_TEXT}a\ud83d b"])
def test_bpe_encode_refuses_a_lone_surrogate_with_its_position(small, text):
    at = next(i for i, char in enumerate(text) if "\ud800" <= char <= "\udfff")
    with pytest.raises(ValueError, match=f"lone surrogate .* at position {at} "):
        small.encode(text, allowed_special="all")
    with pytest.raises(ValueError, match=f"position {at} "):
        small.encode_ordinary(text)


def test_bpe_encode_single_token_refuses_several(small):
    with pytest.raises(UnknownTokenError, match=r"'they' is not a single token; use encode\(\)"):
        small.encode_single_token("they")
    with pytest.raises(KeyError):
        BytePairTokenizer([], ()).eot_token  # noqa: B018


@pytest.mark.parametrize(
    ("merges", "error", "message"),
    [
        ([(b"th", b"e")], ValueError, r"merge 0 joins b'th' and b'e', but b'th' is not a byte"),
        (
            [(b"a", b"a"), (b"a", b"a")],
            ValueError,
            r"merge 1 makes b'aa', which is already a token",
        ),
        ([(b"a", b"b"), (b"b", b"c"), (b"a", b"bc"), (b"ab", b"c")], ValueError, "merge 3 makes"),
        ([("a", "b")], TypeError, r"merge 0 must be a pair of bytes, got \('a', 'b'\)"),
        ([(b"a",)], TypeError, "merge 0 must be a pair of bytes"),
        ([(97, 98)], TypeError, "merge 0 must be a pair of bytes"),
    ],
)
def test_bpe_refuses_merges_that_do_not_build_on_each_other(merges, error, message):
    with pytest.raises(error, match=message):
        BytePairTokenizer(merges)


@pytest.mark.parametrize(
    ("specials", "error", "message"),
    [
        (("<a>", "<b>", "<a>"), ValueError, "special token '<a>' is given twice"),
        ({"<a>": 3, "<b>": 3}, ValueError, "the id of a special token, 3 is given twice"),
        ({"<a>": -1}, ValueError, "must be 0 or more, got -1"),
        ({"<a>": 1.5}, TypeError, "integer"),
        (("",), ValueError, "must not be empty"),
        (("\ud800",), ValueError, "lone surrogate"),
        ((1,), TypeError, "a special token must be a str, got 1"),
        ("<a>", TypeError, "must be a tuple or list of names"),
        ({"<a>"}, TypeError, "must be a tuple or list of names"),
    ],
)
def test_bpe_refuses_special_tokens_without_a_clear_number(specials, error, message):
    with pytest.raises(error, match=message):
        BytePairTokenizer(MERGES, specials)


def test_bpe_refuses_a_pattern_that_is_none():
    with pytest.raises(ValueError, match=r"pattern '\(' is not a regular expression"):
        BytePairTokenizer([], pattern="(")
    with pytest.raises(TypeError, match="must be str"):
        BytePairTokenizer([], pattern=None)


def test_bpe_encode_refuses_a_pattern_that_would_lose_text():
    tokenizer = BytePairTokenizer([], pattern=r"\w+")
    assert tokenizer.decode(tokenizer.encode("word")) == "word"
    with pytest.raises(ValueError, match=r"matches 8 of 9 characters and would lose the others"):
        tokenizer.encode("two words"[:9])


@pytest.mark.parametrize("pattern", [r"(\w+)|(\W)", r"\w*|\W", r"[\s\S]"])
def test_bpe_takes_other_patterns(pattern):
    tokenizer = BytePairTokenizer(MERGES, pattern=pattern)
    assert tokenizer.decode(tokenizer.encode(SAMPLE)) == SAMPLE


def through_pickle(tokenizer: BytePairTokenizer) -> BytePairTokenizer:
    return pickle.loads(pickle.dumps(tokenizer))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, through_pickle])
def test_bpe_copies_and_pickles_are_equal_and_leave_the_cache_behind(copied):
    tokenizer = BytePairTokenizer(MERGES, {"<a>": 7}, name="mine")
    tokenizer.encode(SAMPLE)
    other = copied(tokenizer)
    assert (other.merges, other.special_tokens, other.name) == (MERGES, {"<a>": 7}, "mine")
    assert other.pattern == GPT2_PATTERN
    assert other.encode(SAMPLE) == tokenizer.encode(SAMPLE)
    assert len(pickle.dumps(tokenizer)) < 1000


def test_bpe_fingerprint_tells_vocabularies_apart(small, tokenizer, gpt2):
    assert gpt2.fingerprint == fingerprint(tokenizer)
    across_words = [(b":", b" ")]  # never merged when text is split by GPT-2's pattern
    others = [
        BytePairTokenizer(MERGES[:2]),
        BytePairTokenizer(MERGES, ("<other>",)),
        BytePairTokenizer(across_words),
        BytePairTokenizer(across_words, pattern=r"[\s\S]+"),
    ]
    prints = {small.fingerprint, *(other.fingerprint for other in others)}
    assert len(prints) == 5
    assert BytePairTokenizer(MERGES).fingerprint == small.fingerprint


def test_bpe_recipe_makes_the_tokenizer_again():
    parts = ([(b"t", b"h")], {"<|end|>": 3}, r"\w+|\W", "again", {"<word>": 9})
    made = BytePairTokenizer(*parts)
    again = BytePairTokenizer(*made.recipe)
    assert again.recipe == made.recipe == parts
    assert again.fingerprint == made.fingerprint


def test_bpe_added_words_are_one_id_and_not_special():
    bpe = BytePairTokenizer([(b"t", b"h")], {"<|end|>": 3}, added_words={"<word>": 300, "th": 257})
    assert bpe.encode("th<word>") == bpe.encode_ordinary("th<word>") == [257, 300]
    assert bpe.decode([300, 257]) == "<word>th"
    assert (bpe.n_vocab, bpe.special_tokens) == (301, {"<|end|>": 3})
    for words, message in (
        ({"<|end|>": 300}, "an added word and a special token are the same"),
        ({"<word>": 3}, "or have the same id"),
        ({"th": 300}, "'th' is the token 257, not 300"),
    ):
        with pytest.raises(ValueError, match=message):
            BytePairTokenizer([(b"t", b"h")], {"<|end|>": 3}, added_words=words)
