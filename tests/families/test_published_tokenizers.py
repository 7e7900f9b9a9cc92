"""The real vocabularies of Llama 3 and Qwen 3, and what GGUF files say of theirs."""

from __future__ import annotations

import json
import random
import unicodedata

import pytest
from published_vocabularies import SIZES, published_file

from llm_scratch.text.corpora import load_text
from llm_scratch.tokenizers.any_tokenizer import encode, end_of_text_id
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.bpe_files import TokenizerFileError
from llm_scratch.tokenizers.bpe_vocabulary import spell
from llm_scratch.tokenizers.gguf_tokenizer import SPLITS, tokenizer_json_of

tokenizers = pytest.importorskip("tokenizers")

TEXTS = [
    "The tide's 12345 clocks\r\n\r\n  don\u2019T e\u0301 \u212b \u6f22\u5b57 \U0001f525",
    " \n",
]


@pytest.fixture(params=SIZES)
def published(request, tmp_path):
    """The name and the path of a published tokenizer.json; skips the test where it is missing."""
    path = tmp_path / "tokenizer.json"
    path.write_bytes(published_file(request.param, path.name))
    return request.param, path


def random_texts(count):
    """Texts of characters that every table of Unicode knows, of words, blanks and marks."""
    generator = random.Random(0)
    category = unicodedata.ucd_3_2_0.category
    known = [c for c in map(chr, range(0x110000)) if category(c) not in ("Cn", "Cs")]
    words = load_text("the-tide-clock").split()
    for _ in range(count):
        kinds = (known, words, TEXTS[0], [" ", "\n", "'s", "'LL", "12", "<|im_end|>", "<think>"])
        parts = generator.choices(kinds, k=generator.randrange(30))
        yield "".join(map(generator.choice, parts))


@pytest.mark.slow
def test_published_tokenizers_give_the_ids_of_tokenizers(published):
    name, path = published
    ours = BytePairTokenizer.from_tokenizer_json(path)
    theirs = tokenizers.Tokenizer.from_file(str(path))
    assert (ours.n_vocab, len(ours.merges)) == SIZES[name]
    story = load_text("the-tide-clock")
    for text in (story, *TEXTS, *random_texts(3000)):
        for special in ("allow", "text"):
            theirs.encode_special_tokens = special == "text"
            expected = theirs.encode(text, add_special_tokens=False).ids
            assert encode(ours, text, special) == expected, text
    assert ours.decode(encode(ours, story)) == story
    assert ours.to_bytes() == path.read_bytes()


def gguf_of(trained, rule, **more):
    """What a GGUF file says of a vocabulary that was trained here, with two marks in front."""
    ids = trained._vocabulary.ordinary
    tokens = ["<|start|>", "<|end|>", *map(spell, ids), "<word>", "[PAD9]"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": rule,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, *[1] * len(ids), 4, 5],
        "tokenizer.ggml.merges": [f"{spell(a)} {spell(b)}" for a, b in trained.merges],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 1,
        **{f"tokenizer.ggml.{key}": value for key, value in more.items()},
    }


@pytest.fixture(scope="module")
def trained():
    return BytePairTokenizer.train(load_text("the-tide-clock"), 600, (), progress=False)


@pytest.mark.parametrize("rule", SPLITS)
def test_a_gguf_vocabulary_is_a_tokenizer(trained, rule, tmp_path):
    ours = BytePairTokenizer.from_gguf(gguf_of(trained, rule))
    ours.save(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in (*TEXTS, *random_texts(50), "a <word> <|end|>"):
        for special in ("allow", "text"):
            theirs.encode_special_tokens = special == "text"
            expected = theirs.encode(text, add_special_tokens=False).ids
            assert encode(ours, text, special) == expected
    assert ours.special_tokens == {"<|start|>": 0, "<|end|>": 1}
    assert ours.added_words == {"<word>": 602}
    assert ours.n_vocab == 603
    assert ours.ends == {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    assert end_of_text_id(ours) == ours.eot_token == 1


def test_a_gguf_file_may_ask_for_a_mark_in_front_that_encode_leaves_out(trained):
    ours = BytePairTokenizer.from_gguf(gguf_of(trained, "llama-bpe", add_bos_token=True))
    theirs = tokenizers.Tokenizer.from_str(ours.to_bytes().decode())
    assert theirs.encode("tide").ids == [ours.bos_token_id, *ours.encode("tide")]
    content = json.loads(ours.to_bytes())
    assert content == tokenizer_json_of("x", gguf_of(trained, "llama-bpe", add_bos_token=True))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"model": "llama"}, r"kind 'llama' \(tokenizer.ggml.model\), which is not supported"),
        (
            {"pre": "tekken2"},
            "unknown rule 'tekken2' .tokenizer.ggml.pre; known: g",
        ),
        ({"pre": None}, "rule None"),
        ({"token_type": [1]}, "1 token types for 604 tokens"),
        ({"token_type": [2] * 604}, "lists a token twice, or one of an unknown type"),
        ({"merges": ["a b c"]}, "not a complete vocabulary"),
        ({"merges": ["a \u0100"]}, "has no id"),
        ({"tokens": []}, "603 token types for 0|604 token types for 0"),
    ],
)
def test_a_gguf_vocabulary_of_another_kind_is_refused(trained, more, message):
    with pytest.raises(TokenizerFileError, match=message):
        BytePairTokenizer.from_gguf(gguf_of(trained, "smollm", **more), "model.gguf")
