"""Generation that reads no token twice, in batches of any lengths: the same ids as reading all."""

from __future__ import annotations

import pytest
import torch
from tiny_models import T, V, random_ids
from torch.testing import assert_close

from llm_scratch.generation import reading
from llm_scratch.generation.choosing import SamplingSettings
from llm_scratch.generation.decoding import generate, stream
from llm_scratch.generation.reading import Reader
from llm_scratch.generation.texts import pad_left

PROMPTS = ([7], [8, 9, 10], [1, 2, 3, 4, 5], [9, 8, 7, 6, 5, 4, 3, 2, 1])


def step_logits(model, ids, prompt_length, **options):
    """The logits of each step of a loop that is given its ids."""
    reader = Reader(model, T, **options)
    reader.start(len(ids), prompt_length, ids.shape[1] + 1)
    steps = range(prompt_length, ids.shape[1] + 1)
    return torch.stack([reader.next_logits(ids[:, :length]) for length in steps])


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("prompt_length", [1, 5, T - 1, T, T + 3])
@pytest.mark.parametrize("new", [1, 4, 3 * T])
def test_generate_with_cache_equals_without(model, batch, prompt_length, new):
    idx = random_ids(batch, prompt_length)
    cached, plain = (generate(model, idx, new, use_cache=use) for use in (True, False))
    assert torch.equal(cached, plain)
    assert cached.shape == (batch, prompt_length + new)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("prompt_length", [1, 5, T])
def test_generate_logits_with_cache_equal_those_without(model, batch, prompt_length):
    ids = random_ids(batch, 2 * T)
    cached, plain = (step_logits(model, ids, prompt_length, use_cache=use) for use in (True, False))
    assert_close(cached, plain, atol=1e-5, rtol=1e-5)
    # Past the window both read the same crop by the same kernels.
    assert torch.equal(cached[T + 1 - prompt_length :], plain[T + 1 - prompt_length :])


@pytest.mark.parametrize("context_size", [1, 3, 7])
def test_generate_with_cache_keeps_to_a_smaller_window(model, context_size):
    idx = random_ids(2, 2)
    cached, plain = (generate(model, idx, 15, context_size, use_cache=use) for use in (True, False))
    assert torch.equal(cached, plain)
    assert not torch.equal(cached, generate(model, idx, 15))


def test_generate_reads_each_token_once(model, monkeypatch):
    read = []
    for name in ("prefill", "decode_one_token", "read_window"):
        original = getattr(reading, name)

        def watched(part, ids, *rest, _name=name, _original=original):
            read.append((_name, ids.shape[1]))
            return _original(part, ids, *rest)

        monkeypatch.setattr(reading, name, watched)
    generate(model, random_ids(1, 9), 6)
    assert read == [
        ("prefill", 9),
        *[("decode_one_token", 1)] * 3,
        *[("read_window", T)] * 2,
    ]


def test_generate_twice_and_batch_after_batch_leaves_nothing_over(model):
    one, three = random_ids(1, 4), random_ids(3, 6, seed=3)
    first = generate(model, one, 10), generate(model, three, 10)
    second = generate(model, one, 10), generate(model, three, 10)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_streams_side_by_side_do_not_meet(model):
    one, two = random_ids(1, 4), random_ids(1, 4, seed=3)
    pairs = zip(stream(model, one, 10), stream(model, two, 10), strict=True)
    left, right = (torch.cat(steps, dim=1) for steps in zip(*pairs, strict=True))
    assert torch.equal(left, generate(model, one, 10)[:, 4:])
    assert torch.equal(right, generate(model, two, 10)[:, 4:])


@pytest.mark.parametrize("pad_id", [0, 5, V - 1, V + 100, -1])
@pytest.mark.parametrize("new", [3, 20])
def test_generate_ragged_batch_equals_single_runs(model, pad_id, new):
    ids, mask = pad_left(PROMPTS, pad_id=pad_id)
    found = generate(model, ids, new, attention_mask=mask)
    assert torch.equal(found[:, : ids.shape[1]], ids)
    for row, prompt in zip(found, PROMPTS, strict=True):
        alone = generate(model, torch.tensor([prompt]), new, use_cache=False)
        assert row[ids.shape[1] :].tolist() == alone[0, len(prompt) :].tolist()


def test_generate_ragged_batch_first_logits_equal_single_runs(model):
    ids, mask = pad_left(PROMPTS)
    logits = reading.prefill(model, ids, model.new_cache(len(PROMPTS)), mask)
    assert logits.isfinite().all()
    with torch.no_grad():
        alone = [model(torch.tensor([prompt]))[0, -1] for prompt in PROMPTS]
    assert_close(logits, torch.stack(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{"temperature": 1.5}, {"temperature": 1.0, "top_k": 9, "repetition_penalty": 1.5}]
)
def test_generate_sampled_ragged_rows_equal_single_runs(model, options):
    ids, mask = pad_left(PROMPTS)
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))]
    found = generate(model, ids, 15, attention_mask=mask, generator=generators, **options)
    for seed, (row, prompt) in enumerate(zip(found, PROMPTS, strict=True)):
        own = torch.Generator().manual_seed(seed)
        alone = generate(model, torch.tensor([prompt]), 15, generator=own, **options)
        assert row[ids.shape[1] :].tolist() == alone[0, len(prompt) :].tolist()


def test_generate_mask_without_padding_changes_nothing(model):
    idx = random_ids(2, 4)
    assert torch.equal(
        generate(model, idx, 5, attention_mask=torch.ones(2, 4)), generate(model, idx, 5)
    )


def test_generate_refuses_a_mask_that_it_can_not_use(model):
    idx = random_ids(2, 3)
    with pytest.raises(ValueError, match="a row ends in padding; pad prompts on the left"):
        generate(model, idx, 2, attention_mask=torch.tensor([[1, 1, 0], [1, 1, 1]]))
    with pytest.raises(ValueError, match=r"shape \(2, 2\), the ids \(2, 3\)"):
        generate(model, idx, 2, attention_mask=torch.ones(2, 2))
    with pytest.raises(TypeError, match="function takes no attention_mask"):
        generate(lambda ids: ids, idx, 2, 5, attention_mask=torch.tensor([[0, 1, 1], [1, 1, 1]]))


def test_stream_shows_the_model_in_its_own_mode_between_steps(model):
    model.train()
    model.trf_blocks[0].eval()
    modes = [part.training for part in model.modules()]
    steps = stream(model, random_ids(1, 3), 5)
    for _ in range(2):
        next(steps)
        assert [part.training for part in model.modules()] == modes
        assert torch.is_grad_enabled()


def test_stream_steps_joined_are_the_ids_of_generate(model):
    idx = random_ids(3, 4)
    settings = SamplingSettings(temperature=1.0, top_p=0.9)
    steps = stream(model, idx, 20, settings, eos_id=5, generator=generator())
    ids = [
        torch.cat([idx, *steps], dim=1),
        generate(model, idx, 20, eos_id=5, settings=settings, generator=generator()),
    ]
    assert torch.equal(*ids)


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


def test_stream_refuses_mistakes_when_called(model):
    with pytest.raises(ValueError, match="top_p=3"):
        stream(model, random_ids(1, 3), 5, SamplingSettings(top_p=3))
    with pytest.raises(ValueError, match=r"top_k=2.5 must be 0 or more, a whole number"):
        generate(model, random_ids(1, 3), 5, top_k=2.5)
    with pytest.raises(ValueError, match="both settings= and single settings"):
        generate(model, random_ids(1, 3), 5, top_k=2, settings=SamplingSettings())


def test_generate_trained_with_its_own_ids(model):
    ids = generate(model, random_ids(1, 3), 5)
    model(ids).sum().backward()  # ids made in inference mode could not be kept for this


def test_generate_logprobs_are_the_models_own(model):
    idx = random_ids(2, 3)
    ids, logprobs = generate(
        model, idx, 6, temperature=2.0, top_k=5, generator=generator(), return_logprobs=True
    )
    plain = generate(model, idx, 6, temperature=2.0, top_k=5, generator=generator())
    assert torch.equal(ids, plain)
    with torch.no_grad():
        expected = model(ids)[:, 2:-1].log_softmax(dim=-1).gather(2, ids[:, 3:, None])[..., 0]
    assert_close(logprobs, expected, atol=1e-5, rtol=1e-5)


def test_generate_refuses_a_window_beyond_the_model(model):
    with pytest.raises(ValueError, match="context_size=20 is more than this model's .* of 12"):
        generate(model, random_ids(1, 3), 20, 20)
    assert generate(model, random_ids(1, 3), 10, 20).shape == (1, 13)


@pytest.mark.parametrize("held", [0, 1, 4, 7])
@pytest.mark.parametrize("batch", [1, 3])
def test_generate_goes_on_from_a_cache_that_is_handed_in(model, held, batch):
    idx = random_ids(batch, 8)
    cache = model.new_cache(batch)
    with torch.no_grad():
        if held:
            model(idx[:, :held], cache=cache)
    found = generate(model, idx, 4, cache=cache)
    assert torch.equal(found, generate(model, idx, 4, use_cache=False))
    assert cache.length == 8 + 4 - 1  # the last id is chosen and never read


def test_generate_leaves_a_cache_filled_for_the_next_call(model):
    idx, cache = random_ids(1, 3), model.new_cache(1)
    first = generate(model, idx, 4, cache=cache)
    read = []
    model.tok_emb.register_forward_pre_hook(lambda _, args: read.append(args[0].shape[1]))
    second = generate(model, first, 3, cache=cache)
    assert torch.equal(second, generate(model, first, 3, use_cache=False))
    assert read[0] == 1  # of seven ids six were there


def test_generate_reads_on_past_the_window_of_a_cache(model):
    idx, cache = random_ids(2, 5), model.new_cache(2)
    found = generate(model, idx, 2 * T, cache=cache)
    assert torch.equal(found, generate(model, idx, 2 * T, use_cache=False))
    assert cache.length == T


def test_stream_fills_a_cache_step_by_step(model):
    idx, cache = random_ids(1, 4), model.new_cache(1)
    lengths = [cache.length for _ in stream(model, idx, 3, cache=cache)]
    assert lengths == [4, 5, 6]


def test_generate_ragged_batch_takes_a_cache(model):
    ids, mask = pad_left(PROMPTS)
    cache = model.new_cache(len(PROMPTS))
    expected = generate(model, ids, 3, attention_mask=mask)
    assert torch.equal(generate(model, ids, 3, attention_mask=mask, cache=cache), expected)
    assert cache.length == ids.shape[1] + 2


def test_generate_refuses_a_cache_that_does_not_fit(model):
    full = model.new_cache(1)
    with torch.no_grad():
        model(random_ids(1, 3), cache=full)
    for cache, options, message in (
        (model.new_cache(2), {}, "1 rows do not fit a cache made for 2"),
        (model.new_cache(1, 4), {}, r"room for 4 tokens, 7 are needed; .*new_cache\(batch, 7\)"),
        (full, {}, r"holds 3 tokens, the prompt has 3, .*truncate\(2\)"),
        (model.new_cache(1), {"use_cache": False}, "use_cache=False does not use it"),
    ):
        with pytest.raises(ValueError, match=message):
            stream(model, random_ids(1, 3), 5, cache=cache, **options)
    with pytest.raises(ValueError, match="does not use it"):
        generate(lambda ids: model(ids), random_ids(1, 3), 5, 9, cache=model.new_cache(1))
