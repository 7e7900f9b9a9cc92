"""The ladder of settings, and estimates of generation."""

from __future__ import annotations

import pytest

import llm_scratch as ls
from llm_scratch.memory.estimate import estimate_memory
from llm_scratch.memory.generating import estimate_generation
from llm_scratch.memory.step import TrainingStep
from llm_scratch.memory.suggest import suggest

GIB = 2**30


def test_eight_gpus_of_40_gib_take_the_series_model_divided() -> None:
    advice = suggest("llama3-8b", 40 * GIB, gpus=8, length=2048)
    assert advice.found is not None
    assert "--shard full" in advice.found.options
    assert advice.before is not None
    assert advice.before.estimate.bytes > advice.limit == int(40 * GIB * 0.85)
    assert all(not rung.fits for rung in advice.rungs[:-1])


def test_what_fits_as_it_is_needs_nothing() -> None:
    advice = suggest("smollm2", 80 * GIB, length=512)
    assert [rung.options for rung in advice.rungs] == [""]
    assert advice.before is None


def test_largest_batch_fits_and_the_next_does_not() -> None:
    advice = suggest("gpt2", 16 * GIB, length=1024)
    assert advice.found is not None
    step = advice.found.estimate.step
    sizes = [
        estimate_memory(TrainingStep(**{**vars(step), "rows": rows})).bytes
        for rows in (advice.rows, advice.rows + 1)
    ]
    assert sizes[0] <= advice.limit < sizes[1]


def test_one_gpu_is_told_of_lora_and_shorter_rows() -> None:
    names = [rung.name for rung in suggest("llama3-8b", 24 * GIB, length=2048).rungs]
    assert "LoRA of rank 16" in names
    assert not any("divided" in name for name in names)
    assert names[-1] == "rows of 128 tokens"


def test_nothing_may_fit() -> None:
    advice = suggest("llama3-8b", GIB, gpus=2, length=256)
    assert advice.found is None
    assert advice.rows == 0
    assert {rung.fits for rung in advice.rungs} == {False}


def test_every_rung_needs_no_more_than_all_before_it_needed_at_most() -> None:
    sizes = [r.estimate.bytes for r in suggest("qwen3-4b", 4 * GIB, gpus=8, length=4096).rungs]
    assert min(sizes) == sizes[-1] < sizes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": 0}, "must be above 0"),
        ({"memory": GIB, "headroom": 1.0}, "from 0 to below 1"),
        ({"memory": GIB, "length": 4000}, "context length"),
    ],
)
def test_wrong_numbers_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        suggest("gpt2", **options)


def test_cache_of_generation_is_what_the_model_makes() -> None:
    cfg = ls.LlamaConfig(
        vocab_size=67, context_length=16, emb_dim=8, n_heads=4, n_kv_groups=2, n_layers=3,
        hidden_dim=16,
    )  # fmt: skip
    model = ls.LlamaModel(cfg)
    estimate = estimate_generation(cfg, rows=3, length=10)
    terms = {term.name: term.bytes for term in estimate.writing.terms}
    assert terms["keys and values"] == model.new_cache(3, 10).num_bytes
    assert terms["weights"] == sum(p.nbytes for p in model.parameters())


def test_weights_of_eight_bits_are_what_quantizing_makes() -> None:
    estimate = estimate_generation("gpt2", length=64, weights="int8")
    terms = {term.name: term.bytes for term in estimate.writing.terms}
    embeddings = (50257 + 1024) * 768 * 4
    assert terms["matrices in 8 bits"] == 12 * 12 * 768 * 768 + 50257 * 768
    assert embeddings < terms["embeddings, norms and biases"] < 1.01 * embeddings
    with pytest.raises(ValueError, match="context length"):
        estimate_generation("gpt2", length=2000)
    with pytest.raises(ValueError, match="int8"):
        estimate_generation("gpt2", weights="int4")
