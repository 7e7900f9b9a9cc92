"""Other people's byte-level vocabularies: ids equal to those of `tokenizers`, rule by rule."""

from __future__ import annotations

import json
import pickle
import random
import unicodedata

import pytest

import llm_scratch as ls
from llm_scratch.text.corpora import load_text
from llm_scratch.text.token_file import TokenFile
from llm_scratch.tokenizers.any_tokenizer import (
    IncrementalDecoder,
    encode,
    end_of_text_id,
    fingerprint,
)
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.bpe_files import TokenizerFileError
from llm_scratch.tokenizers.bpe_pieces import BLOCK
from llm_scratch.tokenizers.known_patterns import LLAMA3_PATTERN, QWEN2_PATTERN
from llm_scratch.tokenizers.normal_form import nfc

tokenizers = pytest.importorskip("tokenizers")

START, END, WORD = "<|start|>", "<|end|>", "<word>"
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BEHIND = {**BYTES, "use_regex": False}
DIGITS = {"type": "Digits", "individual_digits": True}
# Where rules differ: contractions, blanks, line ends, digits, accents in two forms, marks that came
# after Unicode 9, letters that fold to others, scripts, and the added words.
AWKWARD = (
    "'s 'S 'll 'LL '\u017f ' \u2019s ! ?! ... # _ - \t \n \r\n \n\n \x85 \xa0 \u2028 \x1c \x00 0 "
    "12 1234567 \xbd \xb2 \u2167 \u0663 e\u0301 \u0301 \u1100\u1161\u11a8 \u212b \u0958 \ufb01 "
    "\u01c6 \u0899\u1baa \U0001e2ef\ua92d \U00011935\U00011930 \U0001f525 \u6f22\u5b57 "
    "\u0e44\u0e17 \u0939\u093f \u0627\u0644 \ud55c\uad6d "
    "<w <word> <|end|> <|start|> > tide clock The water"
).split(" ") + [" ", "  ", " \n", "   "]


def split_by(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def steps(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


# Patterns that leave gaps, match nothing, look for the ends of lines, or look around.
GAPS = [r"\p{N}+", r"x*", r"[aeiou]", r"(?i:THE)|\s", r"$|^t", r"(?<=t)h", r"(t)(h)|e"]
BEHAVIORS = ("Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
SPLITS = {
    "llama": steps(split_by(LLAMA3_PATTERN), BEHIND),
    "qwen": steps(split_by(QWEN2_PATTERN), BEHIND),
    "smollm": steps(DIGITS, BYTES),
    "runs of digits": steps({**DIGITS, "individual_digits": False}, BYTES),
    "three in a row": steps(
        split_by(r"\p{N}{1,3}"), split_by("[\u4e00-\u9fa5]+"), split_by(LLAMA3_PATTERN), BEHIND
    ),
    "nested": steps(steps(DIGITS, split_by(" ")), BYTES),
    "no split": BEHIND,
    "prefix": {**BYTES, "add_prefix_space": True},
    "prefix after a split": steps(split_by(r"\s+"), {**BEHIND, "add_prefix_space": True}),
    "inverted": steps(split_by(LLAMA3_PATTERN, "Removed", invert=True), BEHIND),
    "a string": steps(split_by("th.", kind="String"), BYTES),
    **{
        f"{pattern} {behavior} {invert}": steps(split_by(pattern, behavior, invert), BEHIND)
        for pattern in GAPS
        for behavior in BEHAVIORS
        for invert in (False, True)
    },
}


@pytest.fixture(scope="module")
def trained():
    """A vocabulary of `tokenizers`, as its file has it, without a split of its own."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=[START, END],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([load_text("the-tide-clock"), "\u6f22\u5b57 12 \u00e9" * 9], trainer)
    made.add_tokens([tokenizers.AddedToken(WORD, normalized=False)])
    return {**json.loads(made.to_str()), "decoder": BYTES}


def both(content, folder):
    """Our tokenizer and theirs, from one file."""
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    ours = BytePairTokenizer.from_tokenizer_json(path)
    return ours, tokenizers.Tokenizer.from_file(str(path))


def awkward_texts(count, seed=0):
    generator = random.Random(seed)
    for _ in range(count):
        yield "".join(generator.choices(AWKWARD, k=generator.randrange(14)))


def assert_same(ours, theirs, texts, back=lambda text: text):
    for text in texts:
        for special in ("allow", "text"):
            theirs.encode_special_tokens = special == "text"
            expected = theirs.encode(text, add_special_tokens=False).ids
            assert encode(ours, text, special) == expected, (special, text)
        assert ours.decode(expected) == back(text)


@pytest.mark.parametrize("name", SPLITS)
def test_each_way_to_split_gives_the_ids_of_tokenizers(trained, tmp_path, name):
    ours, theirs = both({**trained, "pre_tokenizer": SPLITS[name]}, tmp_path)
    count = 150 if len(name) > 9 else 500
    texts = [text for text in awkward_texts(count) if "prefix" not in name]
    assert_same(ours, theirs, texts)
    theirs.encode_special_tokens = False
    for text in awkward_texts(count):  # a blank in front comes out again, with every piece
        assert encode(ours, text) == theirs.encode(text, add_special_tokens=False).ids


def test_nfc_gives_the_ids_of_tokenizers(trained, tmp_path):
    content = {**trained, "normalizer": {"type": "NFC"}, "pre_tokenizer": SPLITS["qwen"]}
    ours, theirs = both(content, tmp_path)
    words = (START, END, WORD)
    texts = [text for text in awkward_texts(500) if not any(word in text for word in words)]
    assert_same(ours, theirs, texts, back=nfc)
    assert ours.encode("e\u0301") == ours.encode("\u00e9")


def test_nfc_is_that_of_tokenizers_for_marks_in_any_order():
    theirs = tokenizers.normalizers.NFC()
    generator = random.Random(1)
    # Their tables are older than those of newer versions of Python.
    tables = unicodedata if unicodedata.unidata_version == "14.0.0" else unicodedata.ucd_3_2_0
    chars = [c for c in map(chr, range(0x110000)) if tables.category(c) not in ("Cn", "Cs")]
    marks = [c for c in chars if unicodedata.combining(c)]
    composed = [c for c in chars if unicodedata.decomposition(c)]
    for _ in range(5000):
        kinds = generator.choices((marks, composed, chars, "aeo"), k=8)
        text = unicodedata.normalize("NFD", "".join(map(generator.choice, kinds)))
        assert nfc(text) == theirs.normalize_str(text)


def test_merges_go_by_their_list_whatever_the_ids_are(trained, tmp_path):
    """Ids, ranks and parts in any order, several ways to one token, tokens that nothing reaches."""
    generator = random.Random(2)
    for whole in (False, True):
        model = {**trained["model"], "ignore_merges": whole}
        ordinary = [token for token in model["vocab"] if token not in (START, END)]
        ids = list(range(2, 2 + len(ordinary)))
        generator.shuffle(ids)
        vocab = dict(zip(ordinary, ids, strict=True)) | {START: 0, END: 1}
        pairs = [(t[:at], t[at:]) for t in ordinary for at in range(1, len(t))]
        pairs = [list(pair) for pair in pairs if set(pair) <= vocab.keys()]
        assert len(pairs) > len(model["merges"])
        generator.shuffle(pairs)
        content = {**trained, "pre_tokenizer": SPLITS["llama"]}
        content["model"] = {**model, "vocab": vocab, "merges": pairs}
        ours, theirs = both(content, tmp_path)
        assert_same(ours, theirs, [*awkward_texts(300), load_text("the-tide-clock")[:20_000]])
        long_piece = "thetidewaterclock" * 200
        assert_same(ours, theirs, [long_piece])
        with pytest.raises(ValueError, match="rules that only its own file can express"):
            ours.to_tiktoken()


def test_a_byte_without_a_token_is_left_out_as_tokenizers_does(trained, tmp_path):
    model = trained["model"]
    vocab = {t: i for t, i in model["vocab"].items() if t not in ("\u0100", "\u0118")}
    content = {**trained, "pre_tokenizer": BYTES, "model": {**model, "vocab": vocab}}
    ours, theirs = both(content, tmp_path)
    for text in ("a\x00b", "\x00", "the\x00 tide"):
        assert ours.encode(text) == theirs.encode(text).ids
        assert ours.decode(ours.encode(text)) == text.replace("\x00", "")
    content["model"] |= {"unk_token": START}
    with pytest.raises(TokenizerFileError, match=r"model\.unk_token"):
        both(content, tmp_path)


def test_long_texts_are_cut_where_it_changes_nothing(trained, tmp_path):
    text = "".join(awkward_texts(6_000))
    assert len(text) > 2 * BLOCK
    for name in ("llama", "qwen", "smollm", "three in a row"):
        ours, theirs = both({**trained, "pre_tokenizer": SPLITS[name]}, tmp_path)
        assert encode(ours, text) == theirs.encode(text, add_special_tokens=False).ids


def test_a_mark_that_begins_texts_is_known_and_not_added(trained, tmp_path):
    theirs = tokenizers.Tokenizer.from_str(json.dumps(trained))
    template = tokenizers.processors.TemplateProcessing(
        single=f"{START} $A", pair=f"{START} $A {START} $B", special_tokens=[(START, 0)]
    )
    theirs.post_processor = template
    ours, _ = both(json.loads(theirs.to_str()), tmp_path)
    assert ours.bos_token_id == 0
    assert ours.ends == {"bos_token_id": 0}
    assert theirs.encode("tide").ids == [0, *ours.encode("tide")]


def test_a_foreign_file_is_kept_byte_by_byte_wherever_it_goes(trained, tmp_path):
    content = {**trained, "normalizer": {"type": "NFC"}, "pre_tokenizer": SPLITS["smollm"]}
    path = tmp_path / "tokenizer.json"
    data = json.dumps(content, indent=3).encode()
    path.write_bytes(data)
    ours = BytePairTokenizer.from_tokenizer_json(path)
    ours.save(tmp_path / "saved.json")
    ours.to_tokenizer_json(tmp_path / "exported.json")
    assert (tmp_path / "saved.json").read_bytes() == data
    assert (tmp_path / "exported.json").read_bytes() == data
    model = ls.GPTModel(ls.GPTConfig(ours.n_vocab, 8, 8, 2, 1))
    ls.save_model(model, tmp_path / "model", tokenizer=ours)
    ls.write_tokens(tmp_path / "tokens.bin", "the tide", ours, progress=False)
    for again in (
        BytePairTokenizer.load(tmp_path / "saved.json"),
        ls.open_tokenizer(path),
        ls.open_model(tmp_path / "model").tokenizer,
        TokenFile(tmp_path / "tokens.bin").tokenizer,
        pickle.loads(pickle.dumps(ours)),
    ):
        assert again.to_bytes() == data
        assert again.fingerprint == ours.fingerprint
        assert encode(again, "e\u0301 12" + END) == encode(ours, "e\u0301 12" + END)


def test_rules_are_part_of_what_tells_tokenizers_apart(trained, tmp_path):
    marks = set()
    qwen = {**trained, "pre_tokenizer": SPLITS["qwen"]}
    reordered = {**trained["model"], "merges": trained["model"]["merges"][::-1]}
    for content in (
        qwen,
        {**qwen, "normalizer": {"type": "NFC"}},
        {**qwen, "pre_tokenizer": SPLITS["smollm"]},
        {**qwen, "pre_tokenizer": SPLITS["prefix"]},
        {**qwen, "model": reordered},
        {**qwen, "model": {**reordered, "ignore_merges": True}},
    ):
        marks.add(fingerprint(both(content, tmp_path)[0]))
    assert len(marks) == 6


def test_keys_that_are_passed_over_are_gone_from_what_is_saved(trained, tmp_path):
    path = tmp_path / "tokenizer.json"
    splitter = {**BYTES, "new": True}
    content = {**trained, "normalizer": {"type": "NFKC"}, "pre_tokenizer": splitter}
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(TokenizerFileError, match="normalizer=.*NFKC"):
        BytePairTokenizer.from_tokenizer_json(path)
    keys = ("normalizer", "pre_tokenizer.new")
    ours = BytePairTokenizer.from_tokenizer_json(path, ignore_keys=keys)
    ours.save(tmp_path / "saved.json")
    assert BytePairTokenizer.load(tmp_path / "saved.json").fingerprint == ours.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab": {"a": 1}}, "has no id"),
        ({"twice": 5}, "two tokens have the same id"),
        ({"far": 1 << 40}, "is not the id of a token"),
        ({"half": 1.5}, "1.5 is not the id of a token"),
        ({START: 3}, "has the ids 3 and 0|have the same id"),
        ({"<unmade>": 2000}, "no merge makes token '<unmade>'"),
    ],
)
def test_numbers_that_do_not_belong_together_are_refused(trained, tmp_path, change, message):
    vocab = change.get("vocab") or {**trained["model"]["vocab"], **change}
    content = {**trained, "model": {**trained["model"], "vocab": vocab}}
    content["pre_tokenizer"] = BYTES
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(TokenizerFileError, match=message):
        BytePairTokenizer.from_tokenizer_json(path)


@pytest.mark.parametrize("pattern", [r"\h", r"[a-z&&[^b]]", r"(?m:.)", r"(?x)a", r"[[:alpha:]b]"])
def test_patterns_that_tokenizers_reads_in_another_way_are_refused(trained, tmp_path, pattern):
    path = tmp_path / "tokenizer.json"
    content = {**trained, "pre_tokenizer": steps(split_by(pattern), BEHIND)}
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(TokenizerFileError, match=r"pre_tokenizer\.pattern\.Regex"):
        BytePairTokenizer.from_tokenizer_json(path)


def test_streams_give_whole_characters(trained, tmp_path):
    ours, _ = both({**trained, "pre_tokenizer": SPLITS["qwen"]}, tmp_path)
    text = "the tide \U0001f525\u6f22 e\u0301" + END
    decoder = IncrementalDecoder(ours)
    pieces = [decoder.push(i) for i in encode(ours, text)]
    assert "".join([*pieces, decoder.flush()]) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert end_of_text_id(ours) is None
