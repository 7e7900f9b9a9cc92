"""`BytePairTokenizer` against tiktoken: GPT-2's vocabulary, and trained ones handed over."""

from __future__ import annotations

import hashlib
import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm_scratch.files import read_text
from llm_scratch.text.corpora import load_text
from llm_scratch.tokenizers.any_tokenizer import fingerprint
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.bpe_pieces import piece_finder
from llm_scratch.tokenizers.gpt2 import END_OF_TEXT, load_gpt2_ranks
from llm_scratch.tokenizers.simple import UnknownIdError

tiktoken = pytest.importorskip("tiktoken")
openai_public = pytest.importorskip("tiktoken_ext.openai_public")

# Of the slow run; by hand: LLM_SCRATCH_EXAMPLES=200000.
EXAMPLES = int(os.environ.get("LLM_SCRATCH_EXAMPLES", "10000"))
SIZES = (256, 257, 300, 1000, 5000)
CHECKSUMS = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}
BOOK_FILES = (
    "the-verdict",
    "tinyshakespeare",
    "instruction-data.json",
    "instruction-data-with-preference.json",
)
POLICIES = (
    {},
    {"allowed_special": "all"},
    {"allowed_special": {END_OF_TEXT}},
    {"allowed_special": {END_OF_TEXT, "<|unheard|>"}, "disallowed_special": ()},
    {"allowed_special": {END_OF_TEXT}, "disallowed_special": {END_OF_TEXT}},
    {"disallowed_special": ()},
    {"disallowed_special": {"<|other|>", "|>"}},
    {"allowed_special": set(), "disallowed_special": "all"},
)
AWKWARD = (
    *("aZ09'\"-_.,!? \t\n\r\v\f\x00\x1c\x1f\x85\xa0\u200b\u2028\u3000\ufeff\ufffd"),
    *("'s 't 're 've 'm 'll 'd 'S ’s don't é e\u0301 ß ﬁ Ⅷ ½ ٣ ௧ 漢 字 ع ไ ǅ ʰ ª".split()),
    *("🔥", "👩\u200d👩\u200d👧", "🏳️\u200d🌈", "🇫🇷", "1️⃣", "\U0003d361", "\U000323b0", "\u088f"),
    *("  ", "\r\n", "\n\n", " the", " of", "123", "1,000"),
    *(END_OF_TEXT, "<|", "endoftext", "|>", "<|endoftext|"),
)
any_text = st.text(max_size=40)
awkward_text = st.lists(st.sampled_from(AWKWARD) | st.text(max_size=4), max_size=30).map("".join)


@pytest.fixture(scope="module")
def ours() -> BytePairTokenizer:
    return BytePairTokenizer.gpt2()


@pytest.fixture(scope="module")
def theirs():
    """tiktoken's encoding with tiktoken's own pattern, from the bundled table."""
    ranks = load_gpt2_ranks()
    return tiktoken.Encoding(
        "gpt2",
        pat_str=openai_public.r50k_pat_str,
        mergeable_ranks=ranks,
        special_tokens={END_OF_TEXT: len(ranks)},
    )


@pytest.fixture(scope="module")
def trained() -> list[BytePairTokenizer]:
    """Vocabularies of several sizes, the smallest without special tokens."""
    text = load_text("the-tide-clock")
    return [
        BytePairTokenizer.train(text, size, (END_OF_TEXT,) if size > 256 else (), progress=False)
        for size in SIZES[:-1]
    ] + [BytePairTokenizer.train([text, "".join(map(chr, range(0x21, 0x2FFF)))], SIZES[-1])]


def outcome(call, *args, **kwargs):
    """What a call returns, or that it is a ValueError."""
    try:
        return call(*args, **kwargs)
    except ValueError:
        return ValueError


def test_bpe_gpt2_files_equal_openais_to_the_byte(ours, tmp_path):
    ours.to_files(tmp_path / "vocab.bpe", tmp_path / "encoder.json")
    for name, checksum in CHECKSUMS.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == checksum


def same_ids(tokenizer, reference, text, **policy):
    """Hold both to the same ids or the same error, and decoding to the text."""
    ids = outcome(tokenizer.encode, text, **policy)
    assert ids == outcome(reference.encode, text, **policy)
    if ids is not ValueError:
        assert tokenizer.decode(ids) == text


def test_bpe_equals_tiktoken_on_ten_thousand_random_strings(ours, theirs, trained, random_texts):
    for number, text in enumerate(random_texts):
        same_ids(ours, theirs, text)
        tokenizer = trained[number % len(trained)]
        same_ids(tokenizer, exported_once(tokenizer), text)


@settings(max_examples=200)
@given(text=any_text)
@example(text="\x00")
def test_bpe_equals_tiktoken_over_all_of_unicode(ours, theirs, trained, text):
    same_ids(ours, theirs, text, disallowed_special=())
    for tokenizer in trained:
        same_ids(tokenizer, exported_once(tokenizer), text, disallowed_special=())


@pytest.mark.slow
@settings(max_examples=EXAMPLES)
@given(text=any_text)
def test_bpe_equals_tiktoken_over_all_of_unicode_in_full(ours, theirs, trained, text):
    same_ids(ours, theirs, text, disallowed_special=())
    for tokenizer in trained:
        same_ids(tokenizer, exported_once(tokenizer), text, disallowed_special=())


@settings(max_examples=200)
@given(text=awkward_text, policy=st.sampled_from(POLICIES))
def test_bpe_equals_tiktoken_on_awkward_text(ours, theirs, trained, text, policy):
    same_ids(ours, theirs, text, **policy)
    assert ours.encode_ordinary(text) == theirs.encode_ordinary(text)
    for tokenizer in trained:
        same_ids(tokenizer, exported_once(tokenizer), text, **policy)


@pytest.mark.slow
@settings(max_examples=EXAMPLES // 10)
@given(text=awkward_text, policy=st.sampled_from(POLICIES))
def test_bpe_equals_tiktoken_on_awkward_text_in_full(ours, theirs, trained, text, policy):
    same_ids(ours, theirs, text, **policy)
    assert ours.encode_ordinary(text) == theirs.encode_ordinary(text)
    for tokenizer in trained:
        same_ids(tokenizer, exported_once(tokenizer), text, **policy)


@pytest.mark.parametrize("kind", [r"\p{L}", r"\p{N}", r"\s"])
def test_bpe_letters_digits_and_blanks_are_tiktokens(kind):
    text = "".join(chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000)
    bytes_only = {bytes([byte]): byte for byte in range(256)}
    theirs = tiktoken.Encoding(kind, pat_str=kind, mergeable_ranks=bytes_only, special_tokens={})
    assert "".join(piece_finder(kind)(text)) == theirs.decode(theirs.encode(text))


@pytest.mark.parametrize("text", [" " * 99, "\n" * 9, "7" * 99, "'" * 99, " ' 's'", "a" * 3000])
def test_bpe_gpt2_encode_equals_tiktoken_on_runs(ours, theirs, text):
    assert ours.encode(text) == theirs.encode(text)
    assert ours.encode(f"x{text}y {text}\r\n") == theirs.encode(f"x{text}y {text}\r\n")


@pytest.mark.parametrize("policy", [{}, {"allowed_special": "all"}, {"disallowed_special": ()}])
@pytest.mark.parametrize("name", BOOK_FILES)
def test_bpe_gpt2_encode_equals_tiktoken_on_the_books_texts(ours, theirs, book_file, name, policy):
    text = read_text(book_file(name))
    if policy:  # the whole text once: what is allowed changes nothing between two marks
        text = text[:100_000]
    marked = f"{text}{END_OF_TEXT}{text[:1000]} {END_OF_TEXT}"
    same_ids(ours, theirs, marked, **policy)
    if not policy:  # the marks are an error then
        same_ids(ours, theirs, text)


_EXPORTED: dict[int, object] = {}


def exported_once(tokenizer: BytePairTokenizer):
    if id(tokenizer) not in _EXPORTED:
        _EXPORTED[id(tokenizer)] = tokenizer.to_tiktoken()
    return _EXPORTED[id(tokenizer)]


@pytest.mark.parametrize("name", BOOK_FILES)
def test_bpe_trained_equals_its_export_on_the_books_texts(trained, book_file, name):
    text = read_text(book_file(name))[:100_000]
    for tokenizer in trained:
        ids = tokenizer.encode(text)
        assert ids == exported_once(tokenizer).encode(text)
        assert tokenizer.decode(ids) == text


def test_bpe_trained_sizes_are_those_that_were_asked_for(trained):
    assert tuple(tokenizer.n_vocab for tokenizer in trained) == SIZES


@given(st.lists(st.integers(0, 50256), max_size=30), st.sampled_from(["replace", "ignore"]))
def test_bpe_gpt2_decode_equals_tiktoken_on_any_ids(ours, theirs, ids, errors):
    assert ours.decode(ids, errors) == theirs.decode(ids, errors)
    assert ours.decode_bytes(ids) == theirs.decode_bytes(ids)
    assert ours.decode_tokens_bytes(ids) == theirs.decode_tokens_bytes(ids)


@given(st.text(max_size=30))
def test_bpe_gpt2_decode_with_offsets_equals_tiktoken(ours, theirs, text):
    ids = theirs.encode_ordinary(text)
    assert ours.decode_with_offsets(ids) == theirs.decode_with_offsets(ids)


def test_bpe_gpt2_attributes_equal_tiktokens(ours, theirs):
    for name in ("name", "n_vocab", "max_token_value", "eot_token", "special_tokens_set"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.token_byte_values() == theirs.token_byte_values()
    assert ours.fingerprint == fingerprint(theirs)


def test_bpe_gpt2_single_tokens_equal_tiktokens(ours, theirs):
    for token_id in range(50257):
        token = theirs.decode_single_token_bytes(token_id)
        assert ours.decode_single_token_bytes(token_id) == token
        assert ours.encode_single_token(token) == token_id
    assert ours.is_special_token(50256)
    assert not ours.is_special_token(0)


def test_bpe_has_every_public_method_of_tiktoken(theirs):
    public = {name for name in dir(theirs) if not name.startswith("_")}
    assert public - set(dir(BytePairTokenizer.gpt2())) == {"encode_with_unstable"}


def test_bpe_gpt2_batches_equal_tiktokens(ours, theirs):
    texts = ["Hello, world.", "", f"a{END_OF_TEXT}b", "🔥 " * 50]
    allowed = {"allowed_special": "all"}
    ids = ours.encode_batch(texts, num_threads=2, **allowed)
    assert ids == theirs.encode_batch(texts, **allowed)
    assert ours.encode_ordinary_batch(texts) == theirs.encode_ordinary_batch(texts)
    assert ours.decode_batch(ids) == theirs.decode_batch(ids) == texts
    assert ours.decode_bytes_batch(ids) == theirs.decode_bytes_batch(ids)
    assert ours.encode_to_numpy(texts[2], **allowed).tolist() == ids[2]


@pytest.mark.parametrize("bad_id", [50257, -1, 2**40])
def test_bpe_bad_id_is_also_the_error_of_tiktoken(ours, theirs, bad_id):
    with pytest.raises((KeyError, OverflowError)) as error:
        theirs.decode([bad_id])
    with pytest.raises(error.type):
        ours.decode([bad_id])
    with pytest.raises(UnknownIdError):
        ours.decode([bad_id])


def test_bpe_export_refuses_merges_that_tiktoken_would_read_otherwise():
    # "abc" is a token, but merging its bytes comes to ab and c.
    tokenizer = BytePairTokenizer([(b"a", b"b"), (b"b", b"c"), (b"a", b"bc")])
    with pytest.raises(ValueError, match="is made of 2 earlier|cannot be written for tiktoken"):
        tokenizer.to_tiktoken()


def test_bpe_export_keeps_ids_that_special_tokens_brought(trained):
    tokenizer = BytePairTokenizer(trained[3].merges, {"<first>": 0, "<far>": 2000})
    text = "<first>the tide, the clock<far>"
    ids = tokenizer.encode(text, allowed_special="all")
    assert ids == tokenizer.to_tiktoken().encode(text, allowed_special="all")
