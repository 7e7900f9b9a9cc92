"""Text as it comes: whole characters only, nothing of a stop string, joined the same text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm_scratch.generation.choosing import SamplingSettings
from llm_scratch.generation.ending import StopStrings
from llm_scratch.generation.texts import TextStream, generate_text
from llm_scratch.model.gpt import GPTModel
from llm_scratch.tokenizers.bpe import BytePairTokenizer

SAMPLE = "na\u00efve \u20ac5 \u6f22\u5b57 \U0001f525\U0001f469\u200d\U0001f680 stop. here"


@pytest.fixture(scope="module")
def byte_level():
    """A vocabulary of single bytes."""
    return BytePairTokenizer([], special_tokens=())


@pytest.fixture
def model():
    torch.manual_seed(3)
    config = {
        "vocab_size": 256,
        "context_length": 32,
        "emb_dim": 16,
        "n_heads": 2,
        "n_layers": 1,
        "drop_rate": 0.0,
        "qkv_bias": False,
    }
    return GPTModel(config).eval()


class Writing:
    """Writes the ids of a text, one after the other."""

    def __init__(self, ids, vocab_size):
        self.ids, self.vocab_size = ids, vocab_size
        self.calls = 0

    def __call__(self, ids):
        logits = torch.zeros(*ids.shape, self.vocab_size)
        logits[:, -1, self.ids[self.calls]] = 1.0
        self.calls += 1
        return logits


def pieces_of(tokenizer, text, new=None, **options):
    ids = tokenizer.encode(text)
    stream = TextStream(
        Writing(ids, tokenizer.n_vocab), tokenizer, "x", new or len(ids), context_size=9, **options
    )
    return list(stream), stream.result()


@pytest.mark.parametrize("vocabulary", ["byte_level", "tokenizer"])
def test_text_stream_gives_whole_characters(vocabulary, request):
    pieces, result = pieces_of(request.getfixturevalue(vocabulary), SAMPLE)
    assert "".join(pieces) == result.text == SAMPLE
    assert not any("\ufffd" in piece for piece in pieces)
    assert all(pieces)


def test_text_stream_gives_an_unfinished_character_at_the_end_only(byte_level):
    ids = len("a\u20ac".encode()) - 1
    pieces, result = pieces_of(byte_level, "a\u20ac", new=ids)
    assert pieces == ["a", "\ufffd"]
    assert result.text == "a\ufffd"


@pytest.mark.parametrize("vocabulary", ["byte_level", "tokenizer"])
@pytest.mark.parametrize("stop", ["stop.", "\U0001f680", " \u6f22\u5b57 \U0001f525", "zzz"])
def test_text_stream_never_shows_a_stop_string(vocabulary, stop, request):
    pieces, result = pieces_of(request.getfixturevalue(vocabulary), SAMPLE, stop=stop)
    assert "".join(pieces) == result.text == SAMPLE.partition(stop)[0]
    assert result.finish_reason == ("stop" if stop in SAMPLE else "length")


@pytest.mark.parametrize(
    "options", [{}, {"settings": SamplingSettings(1.5, 60)}, {"stop": ["e", "t\u00e9"]}]
)
def test_text_stream_joined_is_the_text_of_generate_text(model, byte_level, options):
    def generator():
        return torch.Generator().manual_seed(9)

    stream = TextStream(model, byte_level, "\u00e9!", 60, generator=generator(), **options)
    pieces = list(stream)
    whole = generate_text(model, byte_level, "\u00e9!", 60, generator=generator(), **options)
    assert "".join(pieces) == whole.text == stream.result().text
    assert stream.result().ids == whole.ids


def test_text_stream_comes_while_the_model_writes(byte_level):
    ids = byte_level.encode("abcdef")
    model = Writing(ids, 256)
    stream = TextStream(model, byte_level, "x", 6, context_size=9)
    assert model.calls == 0
    for count, letter in enumerate("abcd", start=1):
        assert next(stream) == letter
        assert model.calls == count
    result = stream.result()
    assert (result.text, result.finish_reason, result.new_tokens) == ("abcd", "interrupted", 4)


def test_text_stream_refuses_mistakes_when_made(model, byte_level):
    with pytest.raises(ValueError, match="top_p=7"):
        TextStream(model, byte_level, "x", 3, SamplingSettings(top_p=7))
    with pytest.raises(ValueError, match="max_new_tokens=-2"):
        TextStream(model, byte_level, "x", -2)


def test_text_stream_stopped_by_an_error_keeps_what_was_written(byte_level):
    model = Writing(byte_level.encode("ab"), 256)
    stream = TextStream(model, byte_level, "x", 9, context_size=9)
    with pytest.raises(IndexError):
        list(stream)
    assert stream.result().text == "ab"
    assert stream.result().finish_reason == "interrupted"


def cut_by_hand(text, stop):
    """The text up to the stop string that is complete first."""
    for end in range(len(text) + 1):
        found = [s for s in stop if text[:end].endswith(s)]
        if found:
            return text[: end - max(map(len, found))]
    return text


@given(
    text=st.text(alphabet="ab.", max_size=12),
    stop=st.lists(st.text(alphabet="ab.", min_size=1, max_size=4), max_size=3),
    data=st.data(),
)
def test_stop_strings_cut_the_same_however_the_text_comes(text, stop, data):
    filtering, shown, place = StopStrings(stop), "", 0
    while place < len(text):
        size = data.draw(st.integers(0, len(text) - place), label="size")
        shown += filtering.push(text[place : place + size])
        assert cut_by_hand(text, stop).startswith(shown)
        place += size
        if size == 0:
            shown += filtering.push(text[place : place + 1])
            place += 1
    shown += filtering.flush()
    assert shown == cut_by_hand(text, stop)
    assert (filtering.found is not None) == any(s in text for s in stop)


def test_stop_strings_hold_back_no_more_than_they_must():
    filtering = StopStrings(["END", "\n\n"])
    assert [filtering.push(piece) for piece in ("word E", "N", "X", "\n", "x")] == [
        "word ",
        "",
        "ENX",
        "",
        "\nx",
    ]
