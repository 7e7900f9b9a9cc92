from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm_scratch.tokenizers.any_tokenizer import (
    IncrementalDecoder,
    check_special_tokens,
    check_surrogates,
    decode,
    encode,
    end_of_text_id,
    fingerprint,
    special_tokens_of,
    text_to_token_ids,
    token_ids_to_text,
    vocab_size_of,
)
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.gpt2 import load_gpt2_ranks
from llm_scratch.tokenizers.simple import (
    SimpleTokenizerV1,
    SimpleTokenizerV2,
    build_vocab,
    split_words,
)

EOT = "<|endoftext|>"
MARKED = f"tail{EOT}head"


class Bytes:
    """The smallest tokenizer: one id a byte, and `encode(text)` without options."""

    def encode(self, text):
        return list(text.encode("utf-8"))

    def decode(self, ids):
        return bytes(ids).decode("utf-8", errors="replace")


class WithAllowed(Bytes):
    """Takes `allowed_special` alone and nothing but a set, as the book's own BPE class."""

    def encode(self, text, allowed_special=None):
        assert isinstance(allowed_special, set)
        parts = text.split(EOT) if EOT in allowed_special else [text]
        ids = super().encode(parts[0])
        for part in parts[1:]:
            ids += [256, *super().encode(part)]
        return ids


class Wrapped(Bytes):
    """Returns its ids in another wrapping."""

    def __init__(self, wrap):
        self.wrap = wrap

    def encode(self, text):
        return self.wrap(super().encode(text))


class Answer:
    def __init__(self, ids):
        self.ids = ids


@pytest.fixture(scope="module")
def words():
    vocab = build_vocab(split_words("It said: tail head, don't -- (yes)!"), (EOT, "<|unk|>"))
    return SimpleTokenizerV2(vocab)


@pytest.fixture(scope="module")
def hugging_face():
    """A byte-level tokenizer of Hugging Face's, as the library `tokenizers` has it."""
    tokenizers = pytest.importorskip("tokenizers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: i for i, character in enumerate(alphabet)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens([EOT, "<s>"])
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 257)]
    )
    return made


@pytest.fixture(scope="module", params=["tokenizers", "transformers"])
def theirs(request, hugging_face):
    if request.param == "tokenizers":
        return hugging_face
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=hugging_face, eos_token=EOT, bos_token="<s>"
    )


# --- encode


@pytest.mark.parametrize(
    "wrap", [list, tuple, np.array, torch.tensor, Answer, lambda ids: np.array(ids, np.uint8)]
)
def test_encode_returns_a_list_of_ints(wrap):
    ids = encode(Wrapped(wrap), "hé")
    assert ids == [104, 195, 169]
    assert type(ids) is list
    assert {type(i) for i in ids} == {int}


def test_encode_returns_an_empty_list_for_an_empty_text(tokenizer):
    assert encode(tokenizer, "") == encode(Bytes(), "") == []


def test_encode_follows_the_policy_with_our_tokenizer(tokenizer):
    assert encode(tokenizer, MARKED) == encode(tokenizer, MARKED, "allow") == [13199, 50256, 2256]
    assert encode(tokenizer, MARKED, special="text") == tokenizer.encode_ordinary(MARKED)
    with pytest.raises(ValueError, match=r"'<\|endoftext\|>' at position 4"):
        encode(tokenizer, MARKED, special="raise")


def test_encode_follows_the_policy_with_allowed_special_alone():
    assert encode(WithAllowed(), MARKED).count(256) == 1
    assert encode(WithAllowed(), MARKED, "text") == Bytes().encode(MARKED)


def test_encode_follows_the_policy_with_hugging_face(theirs):
    end = 256
    allowed = encode(theirs, MARKED, "allow")
    assert allowed.count(end) == 1
    assert len(allowed) == 9
    as_text = encode(theirs, MARKED, "text")
    assert end not in as_text
    assert decode(theirs, as_text) == decode(theirs, allowed) == MARKED
    assert encode(theirs, MARKED, "allow") == allowed
    with pytest.raises(ValueError, match="disallowed special token"):
        encode(theirs, MARKED, "raise")
    assert encode(theirs, "tail", "raise") == encode(theirs, "tail", "text")


@pytest.mark.parametrize("before", [False, True])
def test_encode_puts_the_setting_of_hugging_face_back(hugging_face, before):
    hugging_face.encode_special_tokens = before
    for special in ("text", "allow"):
        encode(hugging_face, MARKED, special)
        assert hugging_face.encode_special_tokens is before
    hugging_face.encode_special_tokens = False


def test_encode_leaves_out_the_mark_that_hugging_face_adds(theirs):
    assert theirs.decode([257]) in ("<s>", "")
    assert 257 not in encode(theirs, "tail")


def test_encode_calls_a_plain_tokenizer_plainly(words):
    assert encode(Bytes(), MARKED, "raise") == encode(Bytes(), MARKED, "text")
    assert encode(words, f"tail {EOT} head") == words.encode(f"tail {EOT} head")


@pytest.mark.parametrize("special", ["text", "raise"])
def test_encode_refuses_what_a_plain_tokenizer_cannot_do(words, special):
    assert encode(words, "tail head", special) == words.encode("tail head")
    with pytest.raises(ValueError, match=r"'<\|endoftext\|>' at position 5"):
        encode(words, f"tail {EOT} head", special)


@pytest.mark.parametrize("text", [None, b"bytes", ["a", "list"]])
def test_encode_refuses_what_is_no_text(tokenizer, text):
    with pytest.raises(TypeError, match="must be a str, got"):
        encode(tokenizer, text)


def test_encode_refuses_an_unknown_policy(tokenizer):
    with pytest.raises(ValueError, match="special='ignore' must be 'allow', 'text' or 'raise'"):
        encode(tokenizer, "a", special="ignore")


# --- what a tokenizer says about itself


def test_decode_does_not_clean_up_blanks(theirs):
    text = "well ? yes ."
    assert decode(theirs, encode(theirs, text)) == text


def test_vocab_size_of_counts_the_ids(tokenizer, theirs, words):
    assert vocab_size_of(tokenizer) == 50257
    assert vocab_size_of(theirs) == 258
    assert vocab_size_of(words) == len(words.str_to_int)
    assert vocab_size_of(Bytes()) is None


@pytest.mark.parametrize(
    ("attribute", "table"), [("str_to_int", {"a": 0, "b": 6}), ("vocab", {0: "a", 6: "b"})]
)
def test_vocab_size_of_reads_a_table_in_either_direction(attribute, table):
    tokenizer = Bytes()
    setattr(tokenizer, attribute, table)
    assert vocab_size_of(tokenizer) == 7


def test_special_tokens_of_lists_them(tokenizer, theirs, words):
    assert special_tokens_of(tokenizer) == {EOT}
    assert special_tokens_of(theirs) == {EOT, "<s>"}
    assert special_tokens_of(words) == {EOT, "<|unk|>"}
    assert special_tokens_of(Bytes()) == set()


def test_fingerprint_is_the_same_for_the_same_tokenizer(tokenizer, words, hugging_face):
    twin = SimpleTokenizerV2(dict(words.str_to_int))
    assert fingerprint(words) == fingerprint(twin)
    assert len({fingerprint(t) for t in (tokenizer, words, hugging_face, Bytes())}) == 4
    assert len(fingerprint(tokenizer)) == 64


def test_end_of_text_id_is_endoftext_where_that_is_a_special_token(tokenizer):
    assert end_of_text_id(tokenizer) == 50256
    assert end_of_text_id(BytePairTokenizer([], (EOT,))) == 256
    assert end_of_text_id(BytePairTokenizer([], ("<|other|>",))) is None
    assert end_of_text_id(Bytes()) is None


def test_end_of_text_id_is_the_one_that_a_tokenizer_names_itself():
    tokenizer = BytePairTokenizer([], (EOT, "</s>"))
    tokenizer.eos_token = "</s>"
    assert end_of_text_id(tokenizer) == 257
    tokenizer.eos_token = "never"  # no special token: it would be text
    assert end_of_text_id(tokenizer) is None
    tokenizer.eos_token_id = 7
    assert end_of_text_id(tokenizer) == 7


def test_fingerprint_tells_vocabularies_of_one_size_apart():
    one, other = ({"a": 0, "b": 1}, {"b": 0, "a": 1})
    assert fingerprint(SimpleTokenizerV1(one)) != fingerprint(SimpleTokenizerV1(other))


@pytest.mark.parametrize(
    "change",
    [
        {"pat_str": r"(?s)."},
        {"special_tokens": {"<|end|>": 50256}},
        {"special_tokens": {EOT: 50257}},
        {"special_tokens": {}},
        {"special_tokens": {}, "mergeable_ranks": {**load_gpt2_ranks(), EOT.encode(): 50256}},
    ],
    ids=["pattern", "name", "id", "none", "ordinary"],
)
def test_fingerprint_tells_patterns_and_special_tokens_apart(tokenizer, change):
    tiktoken = pytest.importorskip("tiktoken")
    parts = {
        "pat_str": tokenizer._pat_str,
        "mergeable_ranks": tokenizer._mergeable_ranks,
        "special_tokens": tokenizer._special_tokens,
    }
    assert fingerprint(tiktoken.Encoding("same", **parts)) == fingerprint(tokenizer)
    changed = tiktoken.Encoding("changed", **{**parts, **change})
    assert fingerprint(changed) != fingerprint(tokenizer)


# --- IncrementalDecoder


def pieces_of(tokenizer, ids):
    decoder = IncrementalDecoder(tokenizer)
    return [*(decoder.push(i) for i in ids), decoder.flush()]


def test_incremental_decoder_holds_half_a_character_back(tokenizer):
    ids = tokenizer.encode("a🔥b")
    assert pieces_of(tokenizer, ids) == ["a", "", "", "🔥", "b", ""]
    assert pieces_of(Bytes(), b"\xf0\x9f\x94\xa5") == ["", "", "", "🔥", ""]


def test_incremental_decoder_flushes_half_a_character_as_one_mark(tokenizer):
    half = tokenizer.encode("🔥")[:2]
    assert pieces_of(tokenizer, half) == ["", "", "\ufffd"]
    assert pieces_of(Bytes(), b"\xf0\x9f") == ["", "", "\ufffd"]


@given(st.text())
@pytest.mark.parametrize("which", ["gpt2", "bytes"])
def test_incremental_decoder_gives_whole_characters_only(tokenizer, which, text):
    tokenizer = tokenizer if which == "gpt2" else Bytes()
    pieces = pieces_of(tokenizer, encode(tokenizer, text))
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@given(st.lists(st.sampled_from([*range(50000, 50257), *range(256)]), max_size=20))
def test_incremental_decoder_joins_to_the_decoded_text_for_any_ids(tokenizer, ids):
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)


@given(st.lists(st.sampled_from([0x41, 0x80, 0xBF, 0xC3, 0xE2, 0xF0, 0x9F, 0xFF]), max_size=12))
def test_incremental_decoder_joins_to_the_decoded_text_without_bytes(ids):
    assert "".join(pieces_of(Bytes(), ids)) == Bytes().decode(ids)


@given(ids=st.lists(st.integers(0, 14), max_size=20))
def test_incremental_decoder_joins_to_the_text_of_words(words, ids):
    assert "".join(pieces_of(words, ids)) == words.decode(ids)


def test_incremental_decoder_joins_to_the_text_of_hugging_face(theirs):
    text = f"well ? 🔥{EOT} é  漢"
    assert "".join(pieces_of(theirs, encode(theirs, text))) == text


@pytest.mark.parametrize("which", ["gpt2", "bytes"])
def test_incremental_decoder_starts_afresh_after_flush(tokenizer, which):
    tokenizer = tokenizer if which == "gpt2" else Bytes()
    decoder = IncrementalDecoder(tokenizer)
    decoder.push(tokenizer.encode("🔥")[0])
    assert decoder.flush() == "\ufffd"
    assert decoder.flush() == ""
    assert decoder.push(tokenizer.encode("a")[0]) == "a"


def test_incremental_decoder_takes_ids_out_of_a_tensor(tokenizer):
    ids = torch.tensor(tokenizer.encode("Hello, world"))
    assert pieces_of(tokenizer, ids) == ["Hello", ",", " world", ""]


# --- the book's two functions


def test_text_to_token_ids_gives_a_batch_of_one(tokenizer):
    ids = text_to_token_ids("Every effort moves you", tokenizer)
    assert ids.tolist() == [[6109, 3626, 6100, 345]]
    assert ids.dtype == torch.int64


def test_text_to_token_ids_makes_one_id_of_the_end_of_text(tokenizer):
    assert text_to_token_ids(MARKED, tokenizer).tolist() == [[13199, 50256, 2256]]


def test_text_to_token_ids_of_nothing_is_an_empty_row(tokenizer):
    ids = text_to_token_ids("", tokenizer)
    assert ids.shape == (1, 0)
    assert ids.dtype == torch.int64
    assert token_ids_to_text(ids, tokenizer) == ""


@pytest.mark.parametrize("ids", [[[15496, 11]], [15496, 11]])
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_token_ids_to_text_gives_one_text_for_one_row(tokenizer, kind, ids):
    assert token_ids_to_text(kind(ids), tokenizer) == "Hello,"


@pytest.mark.parametrize("ids", [[15496], [[15496]], 15496])
def test_token_ids_to_text_takes_a_single_id(tokenizer, ids):
    assert token_ids_to_text(torch.tensor(ids), tokenizer) == "Hello"


def test_token_ids_to_text_gives_a_list_for_a_batch(tokenizer):
    ids = torch.tensor([[15496, 11], [15496, 13]])
    assert token_ids_to_text(ids, tokenizer) == ["Hello,", "Hello."]


def test_token_ids_to_text_refuses_floats_and_cubes(tokenizer):
    with pytest.raises(TypeError, match="must be integers, got a tensor of torch.float32"):
        token_ids_to_text(torch.ones(1, 2), tokenizer)
    with pytest.raises(ValueError, match=r"got shape \(1, 1, 2\)"):
        token_ids_to_text(torch.ones(1, 1, 2, dtype=torch.int64), tokenizer)


# --- checks that tokenizers share


def test_check_special_tokens_returns_the_allowed_ones():
    assert check_special_tokens("a", {"<x>", "<y>"}, "all", ()) == {"<x>", "<y>"}
    assert check_special_tokens("a<x>", {"<x>", "<y>"}, {"<x>"}, "all") == {"<x>"}
    assert check_special_tokens("a<y>", {"<x>", "<y>"}, {"<x>"}, ()) == {"<x>"}


def test_check_special_tokens_names_the_longest_at_the_first_place():
    with pytest.raises(ValueError, match="'<x><y>' at position 1;"):
        check_special_tokens("a<x><y>", {"<x>", "<x><y>", "<y>"}, (), "all")


@given(st.text())
def test_check_surrogates_lets_every_valid_text_pass(text):
    check_surrogates(text)


def test_check_surrogates_names_the_first():
    with pytest.raises(ValueError, match=r"surrogate '\\udc80' at position 1 "):
        check_surrogates("é\udc80\ud800")
