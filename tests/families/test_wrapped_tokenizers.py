"""Tokenizers other than byte-level BPE behind our own methods, such as Llama 2's and Mistral's."""

from __future__ import annotations

import json
import pickle
import sys

import pytest

import llm_scratch as ls
from llm_scratch.text.corpora import load_text
from llm_scratch.text.token_file import TokenFile
from llm_scratch.tokenizers.any_tokenizer import (
    IncrementalDecoder,
    encode,
    end_of_text_id,
    special_tokens_of,
    vocab_size_of,
)
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.bpe_files import TokenizerFileError
from llm_scratch.tokenizers.simple import UnknownIdError
from llm_scratch.tokenizers.wrapped import WrappedTokenizer

tokenizers = pytest.importorskip("tokenizers")

TEXTS = ["The tide clock", "two\n\nlines\t", "caf\u00e9 \u6f22\U0001f525 end", "", "don't 1908"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file with blanks as letters and bytes for what is unknown, as sentencepiece has it."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first")
    decoders = tokenizers.decoders
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    made.train_from_iterator([load_text("the-tide-clock")], trainer)
    content = json.loads(made.to_str())
    vocab = content["model"]["vocab"]
    vocab |= {token: len(vocab) + i for i, token in enumerate(byte_tokens)}
    made = tokenizers.Tokenizer.from_str(json.dumps(content))
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    made.enable_truncation(3)
    path = tmp_path_factory.mktemp("wrapped") / "tokenizer.json"
    path.write_text(json.dumps(json.loads(made.to_str()), indent=1), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def ours(path):
    return ls.open_tokenizer(path)


@pytest.fixture(scope="module")
def theirs(path):
    made = tokenizers.Tokenizer.from_file(str(path))
    made.no_truncation()
    return made


def test_a_file_that_is_no_byte_level_bpe_is_wrapped(path, ours, theirs):
    assert isinstance(ours, WrappedTokenizer)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == encode(ours, text) == theirs.encode(text, add_special_tokens=False).ids
        assert ours.decode(ids) == text
    assert ours.n_vocab == vocab_size_of(ours) == theirs.get_vocab_size()
    with pytest.raises(TokenizerFileError, match="understood: ByteLevel"):
        BytePairTokenizer.from_tokenizer_json(path)


def test_special_tokens_become_what_is_asked_for(ours, theirs):
    text = "a </s> b"
    assert special_tokens_of(ours) == {"<unk>", "<s>", "</s>"}
    assert encode(ours, text) == theirs.encode(text, add_special_tokens=False).ids
    assert 2 in encode(ours, text, "allow")
    assert 2 not in encode(ours, text, "text")
    assert ours.decode(ours.encode_ordinary(text)) == text
    with pytest.raises(ValueError, match="disallowed special token '</s>' at position 2"):
        encode(ours, text, "raise")
    with pytest.raises(ValueError, match="reads all special tokens or none"):
        ours.encode("<s> </s>", allowed_special={"<s>"}, disallowed_special=())
    assert 2 in ours.encode("a </s>", allowed_special={"</s>"})


def test_what_ends_a_text_is_the_files_or_what_is_said(path, ours):
    assert ours.ends == {"bos_token_id": 1}
    assert end_of_text_id(ours) is None
    assert end_of_text_id(WrappedTokenizer.load(path, {"eos_token_id": 2})) == 2


def test_streams_give_whole_characters(ours):
    text = "caf\u00e9 \U0001f525\u6f22 tide"
    decoder = IncrementalDecoder(ours)
    pieces = [decoder.push(i) for i in ours.encode(text)]
    assert "".join([*pieces, decoder.flush()]) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_the_file_is_kept_byte_by_byte_wherever_it_goes(path, tmp_path):
    ours = WrappedTokenizer.load(path, {"eos_token_id": 2})
    ours.save(tmp_path / "saved.json")
    model = ls.GPTModel(ls.GPTConfig(ours.n_vocab, 8, 8, 2, 1))
    ls.save_model(model, tmp_path / "model", tokenizer=ours)
    opened = ls.open_model(tmp_path / "model").tokenizer
    assert opened.ends == ours.ends == {"bos_token_id": 1, "eos_token_id": 2}
    ls.write_tokens(tmp_path / "tokens.bin", "the tide", ours, progress=False)
    packed = TokenFile(tmp_path / "tokens.bin").tokenizer
    for again in (
        ls.open_tokenizer(tmp_path / "saved.json"),
        opened,
        packed,
        pickle.loads(pickle.dumps(ours)),
    ):
        assert again.to_bytes() == path.read_bytes()
        assert again.fingerprint == ours.fingerprint
        assert again.encode("the tide") == ours.encode("the tide")


def test_wrong_use_is_named(ours, path, tmp_path, monkeypatch):
    with pytest.raises(UnknownIdError, match="id 5000 at position 1 is not in this vocabulary"):
        ours.decode([3, 5000])
    with pytest.raises(ValueError, match="lone surrogate"):
        ours.encode("a\ud800")
    with pytest.raises(TypeError, match="must be a str, got bytes"):
        ours.encode(b"a")
    for content in ({"model": {"type": "BPE"}}, {"model": 3}, {"model": {}}):
        (tmp_path / "bad.json").write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(TokenizerFileError, match=r"bad\.json"):
            ls.open_tokenizer(tmp_path / "bad.json")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match="pip install tokenizers gets it"):
        ls.open_tokenizer(path)
