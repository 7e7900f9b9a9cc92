from __future__ import annotations

import copy
import hashlib
import pickle

import numpy as np
import pytest
import torch

from llm_scratch.tokenizers import gpt2
from llm_scratch.tokenizers.gpt2 import END_OF_TEXT, GPT2Tokenizer, load_gpt2_ranks
from llm_scratch.tokenizers.simple import UnknownIdError, UnknownTokenError

TEA = "Hello, do you like tea? <|endoftext|> In the sunlit terracesof someunknownPlace."
TEA_IDS = [15496, 11, 466, 345, 588, 8887, 30, 220, 50256, 554, 262, 4252, 18250, 8812, 2114]
TEA_IDS += [1659, 617, 34680, 27271, 13]

# --- the book's figures


def test_gpt2_gives_the_books_ids_and_text(tokenizer):
    assert tokenizer.encode(TEA, allowed_special={"<|endoftext|>"}) == TEA_IDS
    assert tokenizer.decode(TEA_IDS) == TEA


def test_gpt2_has_the_books_vocabulary(tokenizer):
    assert tokenizer.n_vocab == 50257
    assert tokenizer.eot_token == tokenizer.max_token_value == 50256


def test_gpt2_gives_the_books_number_of_tokens(tokenizer, verdict):
    ids = tokenizer.encode(verdict)
    assert len(ids) == 5145
    assert ids[50:54] == [290, 4920, 2241, 287]
    assert [tokenizer.decode(ids[50 : 50 + n]) for n in (1, 2, 3, 4)] == [
        " and",
        " and established",
        " and established himself",
        " and established himself in",
    ]


def test_gpt2_spells_the_books_invented_words(tokenizer):
    ids = tokenizer.encode("Akwirw ier")
    assert ids == [33901, 86, 343, 86, 220, 959]
    assert [tokenizer.decode([i]) for i in ids] == ["Ak", "w", "ir", "w", " ", "ier"]
    assert [tokenizer.encode(tokenizer.decode([i])) for i in ids] == [[i] for i in ids]
    assert tokenizer.decode(ids) == "Akwirw ier"


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello, world. Is this-- a test?", [15496, 11, 995, 13, 1148, 428, 438, 257, 1332, 30]),
        ("This is some text", [1212, 318, 617, 2420]),
        ("Hello,", [15496, 11]),
        ("Implementations", [3546, 26908, 602]),
        (
            "asdf asdfasdf a!!, @aba 9asdf90asdfk",
            [292, 7568, 355, 7568, 292, 7568, 257, 3228, 11, 2488]
            + [15498, 860, 292, 7568, 3829, 292, 7568, 74],
        ),
    ],
)
def test_gpt2_gives_the_ids_of_the_books_comparisons(tokenizer, text, ids):
    assert tokenizer.encode(text) == ids


# --- invariants


@pytest.mark.parametrize(
    "text",
    [
        "",
        "one\ntwo\n\n three\t four",
        "   x  y z",
        "well ? yes .",
        "\r\n\r\n",
        "🔥👩‍👩‍👧",
        " " * 100_000,
        "a" * 100_000,
    ],
)
def test_gpt2_gives_every_character_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_gpt2_special_text_follows_the_policy(tokenizer):
    text = "tail<|endoftext|>head"
    assert tokenizer.encode(text, allowed_special="all") == [13199, 50256, 2256]
    as_text = tokenizer.encode(text, disallowed_special=())
    assert 50256 not in as_text
    assert as_text == tokenizer.encode_ordinary(text)
    assert tokenizer.decode(as_text) == text


@pytest.mark.parametrize("kind", [tuple, np.array, torch.tensor, lambda ids: np.uint16(ids)])
def test_gpt2_decodes_tuples_arrays_and_tensors(tokenizer, kind):
    assert tokenizer.decode(kind([15496, 11])) == "Hello,"


def test_gpt2_decode_names_bytes_that_are_not_utf8(tokenizer):
    half = tokenizer.encode("🔥")[:1]
    assert tokenizer.decode(half) == "\ufffd"
    with pytest.raises(UnicodeDecodeError):
        tokenizer.decode(half, errors="strict")


def test_gpt2_pickles_by_name(tokenizer):
    pickled = pickle.dumps(tokenizer)
    assert len(pickled) < 200
    assert pickle.loads(pickled).encode("Hello,") == [15496, 11]


@pytest.mark.parametrize("make_copy", [copy.copy, copy.deepcopy])
def test_gpt2_copies(tokenizer, make_copy):
    twin = make_copy(tokenizer)
    assert twin.encode("Hello,") == [15496, 11]
    assert twin._mergeable_ranks is tokenizer._mergeable_ranks


def test_gpt2_instances_share_one_table(tokenizer):
    assert GPT2Tokenizer()._encoding is tokenizer._encoding


@pytest.mark.script(
    *("-c", "import sys, llm_scratch.tokenizers.gpt2; print('tiktoken' in sys.modules)")
)
def test_gpt2_is_imported_without_tiktoken(run):
    assert run.output == "False\n"


def test_load_gpt2_ranks_numbers_the_tokens_in_order():
    ranks = load_gpt2_ranks()
    assert list(ranks.values()) == list(range(50256))
    assert list(ranks)[:2] == [b"!", b'"']


# --- errors


def test_gpt2_refuses_special_text_unless_told(tokenizer):
    with pytest.raises(ValueError, match=r"'<\|endoftext\|>' at position 4; pass allowed_special"):
        tokenizer.encode("tail<|endoftext|>head")


@pytest.mark.parametrize("method", ["encode", "encode_ordinary", "encode_to_numpy"])
@pytest.mark.parametrize("text", ["ab\ud83d", "ab\ude00c", "ab\ud83d\ude00"])
def test_gpt2_refuses_a_surrogate_with_its_position(tokenizer, method, text):
    with pytest.raises(ValueError, match=r"surrogate '\\ud.* at position 2 "):
        getattr(tokenizer, method)(text)


@pytest.mark.parametrize(
    "method", ["decode", "decode_bytes", "decode_tokens_bytes", "decode_with_offsets"]
)
@pytest.mark.parametrize("bad_id", [50257, -1, 2**40])
def test_gpt2_names_an_id_outside_its_vocabulary(tokenizer, method, bad_id):
    with pytest.raises(ValueError, match=f"^id {bad_id} at position 1 .* 50257 ids"):
        getattr(tokenizer, method)([5, bad_id])


@pytest.mark.parametrize("bad_id", [50257, -1])
def test_gpt2_names_a_single_id_outside_its_vocabulary(tokenizer, bad_id):
    with pytest.raises(UnknownIdError, match=f"^id {bad_id} "):
        tokenizer.decode_single_token_bytes(bad_id)


@pytest.mark.parametrize("kind", [ValueError, KeyError])
def test_gpt2_encode_single_token_names_what_is_no_token(tokenizer, kind):
    with pytest.raises(kind, match="^'two words' is not a single token"):
        tokenizer.encode_single_token("two words")
    assert issubclass(UnknownTokenError, kind)


@pytest.mark.parametrize("name", ["allowed_special", "disallowed_special"])
def test_gpt2_refuses_a_special_token_outside_a_set(tokenizer, name):
    with pytest.raises(TypeError, match=rf"{name} must be 'all' or a set of tokens"):
        tokenizer.encode("a", **{name: END_OF_TEXT})


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """Let the table be looked for in an empty folder, and return that."""
    monkeypatch.setattr(gpt2, "files", lambda package: tmp_path)
    (tmp_path / "assets").mkdir()
    return tmp_path / "assets"


def test_load_gpt2_ranks_says_that_the_table_is_missing(assets):
    with pytest.raises(FileNotFoundError, match="gpt2.tiktoken is missing; reinstall"):
        load_gpt2_ranks()


def test_load_gpt2_ranks_refuses_a_damaged_table(assets):
    (assets / "gpt2.tiktoken").write_bytes(b"IQ== 0\n")
    with pytest.raises(ValueError, match="is damaged"):
        load_gpt2_ranks()


def test_load_gpt2_ranks_takes_windows_line_ends(assets, monkeypatch):
    monkeypatch.setattr(gpt2, "TABLE_SHA256", hashlib.sha256(b"IQ== 0\nIg== 1\n").hexdigest())
    (assets / "gpt2.tiktoken").write_bytes(b"IQ== 0\r\nIg== 1\r\n")
    assert load_gpt2_ranks() == {b"!": 0, b'"': 1}
