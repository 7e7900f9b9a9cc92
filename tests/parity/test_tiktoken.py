"""`GPT2Tokenizer` against tiktoken's own "gpt2", which is built from OpenAI's two files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_scratch.tokenizers.any_tokenizer import encode, fingerprint
from llm_scratch.tokenizers.gpt2 import END_OF_TEXT, GPT2Tokenizer, load_gpt2_ranks
from llm_scratch.tokenizers.simple import UnknownIdError

tiktoken = pytest.importorskip("tiktoken")
openai_public = pytest.importorskip("tiktoken_ext.openai_public")

VOCAB_BPE_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
ENCODER_JSON_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
FILES = {"vocab.bpe": VOCAB_BPE_SHA256, "encoder.json": ENCODER_JSON_SHA256}

BOOK_FILES = [
    "the-verdict",
    "tinyshakespeare",
    "instruction-data.json",
    "instruction-data-with-preference.json",
]
POLICIES = [
    {},
    {"allowed_special": "all"},
    {"allowed_special": {END_OF_TEXT}},
    {"allowed_special": {END_OF_TEXT, "<|unheard|>"}, "disallowed_special": ()},
    {"allowed_special": {END_OF_TEXT}, "disallowed_special": {END_OF_TEXT}},
    {"disallowed_special": ()},
    {"disallowed_special": {"<|other|>", "|>"}},
    {"allowed_special": set(), "disallowed_special": "all"},
]

# Where the two could differ: blanks of all kinds, contractions, digits and letters of many
# scripts, marks that combine, emoji made of several characters, and the special token's pieces.
AWKWARD = [
    *"aZ09'\"-_.,!? \t\n\r\v\f\x00\x1c\x85\xa0\u200b\u2028\u3000\ufeff\ufffd",
    *["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "’s", "  ", "\r\n", "\n\n"],
    *[
        "é",
        "e\u0301",
        "ß",
        "ﬁ",
        "Ⅷ",
        "½",
        "٣",
        "௧",
        "漢",
        "字",
        "ع",
        "ไ",
        "🔥",
        "👩\u200d👩\u200d👧",
        "🏳️",
    ],
    *[END_OF_TEXT, "<|", "endoftext", "|>", "<|endoftext|"],
]
awkward_text = st.lists(st.sampled_from(AWKWARD) | st.text(max_size=4), max_size=30).map("".join)


def printable_bytes() -> dict[int, str]:
    """OpenAI's files show each byte as one printable character: itself, or one from 256 on."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(hidden)}


def halves(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that a token was merged from: what its bytes come to without itself."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        rank, i = min(
            (ranks.get(a + b, len(ranks)), i)
            for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False))
        )
        assert rank < ranks[token]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


@pytest.fixture(scope="module")
def openai_files() -> dict[str, bytes]:
    """`vocab.bpe` and `encoder.json`, written from the table that this package ships."""
    ranks = load_gpt2_ranks()
    character = printable_bytes()

    def shown(token: bytes) -> str:
        return "".join(character[byte] for byte in token)

    merged = (token for token, rank in ranks.items() if rank >= 256)
    lines = [" ".join(map(shown, halves(token, ranks))) for token in merged]
    ids = {shown(token): rank for token, rank in ranks.items()} | {END_OF_TEXT: len(ranks)}
    return {
        "vocab.bpe": "\n".join(["#version: 0.2", *lines, ""]).encode("utf-8"),
        "encoder.json": json.dumps(ids).encode("utf-8"),
    }


@pytest.fixture(scope="module")
def theirs(openai_files, tmp_path_factory):
    """tiktoken's own "gpt2", with its cache filled so that it asks nobody."""
    folder = tmp_path_factory.mktemp("tiktoken")
    for name, content in openai_files.items():
        url = f"https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/{name}"
        (folder / hashlib.sha1(url.encode()).hexdigest()).write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        return tiktoken.Encoding(**openai_public.gpt2())


def outcome(call, *args, **kwargs):
    """What a call returns, or that it is a ValueError."""
    try:
        return call(*args, **kwargs)
    except ValueError:
        return ValueError


@pytest.mark.parametrize("name", FILES)
def test_gpt2_table_gives_openais_files_to_the_byte(openai_files, name):
    assert hashlib.sha256(openai_files[name]).hexdigest() == FILES[name]


@pytest.mark.parametrize("name", BOOK_FILES)
@pytest.mark.parametrize("policy", POLICIES)
def test_gpt2_encode_equals_tiktoken_on_the_books_texts(tokenizer, theirs, book_file, name, policy):
    text = Path(book_file(name)).read_text(encoding="utf-8")
    if policy:  # the whole text once: what is allowed changes nothing between two marks
        text = text[:100_000]
    marked = f"{text}{END_OF_TEXT}{text[:1000]} {END_OF_TEXT}"
    for candidate in (marked, text):
        ids = outcome(tokenizer.encode, candidate, **policy)
        assert ids == outcome(theirs.encode, candidate, **policy)
        if ids is not ValueError:
            assert tokenizer.decode(ids) == candidate
            return  # the marks are an error to some; then the text without them


@settings(max_examples=400)
@given(text=awkward_text, policy=st.sampled_from(POLICIES))
def test_gpt2_encode_equals_tiktoken_on_awkward_text(tokenizer, theirs, text, policy):
    ids = outcome(tokenizer.encode, text, **policy)
    assert ids == outcome(theirs.encode, text, **policy)
    assert tokenizer.encode_ordinary(text) == theirs.encode_ordinary(text)
    if ids is not ValueError:
        assert tokenizer.decode(ids) == text


def test_gpt2_encode_equals_tiktoken_on_ten_thousand_random_strings(
    tokenizer, theirs, random_texts
):
    for text in random_texts:
        ids = tokenizer.encode(text)
        assert ids == theirs.encode(text), text
        assert tokenizer.decode(ids) == text


@given(st.lists(st.integers(0, 50256), max_size=30), st.sampled_from(["replace", "ignore"]))
def test_gpt2_decode_equals_tiktoken_on_any_ids(tokenizer, theirs, ids, errors):
    assert tokenizer.decode(ids) == theirs.decode(ids)
    assert tokenizer.decode(ids, errors) == theirs.decode(ids, errors)
    assert tokenizer.decode_bytes(ids) == theirs.decode_bytes(ids)
    assert tokenizer.decode_tokens_bytes(ids) == theirs.decode_tokens_bytes(ids)


@given(st.text(max_size=30))
def test_gpt2_decode_with_offsets_equals_tiktoken(tokenizer, theirs, text):
    ids = theirs.encode_ordinary(text)
    assert tokenizer.decode_with_offsets(ids) == theirs.decode_with_offsets(ids)


def test_gpt2_attributes_equal_tiktokens(tokenizer, theirs):
    for name in (
        *("name", "n_vocab", "max_token_value", "eot_token", "special_tokens_set"),
        *("_mergeable_ranks", "_special_tokens"),
    ):
        assert getattr(tokenizer, name) == getattr(theirs, name), name
    assert tokenizer.token_byte_values() == theirs.token_byte_values()


def test_gpt2_has_every_public_method_of_tiktoken(theirs):
    public = {name for name in dir(theirs) if not name.startswith("_")}
    assert public - set(dir(GPT2Tokenizer)) == {"encode_with_unstable"}


def test_gpt2_single_tokens_equal_tiktokens(tokenizer, theirs):
    for token_id in range(50257):
        token = theirs.decode_single_token_bytes(token_id)
        assert tokenizer.decode_single_token_bytes(token_id) == token
        assert tokenizer.encode_single_token(token) == token_id
        assert tokenizer.is_special_token(token_id) == theirs.is_special_token(token_id)


def test_gpt2_batches_equal_tiktokens(tokenizer, theirs):
    texts = ["Hello, world.", "", f"a{END_OF_TEXT}b", "🔥 " * 50]
    allowed = {"allowed_special": "all"}
    ids = tokenizer.encode_batch(texts, **allowed)
    assert ids == theirs.encode_batch(texts, **allowed)
    assert tokenizer.encode_ordinary_batch(texts) == theirs.encode_ordinary_batch(texts)
    assert tokenizer.decode_batch(ids) == theirs.decode_batch(ids) == texts
    assert tokenizer.decode_bytes_batch(ids) == theirs.decode_bytes_batch(ids)
    assert tokenizer.encode_to_numpy(texts[2], **allowed).tolist() == ids[2]


def test_gpt2_fingerprint_equals_tiktokens(tokenizer, theirs):
    assert fingerprint(tokenizer) == fingerprint(theirs)


@pytest.mark.parametrize("special", ["allow", "text"])
def test_encode_calls_tiktoken_like_our_own(tokenizer, theirs, special):
    text = f"tail{END_OF_TEXT}head"
    assert encode(theirs, text, special) == encode(tokenizer, text, special)


@pytest.mark.parametrize("bad_id", [50257, -1, 2**40])
def test_gpt2_bad_id_is_also_the_error_of_tiktoken(tokenizer, theirs, bad_id):
    with pytest.raises((KeyError, OverflowError)) as error:
        theirs.decode([bad_id])
    with pytest.raises(error.type):
        tokenizer.decode([bad_id])
    with pytest.raises(UnknownIdError):
        tokenizer.decode([bad_id])


def test_gpt2_can_be_extended_as_tiktoken_is(tokenizer):
    extended = tiktoken.Encoding(
        "gpt2-extended",
        pat_str=tokenizer._pat_str,
        mergeable_ranks=tokenizer._mergeable_ranks,
        special_tokens={**tokenizer._special_tokens, "<|mine|>": tokenizer.n_vocab},
    )
    assert extended.encode("Hello<|mine|>", allowed_special="all") == [15496, 50257]
