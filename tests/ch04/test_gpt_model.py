"""The GPT model: what it computes, what it refuses, how its parameters start."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny_models import random_ids
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from llm_scratch.model.attention import attention_by_hand, causal_mask
from llm_scratch.model.config import GPT_CONFIG_124M, GPTConfig
from llm_scratch.model.gpt import GPTModel
from llm_scratch.model.layers import gelu_by_hand, layer_norm_by_hand

TINY = GPTConfig(vocab_size=50, context_length=12, emb_dim=24, n_heads=4, n_layers=3, qkv_bias=True)


def make(seed: int = 1, **changes: object) -> GPTModel:
    torch.manual_seed(seed)
    return GPTModel(replace(TINY, **changes))


def by_hand(model: GPTModel, ids: Tensor) -> Tensor:
    """The whole model, written out with the formulas."""

    def norm(layer: nn.Module, x: Tensor) -> Tensor:
        return layer_norm_by_hand(x, layer.scale, layer.shift)

    def heads(x: Tensor) -> Tensor:
        return torch.stack(x.chunk(model.cfg.n_heads, dim=-1), dim=1)

    x = model.tok_emb.weight[ids] + model.pos_emb.weight[: ids.shape[1]]
    for block in model.trf_blocks:
        normed = norm(block.norm1, x)
        att = block.att
        q, k, v = (heads(layer(normed)) for layer in (att.W_query, att.W_key, att.W_value))
        attended = attention_by_hand(q, k, v, mask=causal_mask(ids.shape[1]))
        x = x + att.out_proj(torch.cat(attended.unbind(dim=1), dim=-1))
        first, _, second = block.ff.layers
        x = x + second(gelu_by_hand(first(norm(block.norm2, x))))
    return norm(model.final_norm, x) @ model.out_head.weight.T


def loss_of(logits: Tensor, ids: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten())


@pytest.mark.parametrize("tie_weights", [False, True])
def test_gpt_model_equals_the_formulas(tie_weights):
    model, ids = make(tie_weights=tie_weights), random_ids()
    parameters = list(model.parameters())
    fused, written = model(ids), by_hand(model, ids)
    assert_close(fused, written)
    assert_close(
        torch.autograd.grad(loss_of(fused, ids), parameters),
        torch.autograd.grad(loss_of(written, ids), parameters),
    )


def test_gpt_model_takes_the_dict_of_the_book_and_keeps_it_as_a_config():
    model = GPTModel({**GPT_CONFIG_124M, "emb_dim": 12, "n_layers": 1, "vocab_size": 7})
    assert isinstance(model.cfg, GPTConfig)
    assert (model.cfg["emb_dim"], model.cfg.drop_rate) == (12, 0.1)


def test_gpt_model_hidden_states_are_all_but_the_head():
    model, ids = make(), random_ids()
    assert_close(model.out_head(model.hidden_states(ids)), model(ids))


def test_gpt_model_hides_the_future():
    model, ids = make(), random_ids()
    changed = ids.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 50
    before, after = model(ids), model(changed)
    assert_close(before[:, :5], after[:, :5], rtol=0, atol=0)
    assert not torch.allclose(before[:, 5:], after[:, 5:])


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_gpt_model_does_not_mix_rows(batch):
    model, ids = make(), random_ids(batch)
    assert_close(model(ids), torch.cat([model(row) for row in ids.split(1)]))


@pytest.mark.parametrize("length", [1, 5, 12])
def test_gpt_model_gives_the_same_for_a_beginning(length):
    model, ids = make(), random_ids(2, 12)
    assert_close(model(ids[:, :length]), model(ids)[:, :length])


def test_gpt_model_knows_the_order_of_tokens():
    model = make()
    ids = torch.tensor([[7, 7, 7]])
    logits = model(ids)[0]
    assert not torch.allclose(logits[0], logits[1])
    assert not torch.allclose(logits[1], logits[2])


def test_gpt_model_takes_ids_that_are_not_contiguous():
    model, ids = make(), random_ids(6, 4).T
    assert not ids.is_contiguous()
    assert_close(model(ids), model(ids.contiguous()))


def test_gpt_model_takes_32_bit_ids():
    model, ids = make(), random_ids()
    assert_close(model(ids.int()), model(ids))


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_gpt_model_takes_an_empty_batch(shape):
    assert make()(torch.zeros(shape, dtype=torch.int64)).shape == (*shape, 50)


def test_gpt_model_refuses_a_sequence_beyond_its_context():
    with pytest.raises(ValueError, match="sequence of 13 tokens.* context_length of 12"):
        make()(random_ids(1, 13))


@pytest.mark.parametrize("shape", [(9,), (1, 2, 9)])
def test_gpt_model_refuses_ids_without_batch_and_tokens(shape):
    with pytest.raises(ValueError, match=r"expected ids of shape \(batch, tokens\)"):
        make()(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize(("low", "high"), [(3, 50), (-1, 8), (0, 50256)])
def test_gpt_model_refuses_ids_outside_the_vocabulary(low, high):
    with pytest.raises(ValueError, match=f"ids from {low} to {high} .* vocabulary of 50"):
        make()(torch.tensor([[low, high]]))


def test_gpt_model_refuses_what_are_no_ids():
    with pytest.raises(TypeError, match=r"token ids must be integers, got torch\.float32"):
        make()(torch.zeros(1, 3))


def test_gpt_model_takes_blocks_of_ones_own():
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + x

    model, ids = make(), random_ids()
    model.trf_blocks = nn.Sequential(Doubled())
    x = model.tok_emb(ids) + model.pos_emb.weight[:9]
    assert_close(model.hidden_states(ids), model.final_norm(x + x))


def test_gpt_model_repeats_itself_in_eval_mode():
    model, ids = make(drop_rate=0.5).eval(), random_ids()
    assert torch.equal(model(ids), model(ids))
    assert_close(model(ids), make(drop_rate=0.0)(ids))


@pytest.mark.parametrize("rate", ["drop_rate_emb", "drop_rate_attn", "drop_rate_shortcut"])
def test_gpt_model_drops_out_while_training_by_any_rate(rate):
    model, ids = make(**{rate: 0.5}), random_ids()
    assert not torch.equal(model(ids), model(ids))


def test_gpt_model_has_a_rate_for_each_dropout():
    model = make(drop_rate_emb=0.1, drop_rate_attn=0.2, drop_rate_shortcut=0.3)
    assert model.drop_emb.p == 0.1
    assert {block.att.dropout.p for block in model.trf_blocks} == {0.2}
    assert {block.drop_shortcut.p for block in model.trf_blocks} == {0.3}


@pytest.mark.parametrize("tie_weights", [False, True])
def test_gpt_model_runs_and_learns_in_bfloat16(tie_weights):
    model, ids = make(tie_weights=tie_weights, drop_rate=0.1), random_ids()
    model.init_weights()
    expected = model.eval()(ids)
    half = model.to(torch.bfloat16)
    logits = half(ids)
    assert logits.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits of a number, and several are added up.
    assert_close(logits.float(), expected, atol=0.02, rtol=0.05)
    loss_of(half.train()(ids), ids).backward()
    for parameter in half.parameters():
        assert parameter.grad.dtype == torch.bfloat16
        assert parameter.grad.isfinite().all()


def test_gpt_model_runs_and_learns_under_autocast():
    model, ids = make(), random_ids()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(ids)
        loss = loss_of(logits, ids)
    loss.backward()
    assert logits.dtype == torch.bfloat16
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_gpt_model_draws_its_parameters_in_the_order_of_the_book(qkv_bias):
    model = make(123, qkv_bias=qkv_bias)
    state = torch.get_rng_state()
    torch.manual_seed(123)
    layers: dict[str, nn.Module] = {
        "tok_emb": nn.Embedding(50, 24),
        "pos_emb": nn.Embedding(12, 24),
    }
    for i in range(3):
        block = f"trf_blocks.{i}"
        for name in ("W_query", "W_key", "W_value"):
            layers[f"{block}.att.{name}"] = nn.Linear(24, 24, bias=qkv_bias)
        layers[f"{block}.att.out_proj"] = nn.Linear(24, 24)
        layers[f"{block}.ff.layers.0"] = nn.Linear(24, 96)
        layers[f"{block}.ff.layers.2"] = nn.Linear(96, 24)
    layers["out_head"] = nn.Linear(24, 50, bias=False)
    expected = {
        f"{name}.{kind}": value
        for name, layer in layers.items()
        for kind, value in layer.state_dict().items()
    }
    drawn = {name: value for name, value in model.state_dict().items() if "norm" not in name}
    assert_close(drawn, expected, rtol=0, atol=0)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("tie_weights", [False, True])
def test_init_weights_starts_with_a_loss_of_log_v(tie_weights):
    torch.manual_seed(5)
    model = GPTModel(
        GPTConfig(
            vocab_size=200,
            context_length=32,
            emb_dim=64,
            n_heads=4,
            n_layers=4,
            tie_weights=tie_weights,
        )
    )
    if not tie_weights:
        model.init_weights()
    ids = torch.randint(200, (8, 32))
    assert loss_of(model(ids), ids).item() == pytest.approx(math.log(200), rel=0.05)


def test_init_weights_draws_from_the_spreads_of_gpt2():
    model = make(vocab_size=2000, context_length=2000, emb_dim=96, n_layers=8)
    model.init_weights(std=0.02, position_std=0.01)
    block = model.trf_blocks[-1]
    residual = 0.02 / math.sqrt(2 * 8)
    for weight, spread in (
        (model.tok_emb.weight, 0.02),
        (model.pos_emb.weight, 0.01),
        (model.out_head.weight, 0.02),
        (block.att.W_query.weight, 0.02),
        (block.ff.layers[0].weight, 0.02),
        (block.att.out_proj.weight, residual),
        (block.ff.layers[2].weight, residual),
    ):
        assert weight.std().item() == pytest.approx(spread, rel=0.05)
        assert abs(weight.mean().item()) < spread / 20


def test_init_weights_gives_positions_the_same_spread_by_default():
    model = make(context_length=2000)
    model.init_weights()
    assert model.pos_emb.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_init_weights_forgets_what_was_learned():
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    model.init_weights()
    biases = [p for name, p in model.named_parameters() if name.endswith((".bias", ".shift"))]
    assert all((bias == 0).all() for bias in biases)
    assert (model.final_norm.scale == 1).all()
    assert not any((p == 7).any() for p in model.parameters())


def test_init_weights_can_draw_from_a_generator_of_its_own():
    first, second = make(seed=1), make(seed=2)
    state = torch.get_rng_state()
    for model in (first, second):
        model.init_weights(generator=torch.Generator().manual_seed(3))
    assert torch.equal(state, torch.get_rng_state())
    assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)


def test_num_parameters_counts_what_is_asked_for():
    model, tied = make(), make(tie_weights=True)
    head = 50 * 24
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())
    assert model.num_parameters() == tied.num_parameters() + head
    assert model.num_parameters(head=False) == tied.num_parameters()
    assert tied.num_parameters(head=False) == tied.num_parameters()


def test_num_parameters_can_leave_out_the_frozen_ones():
    model = make().requires_grad_(False)
    model.out_head = nn.Linear(24, 2)
    assert model.num_parameters(trainable_only=True) == 24 * 2 + 2
    assert model.num_parameters(head=False, trainable_only=True) == 0


@pytest.mark.slow
def test_gpt_model_compiles_in_one_piece():
    model, ids = make(), random_ids()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_close(compiled(ids), model(ids))


def test_gpt_model_offers_what_a_language_model_offers():
    from llm_scratch.model.interface import LanguageModel, ModelConfig

    model = GPTModel(TINY)
    for protocol, thing in ((LanguageModel, model), (ModelConfig, model.cfg)):
        wanted = {*vars(protocol), *protocol.__annotations__}
        names = {name for name in wanted if not name.startswith("_")} | {"forward"}
        if protocol is ModelConfig:
            names -= {"forward"}
        assert [name for name in names if not hasattr(thing, name)] == []
    assert (model.cfg.n_kv_heads, model.cfg.head_dim) == (
        model.cfg.n_heads,
        model.cfg.emb_dim // model.cfg.n_heads,
    )
