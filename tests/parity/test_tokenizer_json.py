"""`tokenizer.json` as `tokenizers` writes it: added words, and every key taken or refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llm_scratch as ls
from llm_scratch.tokenizers.any_tokenizer import encode, fingerprint
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.bpe_files import TokenizerFileError

tokenizers = pytest.importorskip("tokenizers")

END = "<|endoftext|>"
TEXTS = ["Hi <speaker1> there, don't  stop\n", f"a{END}b <|im_start|>user", "caf\u00e9 12345 tide"]


@pytest.fixture(scope="module")
def trained():
    return BytePairTokenizer.train(ls.load_text("the-tide-clock"), 700, progress=False)


@pytest.fixture(scope="module")
def content(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "tokenizer.json"
    trained.to_tokenizer_json(path)
    return json.loads(path.read_text(encoding="utf-8"))


def written(folder, content):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def with_words(content, tmp_path_factory):
    """Their tokenizer with words that are special, not special, and ordinary tokens; and ours."""
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    AddedToken = tokenizers.AddedToken
    theirs.add_special_tokens([AddedToken("<|im_start|>", normalized=False, special=True)])
    words = ("<speaker1>", "<speaker", "two words", "\n\n", " tide", "text")
    theirs.add_tokens([AddedToken(word, normalized=False) for word in words])
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    theirs.save(str(path))
    return theirs, BytePairTokenizer.from_tokenizer_json(path)


def assert_same(ours, theirs, text):
    for special in ("allow", "text"):
        theirs.encode_special_tokens = special == "text"
        expected = theirs.encode(text, add_special_tokens=False).ids
        assert encode(ours, text, special) == expected, (special, text)
        if special == "text":
            assert ours.encode_ordinary(text) == expected
        assert ours.decode(expected) == theirs.decode(expected, skip_special_tokens=False) == text


def test_added_words_are_one_id_in_prompts_and_corpora(with_words):
    theirs, ours = with_words
    word = theirs.token_to_id("<speaker1>")
    for special in ("allow", "text", "raise"):
        assert encode(ours, "Hi <speaker1>!", special).count(word) == 1
    assert ours.encode_single_token("<speaker1>") == word
    assert not ours.is_special_token(word)
    assert ours.special_tokens.keys() == {END, "<|im_start|>"}
    assert ours.n_vocab == theirs.get_vocab_size()
    for text in TEXTS:
        assert_same(ours, theirs, text)


@settings(max_examples=150)
@given(
    st.lists(
        st.sampled_from(
            ["<speaker1>", "<speaker", "two words", "two", " words", "\n\n", "\n", " tide", "tide",
             END, "<|im_start|>", "<|", "text", "endof", " ", "a", "1", "\u00e9", "\U0001f525"]
        ),
        max_size=14,
    ).map("".join)
)  # fmt: skip
def test_added_words_give_the_ids_of_tokenizers_on_awkward_text(with_words, text):
    theirs, ours = with_words
    assert_same(ours, theirs, text)


def test_added_words_are_kept_in_every_file(with_words, tmp_path):
    theirs, ours = with_words
    ours.save(tmp_path / "saved.json")
    ours.to_tokenizer_json(tmp_path / "tokenizer.json")
    saved = BytePairTokenizer.load(tmp_path / "saved.json")
    exported = BytePairTokenizer.from_tokenizer_json(tmp_path / "tokenizer.json")
    back = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for again in (saved, exported):
        assert again.recipe._replace(name="") == ours.recipe._replace(name="")
        assert fingerprint(again) == fingerprint(ours)
        assert_same(again, theirs, "".join(TEXTS))
    assert_same(ours, back, "".join(TEXTS))
    with pytest.raises(ValueError, match="added word that is not special"):
        ours.to_tiktoken()


def test_a_tokenizer_with_added_words_is_another_one(with_words):
    _, ours = with_words
    merges, special, pattern, name, words = ours.recipe
    special = {**special, **{w: i for w, i in words.items() if w != " tide"}}
    assert fingerprint(BytePairTokenizer(merges, special, pattern, name)) != fingerprint(ours)


def test_corpora_are_not_cut_inside_an_added_word(with_words, tmp_path):
    _, ours = with_words
    text = "begin " + "two words " * 150_000  # the first block would end behind "two"
    data = ls.write_tokens(tmp_path / "t.bin", text, ours, progress=False)
    ids = ours.encode_ordinary(text)
    assert data.tokens[: len(ids)].tolist() == ids
    assert data.tokenizer.added_words == ours.added_words


def test_added_words_that_overlap_others_by_another_rule_are_refused(content, tmp_path):
    """`tokenizers` looks for those without "normalized" first: `any_of` would find others."""
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    theirs.add_tokens([tokenizers.AddedToken("x<|", normalized=True)])
    theirs.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerFileError, match=r"overlap, and only one of them is .normalized"):
        BytePairTokenizer.from_tokenizer_json(tmp_path / "tokenizer.json")


WORD = {"id": 700, "content": "<w>", "special": False, "normalized": True}
PLAIN = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SPLIT = {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}|[^\p{N}]+"}, "behavior": "Isolated"}
SPLIT["invert"] = False
BEHIND = {**BYTES, "use_regex": False}


def steps(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


JOINING = ("MergedWithPrevious", "MergedWithNext", "Contiguous")
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": END, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {END: {"id": END, "ids": [699], "tokens": [END]}},
}
PADDING = {"strategy": {"Fixed": 40}, "direction": "Right", "pad_to_multiple_of": None}
PADDING |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "!"}
CUT = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
# What is taken, by its place; the last part of a place is the key.
TAKEN = [
    ("version", "1.0"),
    ("truncation", CUT),
    ("padding", PADDING),
    ("post_processor", None),
    ("post_processor", TEMPLATE),
    ("decoder", {**BYTES, "add_prefix_space": True, "use_regex": False}),
    ("normalizer", None),
    ("normalizer", {"type": "NFC"}),
    ("normalizer", {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFC"}]}),
    ("normalizer", {"type": "Sequence", "normalizers": []}),
    ("pre_tokenizer", {**BYTES, "use_regex": False}),
    ("pre_tokenizer", steps({"type": "Digits", "individual_digits": True}, BYTES)),
    ("pre_tokenizer", steps({"type": "Digits", "individual_digits": False}, BYTES)),
    ("pre_tokenizer", steps({**SPLIT, "invert": True}, BEHIND)),
    ("pre_tokenizer", steps({**SPLIT, "behavior": "Removed", "invert": True}, BEHIND)),
    *(("pre_tokenizer", steps({**SPLIT, "behavior": way}, BEHIND)) for way in JOINING),
    ("pre_tokenizer", steps({**SPLIT, "pattern": {"String": " "}}, BEHIND)),
    ("pre_tokenizer", {**BYTES, "trim_offsets": False}),
    ("pre_tokenizer", steps(BYTES)),
    ("pre_tokenizer", steps(SPLIT, BEHIND)),
    ("model.unk_token", END),
    ("model.fuse_unk", True),
    ("model.byte_fallback", True),
    ("model.ignore_merges", False),
    ("model.dropout", 0.0),
    ("model.continuing_subword_prefix", ""),
    ("model.end_of_word_suffix", ""),
    ("added_tokens.special", {**WORD, **PLAIN, "special": True}),
    ("added_tokens.normalized", {**WORD, **PLAIN}),
    ("added_tokens.id", {**WORD, **PLAIN, "normalized": False}),
]
REFUSED = [
    *(("normalizer", {"type": kind}) for kind in ("NFD", "NFKC", "Lowercase")),
    ("normalizer", {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]}),
    ("normalizer", {"type": "Prepend", "prepend": "_"}),
    ("pre_tokenizer", {"type": "Whitespace"}),
    ("pre_tokenizer", {"type": "Digits", "individual_digits": True}),
    ("pre_tokenizer", steps({"type": "Punctuation", "behavior": "Isolated"}, BYTES)),
    ("pre_tokenizer", steps({**SPLIT, "behavior": "Removed"}, BEHIND)),
    ("pre_tokenizer", steps({**SPLIT, "pattern": {"Regex": r"\h+"}}, BEHIND)),
    ("pre_tokenizer", steps(BYTES, {"type": "Digits", "individual_digits": True})),
    ("decoder", {"type": "WordPiece", "prefix": "##", "cleanup": True}),
    ("decoder", {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always"}),
    ("model.type", "WordLevel"),
    ("model.dropout", 0.5),
    ("model.continuing_subword_prefix", "##"),
    ("model.end_of_word_suffix", "</w>"),
    *((f"added_tokens.{key}", {**WORD, **PLAIN, key: True}) for key in PLAIN),
]


def changed(content, place, value):
    """The content with another value in one place; a word is added to those that are there."""
    top, _, key = place.partition(".")
    if top == "added_tokens":
        return {**content, top: [*content[top], value]}
    return {**content, top: {**content[top], key: value} if key else value}


def test_every_setting_that_is_taken_gives_the_ids_of_tokenizers(content, tmp_path):
    transformers = pytest.importorskip("transformers")
    for place, value in TAKEN:
        path = written(tmp_path, changed(content, place, value))
        ours = BytePairTokenizer.from_tokenizer_json(path)
        theirs = tokenizers.Tokenizer.from_file(str(path))
        usual = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
        theirs.no_truncation()
        theirs.no_padding()
        for text in (*TEXTS, "a <w> b<w>"):
            ids = encode(ours, text)
            assert theirs.encode(text, add_special_tokens=False).ids == ids, place
            assert usual.encode(text, add_special_tokens=False) == ids, place
            assert theirs.decode(ids, skip_special_tokens=False) == ours.decode(ids) == text, place


def test_every_setting_that_is_not_taken_is_refused_by_name(content, trained, tmp_path):
    for place, value in REFUSED:
        path = written(tmp_path, changed(content, place, value))
        with pytest.raises(TokenizerFileError, match=place.replace(".", r"\.")):
            BytePairTokenizer.from_tokenizer_json(path)
        if place not in ("pre_tokenizer", "decoder"):
            ours = BytePairTokenizer.from_tokenizer_json(path, ignore_keys=(place,))
            assert encode(ours, TEXTS[2]) == encode(trained, TEXTS[2])


def test_every_key_that_tokenizers_writes_has_a_case(content):
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    theirs.add_tokens(["<x>"])
    written = json.loads(theirs.to_str())
    places = {place for place, _ in (*TAKEN, *REFUSED)}
    keys = {key for key in written if key not in ("model", "added_tokens")}
    keys |= {f"model.{key}" for key in written["model"]} - {"model.vocab", "model.merges"}
    keys |= {f"added_tokens.{key}" for key in written["added_tokens"][0]}
    assert keys - places == {"added_tokens.content"}


def test_unknown_settings_pass_where_they_are_off_and_are_named_in_one_warning(content, tmp_path):
    path = written(tmp_path, {**content, "new_switch": False, "new_list": [], "new_thing": None})
    with pytest.warns(UserWarning, match="new_switch, new_list, new_thing") as said:
        BytePairTokenizer.from_tokenizer_json(path)
    assert len(said) == 1
    path = written(tmp_path, {**content, "new_switch": True})
    with pytest.raises(TokenizerFileError, match=r"new_switch='True'"):
        BytePairTokenizer.from_tokenizer_json(path)


def test_open_model_passes_over_what_it_is_told_to(content, tmp_path):
    import torch

    torch.manual_seed(1)
    model = ls.GPTModel(ls.GPTConfig(700, 8, 8, 2, 1))
    folder = ls.export_huggingface(model, tmp_path)
    written(folder, {**content, "normalizer": {"type": "NFKC"}})
    with pytest.raises(TokenizerFileError, match=r"ignore_keys=\('normalizer',\) opens it"):
        ls.open_model(folder)
    assert ls.open_model(folder, ignore_keys=("normalizer",)).tokenizer.n_vocab == 700
