"""Many requests at once: each gets what it gets alone, and what it asks for."""

from __future__ import annotations

import threading

import pytest
import torch
from engines import CONTEXT, Asked, alone, byte_level, text_of, tiny_gpt, tiny_llama
from torch.testing import assert_close

from llm_scratch.chat.engine import Engine
from llm_scratch.chat.requests import ContextLengthError, Finished, Piece, PromptScores, Request
from llm_scratch.generation.choosing import SamplingSettings
from llm_scratch.generation.texts import TextStream

MODELS = {"gpt": tiny_gpt, "llama": tiny_llama, "window": lambda: tiny_llama(sliding_window=7)}
BYTES = byte_level()
DRAWN = SamplingSettings(temperature=1.5, top_p=0.95, frequency_penalty=0.5)


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


def prompt(length, first=40):
    return tuple(range(first, first + length))


def cases():
    """16 requests of different lengths, greedy and drawn in turn."""
    for n in range(16):
        settings = SamplingSettings() if n % 2 else DRAWN
        yield Request(prompt(1 + 2 * n, n), 3 + n, settings, seed=n)


@pytest.mark.parametrize("name", MODELS)
def test_engine_gives_each_of_16_requests_what_it_gets_alone(name):
    model = MODELS[name]()
    with Engine(model, BYTES, rows=6, prefill_chunk=7) as engine:
        asked = [Asked(engine, request) for request in cases()]
        found = [each.finished().ids for each in asked]
    expected = [alone(model, r.ids, r.max_new_tokens, r.settings, r.seed) for r in cases()]
    assert found == expected


def test_engine_gives_the_text_of_a_text_stream(model):
    ids, new = prompt(5), 30
    with Engine(model, BYTES) as engine:
        events = Asked(engine, Request(ids, new)).all()
    stream = TextStream(model, BYTES, ids, new)
    pieces = list(stream)
    assert [event.text for event in events[:-1]] == pieces
    assert events[-1] == Finished("length", tuple(stream.result().ids), 5, 0)


def test_engine_draws_a_seed_where_none_is_given(model):
    with Engine(model, BYTES, kept=0) as engine:
        request = Request(prompt(3), 20, SamplingSettings(temperature=2.0))
        assert len({Asked(engine, request).finished().ids for _ in range(3)}) == 3


def writes(model, text):
    """Let a model write the bytes of a text, one at each call."""
    ids = BYTES.encode(text)

    def shown(norm, args, hidden):
        """Rows of the head's weight, which is the identity, in the place of what was computed."""
        wanted = torch.zeros_like(hidden)
        wanted[:, -1, ids[min(written, len(ids) - 1)]] = 1.0
        return wanted

    written = -1

    def counted(*_):
        nonlocal written
        written += 1

    model.tok_emb.register_forward_pre_hook(counted)
    model.final_norm.register_forward_hook(shown)
    with torch.no_grad():
        model.out_head.weight.copy_(torch.eye(256))
    return model


def writing(text):
    return writes(tiny_llama(emb_dim=256, n_layers=1, tie_weights=False), text)


SAMPLE = "a\u20acb \U0001f525 stop here"


def test_engine_shows_whole_characters_alone():
    with Engine(writing(SAMPLE), BYTES) as engine:
        events = Asked(engine, Request(prompt(3), len(SAMPLE.encode()))).all()
    assert [event.text for event in events[:-1]] == list(SAMPLE)
    assert events[-1].reason == "length"


class Words:
    """A tokenizer that gives text only, with blanks between words and none before the first."""

    vocab_size = 256

    def decode(self, ids):
        return " ".join(f"w{token_id}" for token_id in ids)


def test_engine_goes_on_from_the_prompts_last_word(model):
    with Engine(model, Words()) as engine:
        *events, last = Asked(engine, Request(prompt(3), 3)).all()
    assert text_of(events) == "".join(f" w{token_id}" for token_id in last.ids)


def test_engine_shows_an_unfinished_character_at_the_end_only():
    with Engine(writing("a\u20ac"), BYTES) as engine:
        events = Asked(engine, Request(prompt(3), 3)).all()
    assert [event.text for event in events[:-1]] == ["a", "\ufffd"]


@pytest.mark.parametrize("stop", [("stop",), ("zz", " here", "p h"), ("\U0001f525 s",)])
def test_engine_never_shows_a_stop_string(stop):
    with Engine(writing(SAMPLE), BYTES) as engine:
        events = Asked(engine, Request(prompt(3), 40, stop=stop)).all()
    end = min(SAMPLE.find(each) + len(each) for each in stop if each in SAMPLE)
    shown = next(SAMPLE[:end].removesuffix(each) for each in stop if SAMPLE[:end].endswith(each))
    assert text_of(events) == shown
    assert events[-1].reason == "stop"
    assert BYTES.decode(events[-1].ids) == SAMPLE[:end]


def test_engine_shows_what_only_began_like_a_stop_string():
    with Engine(writing(SAMPLE), BYTES) as engine:
        events = Asked(engine, Request(prompt(3), 10, stop=("b \U0001f525 stopped",))).all()
    assert text_of(events) == SAMPLE.encode()[:10].decode()


def test_engine_ends_at_ids_that_are_asked_for():
    with Engine(writing("abcd"), BYTES) as engine:
        events = Asked(
            engine, Request(prompt(3), 9, stop_ids=(BYTES.encode("c")[0], BYTES.encode("x")[0]))
        ).all()
    assert text_of(events) == "ab"
    assert events[-1].reason == "stop"
    assert BYTES.decode(events[-1].ids) == "abc"


def test_engine_ends_at_the_tokenizers_end_of_text():
    tokenizer = byte_level()
    tokenizer.eos_token_id = BYTES.encode("c")[0]
    with Engine(writing("abcd"), tokenizer) as engine:
        events = Asked(engine, Request(prompt(3), 9)).all()
    assert (text_of(events), events[-1].reason) == ("ab", "eos")


def test_engine_never_chooses_ids_that_the_tokenizer_lacks():
    model = tiny_llama(vocab_size=300)
    with torch.no_grad():
        model.out_head.weight[256:] *= 50
    with Engine(model, BYTES) as engine:
        assert max(Asked(engine, Request(prompt(3), 30)).finished().ids) < 256
    assert max(alone(model, prompt(3), 30)) >= 256


@torch.no_grad()
def test_engine_tells_the_models_own_logprobs(model):
    ids = prompt(4)
    with Engine(model, BYTES) as engine:
        events = Asked(engine, Request(ids, 12, DRAWN, seed=1, top_logprobs=3)).all()
    scores = [score for event in events[:-1] for score in event.tokens]
    written = events[-1].ids
    assert [score.id for score in scores] == list(written)
    expected = model(torch.tensor([[*ids, *written]]))[0, 3:-1].log_softmax(dim=-1)
    chosen = expected.gather(1, torch.tensor(written)[:, None])[:, 0]
    assert_close(torch.tensor([s.logprob for s in scores]).double(), chosen, atol=1e-5, rtol=1e-5)
    best = expected.topk(3)
    assert [[i for i, _ in s.top] for s in scores] == best.indices.tolist()
    told = torch.tensor([[p for _, p in s.top] for s in scores]).double()
    assert_close(told, best.values, atol=1e-5, rtol=1e-5)


def test_engine_tells_scores_with_the_text_they_belong_to():
    with Engine(writing("\u20acx"), BYTES) as engine:
        events = Asked(engine, Request(prompt(3), 4, top_logprobs=0)).all()
        cut = Asked(engine, Request(prompt(3), 2)).all()
    assert [(e.text, len(e.tokens)) for e in events[:-1]] == [("\u20ac", 3), ("x", 1)]
    assert all(score.top == () for event in events[:-1] for score in event.tokens)
    assert [event.tokens for event in cut[:-1]] == [()] * len(cut[:-1])


def test_engine_tells_scores_of_an_end_that_shows_nothing():
    with Engine(writing("ab"), BYTES) as engine:
        request = Request(prompt(3), 5, stop_ids=(BYTES.encode("b")[0],), top_logprobs=1)
        events = Asked(engine, request).all()
    assert [(e.text, len(e.tokens)) for e in events[:-1]] == [("a", 1), ("", 1)]


@torch.no_grad()
@pytest.mark.parametrize("watched", [False, True])
def test_engine_scores_a_prompt_as_a_full_forward_does(watched):
    model, ids = tiny_llama(), prompt(50)
    expected = model(torch.tensor([ids]))[0, :-1].log_softmax(dim=-1)
    if watched:
        model.register_forward_hook(lambda *_: None)
    with Engine(model, BYTES, prefill_chunk=37) as engine:
        request = Request(ids, 2, top_logprobs=2, score_prompt=True)
        for _ in range(2):  # nothing is reused: all has to be scored
            first, *rest = Asked(engine, request).all()
            assert isinstance(first, PromptScores)
            assert not any(isinstance(event, PromptScores) for event in rest)
            assert rest[-1].reused_tokens == 0
    assert [score.id for score in first.tokens] == list(ids)
    assert (first.tokens[0].logprob, first.tokens[0].top) == (None, ())
    chosen = expected.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    told = torch.tensor([score.logprob for score in first.tokens[1:]]).double()
    assert_close(told, chosen, atol=1e-5, rtol=1e-5)
    tops = [[token_id for token_id, _ in score.top] for score in first.tokens[1:]]
    assert tops == expected.topk(2).indices.tolist()
    assert rest[-1].ids == alone(model, ids, 2)


def test_engine_scores_a_prompt_without_likeliest_tokens(model):
    with Engine(model, BYTES) as engine:
        first, *rest = Asked(engine, Request(prompt(4), 2, score_prompt=True)).all()
    assert [score.top for score in first.tokens] == [()] * 4
    assert all(event.tokens == () for event in rest if isinstance(event, Piece))


def test_engine_refuses_what_means_nothing(model):
    with Engine(model, BYTES) as engine:
        for request, message in (
            (Request((), 3), "the prompt is empty"),
            (Request((1, 256), 3), "id 256 of the prompt is not in the vocabulary, 0 to 255"),
            (Request((1, "2"), 3), "id 2 of the prompt"),
            (Request((1,), 0), "max_new_tokens=0 must be 1 or more"),
            (Request((1,), CONTEXT), "does not fit a context of 64 .* 1; ask for at most 63"),
            (Request((1,), 3, stop=("",)), "stop strings must not be empty"),
            (Request((1,), 3, seed=2**64), "must be below"),
            (Request((1,), 3, seed=1.5), "seed=1.5"),
            (Request((1,), 3, top_logprobs=-1), "top_logprobs=-1 must be 0 or more"),
        ):
            with pytest.raises(ValueError, match=message):
                engine.submit(request, print)
        with pytest.raises(ContextLengthError, match="prompt has 64 tokens .* context 64;"):
            engine.submit(Request(prompt(64), 1), print)
        assert Asked(engine, Request(prompt(60), 4)).finished().reason == "length"
        assert engine.counters.requests == 1
    for options in ({"rows": 0}, {"waiting": 0}, {"prefill_chunk": 0}, {"kept": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}=.* must be"):
            Engine(model, BYTES, **options)
    with pytest.raises(TypeError, match="needs a model that takes a cache"):
        Engine(lambda ids: ids, BYTES)


def test_engine_loses_no_request_of_four_threads(model):
    found, together = {}, threading.Barrier(4)

    def ask(engine, thread):
        together.wait()
        for n in range(8):
            request = Request(prompt(1 + n, 10 * thread), 4, DRAWN, seed=n)
            found[thread, n] = Asked(engine, request).finished().ids

    with Engine(model, BYTES, rows=3) as engine:
        threads = [threading.Thread(target=ask, args=(engine, n)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counters = engine.counters
    expected = {
        (thread, n): alone(model, prompt(1 + n, 10 * thread), 4, DRAWN, n)
        for thread in range(4)
        for n in range(8)
    }
    assert found == expected
    assert (counters.requests, counters.finished) == (32, {"length": 32})
    assert counters.new_tokens == 32 * 4
