"""Vocabularies written into GGUF files: what stands there, what comes back, what can't be said."""

from __future__ import annotations

import json

import pytest

from llm_scratch.text.corpora import load_text
from llm_scratch.tokenizers.any_tokenizer import encode
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.bpe_vocabulary import spell
from llm_scratch.tokenizers.gguf_tokenizer import KEY, SPLITS
from llm_scratch.tokenizers.known_patterns import LLAMA3_PATTERN, QWEN2_PATTERN
from llm_scratch.tokenizers.tokenizer_json import BYTE_LEVEL

END = "<|endoftext|>"
MERGES = [(b"t", b"h"), (b"th", b"e"), (b" ", b"the"), (b"1", b"2")]
TEXTS = (
    "the the  12345 the\u0301 don't DON'T\r\n\n \t x<|endoftext|>y <word> \u6f22\u5b57 \U0001f525",
    "", " ", "the",
)  # fmt: skip


def written(tokenizer, n_ids=None):
    """The pairs without the start of their names."""
    pairs = tokenizer.to_gguf(tokenizer.n_vocab if n_ids is None else n_ids)
    assert all(key.startswith(KEY) for key in pairs)
    return {key.removeprefix(KEY): value for key, value in pairs.items()}


def changed(tokenizer, **parts):
    """A tokenizer of a tokenizer.json that differs in some parts, those of the model too."""
    content = json.loads(made_elsewhere(tokenizer).to_bytes())
    content["model"] |= parts.pop("model", {})
    return BytePairTokenizer.from_bytes(json.dumps(content | parts).encode())


def made_elsewhere(tokenizer):
    """The same tokenizer, out of a GGUF file."""
    return BytePairTokenizer.from_gguf(tokenizer.to_gguf(tokenizer.n_vocab))


def split_by(*patterns):
    steps = [
        {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False}
        for p in patterns
    ]
    last = {**BYTE_LEVEL, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [*steps, last]}


def test_everything_that_llama_cpp_asks_for_is_there():
    words = {"<word>": 262}
    bpe = BytePairTokenizer(MERGES, {END: 261}, added_words=words)
    found = written(bpe)
    assert found["tokens"][:2] == ["!", '"']
    assert found["tokens"][256:] == ["th", "the", "\u0120the", "12", "[PAD260]", END, "<word>"]
    assert found["token_type"] == [1] * 260 + [5, 3, 4]
    assert found["merges"] == ["t h", "th e", "\u0120 the", "1 2"]
    rest = {k: v for k, v in found.items() if k not in ("tokens", "token_type", "merges")}
    assert rest == {"model": "gpt2", "pre": "gpt-2", "bos_token_id": 261, "eos_token_id": 261,
                    "add_bos_token": False}  # fmt: skip


def test_ids_without_a_token_are_filled_by_unused_ones_of_other_names():
    bpe = BytePairTokenizer(MERGES, (END, "[PAD262]"))
    found = written(bpe, n_ids=264)
    assert found["tokens"][260:] == [END, "[PAD262]", "[[PAD262]]", "[PAD263]"]
    assert found["token_type"][260:] == [3, 3, 5, 5]
    again = BytePairTokenizer.from_gguf(bpe.to_gguf(264))
    assert again.n_vocab == bpe.n_vocab == 262


@pytest.mark.parametrize("special", ["allow", "text"])
@pytest.mark.parametrize("pattern", [None, LLAMA3_PATTERN, QWEN2_PATTERN])
def test_a_tokenizer_of_ours_comes_back_with_equal_ids(pattern, special):
    options = {} if pattern is None else {"pattern": pattern}
    bpe = BytePairTokenizer(MERGES, (END,), added_words={"<word>": 300}, **options)
    again = made_elsewhere(bpe)
    for text in (*TEXTS, load_text("the-tide-clock")):
        assert encode(again, text, special) == encode(bpe, text, special)
    assert again.fingerprint == bpe.fingerprint
    assert written(again) == written(bpe)


def test_the_table_of_gpt2_comes_back():
    bpe = BytePairTokenizer.gpt2()
    found = written(bpe, 50304)
    assert found["merges"][:2] == ["\u0120 t", "\u0120 a"]
    assert (len(found["tokens"]), len(found["merges"])) == (50304, 50000)
    assert (found["tokens"][50256:50258], found["eos_token_id"]) == ([END, "[PAD50257]"], 50256)
    assert BytePairTokenizer.from_gguf(bpe.to_gguf(50304)).fingerprint == bpe.fingerprint


FIRST_NAMES = {"phi-2": "gpt-2", "starcoder": "smollm", "llama3": "llama-bpe",
               "llama-v3": "llama-bpe"}  # fmt: skip


@pytest.mark.parametrize("rule", SPLITS)
def test_each_rule_is_written_by_its_name(rule):
    pairs = BytePairTokenizer(MERGES).to_gguf(261)
    again = BytePairTokenizer.from_gguf({**pairs, KEY + "pre": rule})
    assert written(again)["pre"] == FIRST_NAMES.get(rule, rule)


def test_marks_are_written_as_the_file_that_they_came_from_has_them():
    bpe = BytePairTokenizer(MERGES, ("<s>", "<pad>", "</s>"))
    ids = {"bos_token_id": 260, "padding_token_id": 261, "eos_token_id": 262}
    assert (written(bpe)["bos_token_id"], written(bpe)["eos_token_id"]) == (260, 262)
    assert "padding_token_id" not in written(bpe)
    for begins in (True, False):
        stated = {KEY + key: value for key, value in {**ids, "add_bos_token": begins}.items()}
        again = BytePairTokenizer.from_gguf({**bpe.to_gguf(263), **stated})
        assert written(again) | ids | {"add_bos_token": begins} == written(again)


def test_a_vocabulary_without_an_end_of_text_is_refused():
    with pytest.raises(ValueError, match="no special token ends a text, and llama.cpp would use"):
        BytePairTokenizer(MERGES, ("<|im_start|>",)).to_gguf(261)
    assert written(BytePairTokenizer(MERGES, ("<|end_of_text|>",)))["eos_token_id"] == 260


def test_fewer_ids_than_tokens_are_refused():
    with pytest.raises(ValueError, match="n_ids=260 must be above 260, the highest id of a token"):
        BytePairTokenizer(MERGES).to_gguf(260)


def test_a_vocabulary_without_merges_is_refused():
    with pytest.raises(ValueError, match="a vocabulary of bytes alone has no merges"):
        BytePairTokenizer([]).to_gguf(257)


@pytest.mark.parametrize(
    ("splitter", "nfc", "message"),
    [
        (split_by(r"\w+|\W"), False, r"texts are split by \\w\+\|\\W, for which llama.cpp has no"),
        (split_by(r"\p{N}", QWEN2_PATTERN), False, r"split by \(Step\(.*no name \(it has gpt"),
        (split_by(LLAMA3_PATTERN), True, r" after NFC, for which llama.cpp has no name"),
        ({**BYTE_LEVEL, "add_prefix_space": True, "use_regex": True}, False, "prefix_space=True"),
    ],
)
def test_a_rule_without_a_name_is_refused(splitter, nfc, message):
    normalizer = {"type": "NFC"} if nfc else None
    bpe = changed(BytePairTokenizer(MERGES), pre_tokenizer=splitter, normalizer=normalizer)
    with pytest.raises(ValueError, match=message):
        bpe.to_gguf(261)


@pytest.mark.parametrize("whole", [True, False])
def test_pieces_that_are_tokens_are_taken_as_the_rule_does(whole):
    """`x y` and `xy z` make `xyz` by hand, and `y z` comes before: its bytes merge to `x yz`."""
    merges = [["y", "z"], ["x", "y"], ["xy", "z"]]
    vocab = {**{spell(bytes([n])): n for n in range(256)}, "yz": 256, "xy": 257, "xyz": 258}
    added = [{"id": 259, "content": END, "special": True, "normalized": False,
              "single_word": False, "lstrip": False, "rstrip": False}]  # fmt: skip
    model = {"vocab": vocab, "merges": merges, "ignore_merges": whole}
    for pattern, name in ((LLAMA3_PATTERN, "llama-bpe" if whole else "smaug-bpe"),
                          (QWEN2_PATTERN, "grok-2")):  # fmt: skip
        bpe = changed(
            BytePairTokenizer(MERGES),
            model=model, added_tokens=added, pre_tokenizer=split_by(pattern),
        )  # fmt: skip
        assert bpe.encode("xyz") == ([258] if whole else [ord("x"), 256])
        if name == "grok-2" and whole:
            with pytest.raises(
                ValueError, match=r"1 tokens, such as b'xyz', .* 'grok-2' does not take"
            ):
                bpe.to_gguf(260)
        else:
            assert written(bpe)["pre"] == name


def test_two_tokens_of_one_spelling_are_refused():
    bpe = BytePairTokenizer(MERGES, {"a": 260, END: 261})
    with pytest.raises(ValueError, match="the added token 'a' is spelled like another token"):
        bpe.to_gguf(262)
    bpe = BytePairTokenizer(MERGES, {END: 260}, added_words={"\u0120the": 261})
    with pytest.raises(ValueError, match="the added token '\u0120the' is spelled like another"):
        bpe.to_gguf(262)


def test_an_added_word_that_merges_make_too_is_written_where_it_is_spelled_as_it_is():
    bpe = BytePairTokenizer(MERGES, {END: 260}, added_words={"the": 257})
    assert written(bpe)["token_type"][257] == 4
    assert made_elsewhere(bpe).encode("other") == bpe.encode("other")
    bpe = BytePairTokenizer(MERGES, {END: 260}, added_words={" the": 258})
    with pytest.raises(ValueError, match="' the' is an added token and also made by merges"):
        bpe.to_gguf(261)
