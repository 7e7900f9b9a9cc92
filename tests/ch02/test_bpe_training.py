"""Training: the plain way and the fast one learn the same, whatever the text comes from."""

from __future__ import annotations

import re
import tracemalloc
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_scratch.tokenizers import bpe_training
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.bpe_training import (
    count_pieces,
    learn_merges,
    replace_pair,
    train_by_hand,
)
from llm_scratch.tokenizers.gpt2 import END_OF_TEXT

TEXT = "The cat sat. The hat, the bat: that's what they had! <|endoftext|> The end, they said."


def quiet_merges(*args, **kwargs):
    """Learned merges, without the warning where the text is too small."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return learn_merges(*args, progress=False, **kwargs)


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(["ab", "aa", "b", " a", "aaa", "é", "\n", "ba ab"]), min_size=1),
    st.integers(256, 290),
)
def test_train_equals_training_by_hand(parts, vocab_size):
    text = "".join(parts)
    assert quiet_merges(text, vocab_size, ()) == train_by_hand(text, vocab_size, ())


@given(st.text().filter(lambda text: text.replace(END_OF_TEXT, "")), st.integers(257, 280))
def test_train_equals_training_by_hand_on_any_text(text, vocab_size):
    assert quiet_merges(text, vocab_size) == train_by_hand(text, vocab_size)


def test_train_equals_training_by_hand_on_the_books_story(verdict):
    part = verdict[:6000]
    assert learn_merges(part, 500) == train_by_hand(part, 500)


def test_train_breaks_ties_by_the_lowest_pair_of_ids():
    # All four pairs occur once; b has the lowest id, so (b, d) is the lowest pair.
    assert quiet_merges("cb\nca\nbe\nbd", 260, (), r"\n|\w+")[0] == (b"b", b"d")
    # A blank is a high id (220): it loses against letters.
    assert quiet_merges(" a\nba", 257, (), r"\n| ?\w+")[0] == (b"b", b"a")


def test_train_counts_what_overlaps_as_neighbours():
    assert quiet_merges("aaa bc bc", 257, (), r"\w+| ")[0] == (b"a", b"a")


@pytest.mark.parametrize(
    ("ids", "expected"),
    [([1, 1, 1], [9, 1]), ([1] * 4, [9, 9]), ([2, 1, 1, 2], [2, 9, 2]), ([1], [1]), ([], [])],
)
def test_replace_pair_goes_from_left_to_right_without_overlap(ids, expected):
    assert replace_pair(ids, (1, 1), 9) == expected


@pytest.mark.parametrize("vocab_size", [257, 258, 300])
def test_train_gives_the_size_that_was_asked_for(verdict, vocab_size):
    tokenizer = BytePairTokenizer.train(verdict, vocab_size)
    assert tokenizer.n_vocab == vocab_size
    assert len(tokenizer.merges) == vocab_size - 257
    assert tokenizer.eot_token == vocab_size - 1


def test_train_learns_only_bytes_when_there_is_no_room_for_more():
    tokenizer = BytePairTokenizer.train("some text", 256, ())
    assert tokenizer.merges == []
    assert tokenizer.n_vocab == 256


def test_train_stops_early_with_a_warning_that_gives_the_true_size():
    with pytest.warns(UserWarning, match="has 260 tokens, not 5000; take .* from n_vocab") as seen:
        tokenizer = BytePairTokenizer.train("aaab", 5000, progress=False)
    assert seen[0].filename == __file__
    assert tokenizer.n_vocab == 260
    assert tokenizer.merges == [(b"a", b"a"), (b"a", b"b"), (b"aa", b"ab")]


@pytest.mark.parametrize("text", ["x", " ", "\n"])
def test_train_keeps_going_on_a_text_of_one_letter(text):
    with pytest.warns(UserWarning, match="no pairs left to merge"):
        tokenizer = BytePairTokenizer.train(text, 300)
    assert tokenizer.n_vocab == 257
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("texts", ["", [], ["", ""], END_OF_TEXT, [END_OF_TEXT * 3]])
def test_train_refuses_empty_text(texts):
    with pytest.raises(ValueError, match="there is no text to learn from"):
        BytePairTokenizer.train(texts, 300)


@pytest.mark.parametrize(
    ("size", "specials", "least"), [(256, (END_OF_TEXT,), 257), (255, (), 256), (-1, (), 256)]
)
def test_train_refuses_a_vocabulary_without_room_for_bytes_and_specials(size, specials, least):
    with pytest.raises(ValueError, match=rf"vocab_size={size} must be at least {least} "):
        BytePairTokenizer.train("text", size, specials)


def test_train_refuses_more_tokens_than_there_are_characters():
    with pytest.raises(ValueError, match="at most 1114112"):
        BytePairTokenizer.train("text", 1_114_113)
    with pytest.raises(TypeError, match="vocab_size must be an int"):
        BytePairTokenizer.train("text", 300.0)


@pytest.mark.parametrize(
    ("texts", "kind"),
    [(None, "NoneType"), (5, "int"), (b"bytes", "bytes"), ([b"bytes"], "bytes"), ([1], "int")],
)
def test_train_refuses_what_is_no_text(texts, kind):
    with pytest.raises(TypeError, match=rf"must be a str(,| or) a path.*, got {kind}$"):
        BytePairTokenizer.train(texts, 300)


def test_train_refuses_duplicate_specials_and_surrogates():
    with pytest.raises(ValueError, match="'<a>' is given twice"):
        BytePairTokenizer.train("text", 300, ("<a>", "<a>"))
    with pytest.raises(ValueError, match="lone surrogate .* position 4"):
        BytePairTokenizer.train("text\ud800", 300)


def test_train_cuts_special_tokens_out_first():
    with_special = f"ab{END_OF_TEXT}ab{END_OF_TEXT}ba"
    assert quiet_merges(with_special, 300) == quiet_merges(["ab", "ab", "ba"], 300)
    tokenizer = BytePairTokenizer.train(TEXT, 270)
    assert not any(b"<|" in left + right for left, right in tokenizer.merges)
    assert tokenizer.encode(TEXT, allowed_special="all").count(tokenizer.eot_token) == 1


def test_train_does_not_merge_across_texts():
    assert count_pieces(["a", "b"]) == {"a": 1, "b": 1}
    assert count_pieces("ab") == {"ab": 1}


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("text", [TEXT * 3, "a\r\nb\r\n  c\n\n", "x" * 50, " é漢 🔥\n" * 9])
def test_train_on_a_file_equals_training_on_its_text(tmp_path, monkeypatch, text, size):
    path = tmp_path / "corpus.txt"
    path.write_bytes(text.encode())
    original = bpe_training.blocks_of
    monkeypatch.setattr(
        bpe_training, "blocks_of", lambda source, whole: original(source, whole, size)
    )
    assert count_pieces(path, [END_OF_TEXT]) == count_pieces(text, [END_OF_TEXT])
    assert quiet_merges([path, path], 270) == quiet_merges([text, text], 270)


def test_train_on_a_file_sees_special_tokens_with_blanks(tmp_path, monkeypatch):
    path = tmp_path / "corpus.txt"
    path.write_text("one <| end of text |> two " * 20, encoding="utf-8")
    original = bpe_training.blocks_of
    monkeypatch.setattr(bpe_training, "blocks_of", lambda source, whole: original(source, whole, 3))
    assert count_pieces(path, ["<| end of text |>"]) == {
        **{"one": 1, " one": 19, " two": 20},
        " ": 21,  # one before each special token, one at the end
    }


def test_train_names_the_file_that_is_not_utf8(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match=re.escape(f"{path}: is not UTF-8: byte 0xe9")):
        BytePairTokenizer.train(path, 300)
    with pytest.raises(FileNotFoundError):
        BytePairTokenizer.train(Path("nowhere.txt"), 300)


def test_train_warns_about_the_name_of_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("corpus.txt").write_text(TEXT, encoding="utf-8")
    for texts in ("corpus.txt", ["corpus.txt"]):
        with pytest.warns(
            UserWarning, match=r"to read the file of that name, pass Path\('corpus.txt'\)"
        ):
            assert count_pieces(texts) == {"corpus": 1, ".": 1, "txt": 1}
    assert BytePairTokenizer.train(Path("corpus.txt"), 260).n_vocab == 260


def test_train_memory_grows_with_different_words_only(tmp_path, monkeypatch):
    original = bpe_training.blocks_of
    monkeypatch.setattr(
        bpe_training, "blocks_of", lambda source, whole: original(source, whole, 9999)
    )
    words = " ".join(f"word{i}" for i in range(500)) + "\n"

    def peak(times: int) -> int:
        path = tmp_path / f"{times}.txt"
        path.write_text(words * times, encoding="utf-8")
        tracemalloc.start()
        count_pieces(path)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(1)  # what is made once and kept
    small = peak(10)  # 45 KB of text: several blocks of the file
    assert peak(100) < 1.1 * small


def test_train_shows_a_bar_only_when_it_takes_long(capsys, monkeypatch):
    BytePairTokenizer.train(TEXT, 260)
    assert capsys.readouterr().err == ""
    import tqdm

    original = tqdm.tqdm
    monkeypatch.setattr(tqdm, "tqdm", lambda *a, **k: original(*a, **{**k, "delay": 0}))
    BytePairTokenizer.train(TEXT, 260)
    assert "BPE training" in capsys.readouterr().err
    BytePairTokenizer.train(TEXT, 260, progress=False)
    assert capsys.readouterr().err == ""
