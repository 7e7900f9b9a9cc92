"""`BytePairTokenizer` against Hugging Face's `tokenizers`: training, files, ids."""

from __future__ import annotations

import json
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_scratch.text.corpora import load_text, read_text
from llm_scratch.tokenizers.any_tokenizer import encode
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.bpe_vocabulary import unspell
from llm_scratch.tokenizers.gpt2 import END_OF_TEXT

tokenizers = pytest.importorskip("tokenizers")

BOOK_FILES = (
    "the-verdict",
    "tinyshakespeare",
    "instruction-data.json",
    "instruction-data-with-preference.json",
)
# A pattern of another kind: at most three digits together, no blank before them.
THREE_DIGITS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
known_text = st.lists(
    st.sampled_from(
        [*"aZ09'-.,!? \t\n\r\x00é漢🔥", "'s", "'ll", "  ", "\r\n", " the", END_OF_TEXT, "<|", "½"]
    ),
    max_size=30,
).map("".join)


def train_theirs(text: str, vocab_size: int, specials: tuple[str, ...] = ()):
    """Their byte-level BPE with GPT-2's split and all 256 bytes, trained on a text."""
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(specials),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator([text], trainer)
    return theirs


def merges_of(theirs) -> list[tuple[bytes, bytes]]:
    merges = json.loads(theirs.to_str())["model"]["merges"]
    return [(unspell(left), unspell(right)) for left, right in merges]


@pytest.fixture(scope="module")
def trained() -> BytePairTokenizer:
    return BytePairTokenizer.train(load_text("the-tide-clock"), 1000)


@pytest.mark.parametrize(
    ("name", "vocab_size"),
    [
        *(("the-verdict", size) for size in (257, 1000, 5000)),
        *(pytest.param("tinyshakespeare", size, marks=pytest.mark.slow) for size in (257, 1000)),
        ("tinyshakespeare", 5000),
    ],
)
def test_bpe_train_learns_the_merges_of_hugging_face_in_order(book_file, name, vocab_size):
    text = read_text(book_file(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the story has no 5,000
        ours = BytePairTokenizer.train(text, vocab_size, (), progress=False)
    assert ours.merges == merges_of(train_theirs(text, vocab_size))
    assert len(ours.merges) == vocab_size - 256 or name == "the-verdict"


def test_bpe_train_learns_the_merges_of_hugging_face_on_our_own_story():
    text = load_text("the-tide-clock")
    ours = BytePairTokenizer.train(text, 2000)
    assert ours.merges == merges_of(train_theirs(text, 2000, (END_OF_TEXT,)))


@settings(max_examples=100)
@given(st.lists(st.sampled_from(["a", "b", "ab", " ", "é", "\n"]), min_size=2).map("".join))
def test_bpe_train_breaks_ties_as_hugging_face_does(text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = BytePairTokenizer.train(text, 300, (), progress=False)
    assert ours.merges == merges_of(train_theirs(text, 300))


@pytest.mark.parametrize("specials", [(), (END_OF_TEXT,), (END_OF_TEXT, "<|pad|>", "<|unk|>")])
def test_bpe_reads_what_hugging_face_trained_with_its_ids(tmp_path, specials):
    text = load_text("the-tide-clock")
    theirs = train_theirs(text, 700, specials)  # special tokens come first there
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = BytePairTokenizer.from_tokenizer_json(tmp_path / "tokenizer.json")
    assert ours.special_tokens == {token: i for i, token in enumerate(specials)}
    marked = END_OF_TEXT.join([text, "tail", ""])
    assert encode(ours, marked) == theirs.encode(marked).ids
    assert ours.n_vocab == theirs.get_vocab_size() == 700


@pytest.fixture(scope="module", params=["gpt2", "trained"])
def pair(request, trained, tmp_path_factory):
    """A tokenizer of ours, and its export as they read it."""
    ours = BytePairTokenizer.gpt2() if request.param == "gpt2" else trained
    path = tmp_path_factory.mktemp("pair") / "tokenizer.json"
    ours.to_tokenizer_json(path)
    return ours, tokenizers.Tokenizer.from_file(str(path))


@pytest.mark.parametrize("name", BOOK_FILES)
def test_bpe_export_gives_equal_ids_in_hugging_face(pair, book_file, name):
    ours, theirs = pair
    text = read_text(book_file(name))[:100_000] + f"{END_OF_TEXT} end"
    ids = encode(ours, text)
    assert theirs.encode(text).ids == ids
    assert theirs.decode(ids, skip_special_tokens=False) == text
    assert END_OF_TEXT not in theirs.decode(ids)  # known as special: left out on request
    assert theirs.get_vocab_size() == ours.n_vocab


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "tokenizer.json"
    trained.to_tokenizer_json(path)
    return tokenizers.Tokenizer.from_file(str(path))


@settings(max_examples=200)
@given(known_text)
def test_bpe_export_gives_equal_ids_on_awkward_text(trained, exported, text):
    assert exported.encode(text).ids == encode(trained, text)


@pytest.mark.slow
@settings(max_examples=1000)
@given(known_text)
def test_bpe_export_gives_equal_ids_on_awkward_text_in_full(trained, exported, text):
    assert exported.encode(text).ids == encode(trained, text)


@pytest.mark.parametrize("specials", [{"<first>": 0, "<mid>": 300}, {"<a>": 500}, ()])
def test_bpe_export_keeps_other_patterns_and_ids(tmp_path, specials):
    text = load_text("the-tide-clock") + " 1234567 12"
    ours = BytePairTokenizer.train(text, 500, specials or (), THREE_DIGITS)
    ours.to_tokenizer_json(tmp_path / "t.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "t.json"))
    marked = f"{text}{''.join(specials)}"
    assert theirs.encode(marked).ids == encode(ours, marked)
    again = BytePairTokenizer.from_tokenizer_json(tmp_path / "t.json")
    assert again.pattern == THREE_DIGITS
    assert again.fingerprint == ours.fingerprint


def test_bpe_export_loads_in_transformers(tmp_path, trained):
    transformers = pytest.importorskip("transformers")
    trained.to_tokenizer_json(tmp_path / "tokenizer.json")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    text = f"The tide, the clock: don't wait.{END_OF_TEXT}  End"
    assert encode(theirs, text) == encode(trained, text)
