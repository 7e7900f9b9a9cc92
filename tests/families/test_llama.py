"""A Llama does what a GPT does: caches, padding, ties, files, training from scratch."""

from __future__ import annotations

import copy
import dataclasses
import math
import random

import pytest
import torch
from llama_models import CONTEXT, VOCABULARY, random_config, random_ids, random_llama
from torch.testing import assert_close

from llm_scratch.finetuning.text_classifier import replace_head
from llm_scratch.generation.decoding import generate, stream
from llm_scratch.lora.layers import merge_lora, replace_linear_with_lora
from llm_scratch.model.families import parameter_shapes
from llm_scratch.model.llama import LlamaModel
from llm_scratch.model.llama_config import LlamaConfig, as_llama_config
from llm_scratch.model.llama_sizes import (
    LLAMA2_CONFIG_7B,
    LLAMA3_CONFIG_8B,
    LLAMA32_CONFIG_1B,
    LLAMA32_CONFIG_3B,
    QWEN3_CONFIG_30B_A3B,
    QWEN_CONFIG_06_B,
    SMOLLM2_CONFIG_135M,
)
from llm_scratch.training.head_loss import chunked_head_loss
from llm_scratch.training.losses import calc_loss_batch
from llm_scratch.weights.folder import load_model, save_model

SEEDS = range(20)


def near(a, b):
    assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_cache_in_chunks_equals_the_whole():
    for seed in SEEDS:
        source, model = random.Random(seed), random_llama(seed)
        batch, length = source.choice((1, 2, 3)), source.randint(2, CONTEXT)
        ids = random_ids(batch, length, seed)
        cuts = sorted(source.sample(range(1, length), min(3, length - 1)))
        chunks = torch.tensor_split(ids, cuts, dim=1)
        cache = model.new_cache(batch)
        with torch.no_grad():
            found = torch.cat([model(chunk, cache=cache) for chunk in chunks], dim=1)
            near(found, model(ids))


def test_padding_on_the_left_changes_no_row():
    """Also beyond a sliding window, in a single pass and with a cache."""
    for seed in SEEDS:
        model = random_llama(seed)
        lengths = (3, 14, 9)
        ids = random_ids(3, 14, seed)
        mask = torch.arange(14) >= 14 - torch.tensor(lengths)[:, None]
        cache = model.new_cache(3)
        with torch.no_grad():
            whole = model(ids, attention_mask=mask)
            first = model(ids[:, :12], cache=cache, attention_mask=mask[:, :12])
            rest = model(ids[:, 12:], cache=cache, attention_mask=mask)
            for row, length in enumerate(lengths):
                alone = model(ids[row : row + 1, -length:])[0]
                near(whole[row, -length:], alone)
                near(rest[row], alone[-2:])
                near(first[row, 14 - length :], alone[:-2])


@pytest.mark.parametrize(
    "cases", [range(12), pytest.param(range(12, 60), marks=pytest.mark.slow)], ids=["few", "more"]
)
def test_generation_with_a_cache_equals_generation_without(cases):
    """Token for token, past the window and past the context."""
    for case in cases:
        source = random.Random(case)
        model = random_llama(case % 20)
        batch, length = source.choice((1, 1, 2, 3)), source.randint(1, CONTEXT)
        new = source.choice((3, CONTEXT, CONTEXT + 7))
        ids = random_ids(batch, length, case)
        mask = None
        if batch > 1 and source.random() < 0.7:
            short = torch.tensor([0, *(source.randrange(length) for _ in range(batch - 1))])
            mask = torch.arange(length) >= short[:, None]
        options = {"context_size": CONTEXT, "attention_mask": mask}
        with_cache, without = (
            generate(model, ids, new, use_cache=use, **options) for use in (True, False)
        )
        assert torch.equal(with_cache, without), case


def test_ragged_batches_equal_single_runs():
    for seed in SEEDS:
        model = random_llama(seed)
        ids = random_ids(2, 9, seed)
        mask = torch.arange(9) >= torch.tensor([[0], [5]])
        both = generate(model, ids, 12, CONTEXT, attention_mask=mask)[:, 9:]
        for row, start in enumerate((0, 5)):
            alone = generate(model, ids[row : row + 1, start:], 12, CONTEXT)[:, 9 - start :]
            assert torch.equal(both[row : row + 1], alone), seed


def test_streamed_ids_are_those_of_generate():
    model, ids = random_llama(1), random_ids(1, 4)
    steps = torch.cat(list(stream(model, ids, 8, context_size=CONTEXT)), dim=1)
    assert torch.equal(torch.cat([ids, steps], dim=1), generate(model, ids, 8, CONTEXT))


def test_the_future_does_not_change_the_past():
    for seed in SEEDS:
        model, ids = random_llama(seed), random_ids(1, 12, seed)
        other = ids.clone()
        other[:, 8:] = (other[:, 8:] + 1) % VOCABULARY
        with torch.no_grad():
            near(model(ids)[:, :8], model(other)[:, :8])


def test_a_window_hides_what_lies_before_it():
    model = random_llama(2, sliding_window=4, sliding_layers=None, n_layers=1, num_experts=0)
    ids = random_ids(1, 12)
    other = ids.clone()
    other[:, 3] = (other[:, 3] + 1) % VOCABULARY
    with torch.no_grad():
        a, b = model(ids), model(other)
    near(a[:, 7:], b[:, 7:])
    assert not torch.allclose(a[:, 6], b[:, 6])


def test_parameter_shapes_are_those_of_the_model():
    for seed in SEEDS:
        model = random_llama(seed)
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        assert shapes == parameter_shapes(model.cfg)
        assert list(shapes) == list(parameter_shapes(model.cfg))


QWEN15 = {"vocab_size": 151_936, "context_length": 32_768, "qkv_bias": True, "rope_base": 1e6}
PUBLISHED = [
    (LLAMA2_CONFIG_7B, 6_738_415_616),
    (LLAMA3_CONFIG_8B, 8_030_261_248),
    ({**LLAMA3_CONFIG_8B, "emb_dim": 8192, "n_heads": 64, "n_layers": 80, "hidden_dim": 28672},
     70_553_706_496),
    ({**LLAMA32_CONFIG_1B, "tie_weights": True}, 1_235_814_400),
    ({**LLAMA32_CONFIG_3B, "tie_weights": True}, 3_212_749_824),
    ({**QWEN15, "emb_dim": 1024, "n_heads": 16, "n_layers": 24, "hidden_dim": 2816,
      "tie_weights": True}, 463_987_712),
    ({**QWEN15, "vocab_size": 152_064, "emb_dim": 5120, "n_heads": 40, "n_layers": 64,
      "hidden_dim": 27_392, "n_kv_groups": 8}, 32_512_218_112),
    ({**QWEN_CONFIG_06_B, "tie_weights": True}, 596_049_920),
    (QWEN3_CONFIG_30B_A3B, 30_532_122_624),
    (SMOLLM2_CONFIG_135M, 134_515_008),
]  # fmt: skip


@pytest.mark.parametrize(("options", "count"), PUBLISHED)
def test_shapes_give_the_published_number_of_parameters(options, count):
    shapes = parameter_shapes(as_llama_config(options))
    if options.get("tie_weights"):
        del shapes["out_head.weight"]
    assert sum(map(math.prod, shapes.values())) == count


def test_a_large_model_is_built_without_memory():
    with torch.device("meta"):
        model = LlamaModel.empty(LLAMA3_CONFIG_8B)
    assert model.num_parameters() == 8_030_261_248


def test_dtype_is_that_of_the_parameters():
    model = random_llama(0, dtype="bfloat16")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model(random_ids(1, 4)).dtype == torch.bfloat16


def test_tied_models_stay_tied(tmp_path):
    model = random_llama(3, tie_weights=True)
    assert model.out_head.weight is model.tok_emb.weight
    loaded = LlamaModel(model.cfg)
    loaded.load_state_dict(model.state_dict(), assign=True)
    loaded, copied = loaded.to(torch.float64), copy.deepcopy(model)
    for other in (loaded, copied):
        assert other.out_head.weight is other.tok_emb.weight
    state = model.state_dict()
    state["out_head.weight"] = state["out_head.weight"] + 1
    with pytest.raises(ValueError, match="tie_weights=False"):
        LlamaModel(model.cfg).load_state_dict(state)


def test_saved_models_come_back_bit_by_bit(tmp_path):
    for seed in range(8):
        model = random_llama(seed)
        again, _ = load_model(save_model(model, tmp_path / str(seed)))
        assert again.cfg == model.cfg
        assert again.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(a, b) for a, b in zip(
            again.state_dict().values(), model.state_dict().values(), strict=True
        ))  # fmt: skip


def test_recomputed_blocks_give_the_same_gradients():
    for seed in range(6):
        model, ids = random_llama(seed).train(), random_ids(2, 12, seed)
        found = []
        for every in (0, 1, 2):
            model.checkpoint_blocks = every
            model.zero_grad()
            calc_loss_batch(ids[:, :-1], ids[:, 1:], model, "cpu").backward()
            found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        assert_close(found[0], found[1])
        assert_close(found[0], found[2])


def test_loss_in_chunks_is_the_whole_one():
    model, ids = random_llama(4), random_ids(2, 13)
    inputs, targets = ids[:, :-1], ids[:, 1:]
    whole = calc_loss_batch(inputs, targets, model, "cpu")
    hidden, weight = model.hidden_states(inputs), model.out_head.weight
    assert_close(chunked_head_loss(hidden, weight, targets, divisor=24, chunk=5), whole)


def test_first_loss_after_init_weights_is_that_of_chance():
    cfg = random_config(5, emb_dim=64, head_dim=16, tie_weights=False)
    model = LlamaModel.empty(cfg)
    model.init_weights(generator=torch.Generator().manual_seed(1))
    ids = random_ids(4, 20)
    loss = calc_loss_batch(ids[:, :-1], ids[:, 1:], model, "cpu")
    assert abs(float(loss.detach()) - math.log(VOCABULARY)) < 0.1


def test_lora_starts_as_nothing_and_merges_into_the_same_function():
    model, ids = random_llama(6), random_ids(1, 8)
    with torch.no_grad():
        before = model(ids)
        replace_linear_with_lora(model, 2, 4, targets=["W_query", "fc2"], freeze_base=True)
        near(model(ids), before)
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
        changed = model(ids)
        assert not torch.allclose(changed, before, atol=1e-3)
        merge_lora(model, unwrap=True)
        near(model(ids), changed)


def test_a_head_for_classes_is_saved_with_it(tmp_path):
    model = random_llama(7)
    replace_head(model, 3, "head")
    again, _ = load_model(save_model(model, tmp_path))
    ids = random_ids(2, 5)
    assert model(ids).shape == (2, 5, 3)
    assert torch.equal(again(ids), model.eval()(ids))


@pytest.mark.slow
def test_compiled_model_computes_the_same():
    model, ids = random_llama(8, num_experts=0), random_ids(2, 10)
    assert_close(torch.compile(model)(ids), model(ids), atol=1e-4, rtol=1e-4)


def test_ids_beyond_the_vocabulary_are_named():
    with pytest.raises(ValueError, match=f"do not fit a vocabulary of {VOCABULARY}"):
        random_llama(0)(torch.tensor([[VOCABULARY]]))


def test_a_text_beyond_the_context_is_refused():
    with pytest.raises(ValueError, match=f"does not fit a context_length of {CONTEXT}"):
        random_llama(0)(random_ids(1, CONTEXT + 1))


def test_options_change_through_replace():
    cfg = random_config(1)
    assert dataclasses.replace(cfg, context_length=5).context_length == 5
    assert isinstance(LlamaModel({**cfg}).cfg, LlamaConfig)
