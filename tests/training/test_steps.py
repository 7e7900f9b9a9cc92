"""A step is the same however it is divided, chunked, recomputed or compiled."""

from __future__ import annotations

import math

import pytest
import torch

from llm_scratch.training.losses import next_token_loss
from llm_scratch.training.optimizers import build_optimizers
from llm_scratch.training.precision import make_scaler
from llm_scratch.training.sharding import sharded_norm
from llm_scratch.training.steps import (
    Engine,
    NonFiniteError,
    compile_model,
    compute_gradients,
    evaluate,
    first_bad_tensor,
    seed_of,
    seeded,
    take_step,
)

CPU = torch.device("cpu")


def rows(count: int = 8, masked: bool = True):
    """Rows with different numbers of targets that count."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(50, (count, 16), generator=generator)
    targets = torch.randint(50, (count, 16), generator=generator)
    if masked:
        for row in range(count):
            targets[row, : 2 * row] = -100
    return inputs, targets


def engine_of(model, **options) -> Engine:
    return Engine(model, build_optimizers(model, 1e-3), CPU, **options)


def gradients_of(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_same_gradients(mine, theirs, tolerance: float = 1e-6) -> None:
    for name, expected in theirs.items():
        torch.testing.assert_close(mine[name], expected, atol=tolerance, rtol=1e-5, msg=name)


@pytest.fixture
def plain(build):
    """Loss and gradients of the whole batch by PyTorch's own cross entropy."""
    model = build()
    total, count = next_token_loss(model, *rows())
    (total / count).backward()
    return (total / count).item(), gradients_of(model)


@pytest.mark.parametrize("micro", [1, 2, 8, 3])
def test_compute_gradients_equal_one_big_batch(build, plain, micro):
    model = build()
    batches = list(zip(*(part.split(micro) for part in rows()), strict=True))
    loss, _ = compute_gradients(engine_of(model), batches)
    assert loss == pytest.approx(plain[0], abs=1e-6)
    assert_same_gradients(gradients_of(model), plain[1])


@pytest.mark.parametrize("chunk", [5, 64, 1000])
@pytest.mark.parametrize("every", [0, 1, 2])
def test_compute_gradients_equal_the_plain_path(build, plain, chunk, every):
    model = build()
    model.checkpoint_blocks = every
    assert compute_gradients(engine_of(model, chunk=chunk), [rows()])[0] == pytest.approx(
        plain[0], abs=1e-6
    )
    assert_same_gradients(gradients_of(model), plain[1])


def test_checkpoint_blocks_keep_the_dropout(build):
    losses = []
    for every in (0, 1, 2):
        model = build(drop_rate=0.2)
        model.checkpoint_blocks = every
        with seeded(3, CPU):
            loss, _ = compute_gradients(engine_of(model), [rows()])
        losses.append((loss, gradients_of(model)))
    for loss, gradients in losses[1:]:
        assert loss == losses[0][0]
        assert_same_gradients(gradients, losses[0][1])


def test_checkpoint_blocks_compute_each_block_twice(build):
    model = build()
    calls = []
    for block in model.trf_blocks:
        block.register_forward_pre_hook(lambda *_, block=block: calls.append(block))
    for every, expected in ((0, [1, 1]), (1, [2, 2]), (2, [2, 1])):
        calls.clear()
        model.checkpoint_blocks = every
        model(rows()[0]).sum().backward()
        assert [calls.count(block) for block in model.trf_blocks] == expected


@pytest.mark.parametrize("options", [{"chunk": 7}, {"every": 1}, {"micro": 2}])
def test_take_step_losses_over_20_steps_equal_the_plain_path(build, options):
    def losses(chunk=1000, every=0, micro=8):
        model = build()
        model.checkpoint_blocks = every
        engine = engine_of(model, chunk=chunk)
        batches = list(zip(*(part.split(micro) for part in rows()), strict=True))
        return [take_step(engine, batches, 1e-3, 1.0, seed)[0] for seed in range(20)]

    assert losses(**options) == pytest.approx(losses(), abs=1e-5)


def test_compute_gradients_with_another_head_take_the_plain_path(build):
    model = build(tie_weights=False)
    model.out_head = torch.nn.Sequential(model.out_head)
    assert math.isfinite(compute_gradients(engine_of(model), [rows()])[0])


def test_compute_gradients_refuse_a_step_without_targets(build):
    inputs, targets = rows(masked=False)
    with pytest.raises(ValueError, match="all targets of the 8 rows of this step are masked"):
        compute_gradients(engine_of(build()), [(inputs, torch.full_like(targets, -100))])


def test_take_step_clips_to_the_norm_and_returns_the_norm_before(build):
    model = build()
    engine = engine_of(model)
    engine.optimizers = [torch.optim.SGD(model.parameters(), lr=0.0)]
    compute_gradients(engine, [rows()])
    expected = sharded_norm([p.grad for p in model.parameters()])
    model.zero_grad()
    before = [p.detach().clone() for p in model.parameters()]
    norm = take_step(engine, [rows()], rate=1.0, clip=0.01, seed=0).norm
    moved = sharded_norm([a - b for a, b in zip(before, model.parameters(), strict=True)])
    assert norm == pytest.approx(expected, rel=1e-6)
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_sharded_norm_equals_the_one_of_pytorch(build):
    model = build()
    compute_gradients(engine_of(model), [rows()])
    norm = sharded_norm([p.grad for p in model.parameters()])
    assert norm == pytest.approx(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())


def test_take_step_gives_the_rate_to_the_optimizer(build):
    engine = engine_of(build())
    take_step(engine, [rows()], 0.123, None, 0)
    assert {g["lr"] for g in engine.optimizers[0].param_groups} == {0.123}


def test_take_step_draws_dropout_from_its_seed_only(build):
    def loss(seed: int, noise: int) -> float:
        torch.manual_seed(noise)
        engine = engine_of(build(drop_rate=0.5))
        return take_step(engine, [rows()], 1e-3, 1.0, seed)[0]

    assert loss(1, 5) == loss(1, 6) != loss(2, 5)


def test_take_step_leaves_the_global_generator_alone(build):
    before = torch.get_rng_state()
    take_step(engine_of(build(drop_rate=0.5)), [rows()], 1e-3, 1.0, 7)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_take_step_stops_at_a_parameter_that_is_not_finite(build, value):
    model = build()
    model.trf_blocks[1].ff.layers[0].weight.data[3, 3] = value
    with pytest.raises(NonFiniteError, match=r"rate=0.001; .*trf_blocks.1.ff.layers.0.weight"):
        take_step(engine_of(model), [rows()], 1e-3, 1.0, 0)


def test_take_step_stops_at_a_gradient_that_is_not_finite_before_the_update(build):
    model = build()
    model.pos_emb.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(NonFiniteError, match="norm of the gradient is .*gradient of pos_emb"):
        take_step(engine_of(model), [rows()], 1e-3, 1.0, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_take_step_in_float16_skips_a_step_whose_scale_is_too_large(build):
    model = build()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    engine = engine_of(model, dtype=torch.float16, scaler=scaler)
    before = [p.detach().clone() for p in model.parameters()]
    norm = take_step(engine, [rows()], 1e-3, 1.0, 0).norm
    assert not math.isfinite(norm)
    assert scaler.get_scale() == 2.0**39
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_take_step_in_half_precision_is_close_to_float32(build, plain, dtype):
    scaler = make_scaler(CPU, dtype)
    model = build()
    loss = take_step(engine_of(model, dtype=dtype, scaler=scaler), [rows()], 1e-3, 1.0, 0).loss
    assert loss == pytest.approx(plain[0], abs=0.02)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_first_bad_tensor_of_a_good_model_is_empty(build):
    assert first_bad_tensor(build()) == ""


def test_evaluate_weighs_every_target_alike(build):
    model = build().eval()
    inputs, targets = rows()
    batches = [(inputs[:1], targets[:1]), (inputs[1:], targets[1:])]
    with torch.no_grad():
        total, count = next_token_loss(model, inputs, targets)
    assert evaluate(engine_of(model), batches) == pytest.approx((total / count).item(), abs=1e-6)


def test_evaluate_keeps_no_graph_and_restores_the_mode(build):
    model = build(drop_rate=0.5).train()
    engine = engine_of(model)
    first = evaluate(engine, [rows()])
    assert model.training
    assert evaluate(engine, [rows()]) == first
    assert all(p.grad is None for p in model.parameters())


def test_evaluate_restores_the_mode_after_an_error(build):
    model = build().train()
    with pytest.raises(ValueError, match="gives no batch"):
        evaluate(engine_of(model), [])
    assert model.training


def test_seed_of_differs_by_step_and_rank():
    seeds = {seed_of(s, step, rank) for s in (0, 1) for step in range(50) for rank in range(3)}
    assert len(seeds) == 300


def test_compiled_says_when_it_does_not_work_and_leaves_nothing_behind(build, monkeypatch):
    def broken(function):
        def call(*args):
            raise RuntimeError("no compiler\nat all")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    engine, lines = engine_of(build()), []
    compile_model(engine, rows(), lines.append)
    assert lines == ["torch.compile does not work here (no compiler); continuing without it"]
    assert engine.module.hidden_states is None


class Parallel(torch.nn.Module):
    """Stands around a module as data parallel does."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *call):
        return self.module(*call)


@pytest.mark.parametrize("wrap", [lambda module: module, Parallel])
def test_steps_compute_with_the_compiled_model(build, monkeypatch, wrap):
    calls = []

    def counting(function):
        def call(*args, **options):
            calls.append(1)
            return function(*args, **options)

        return call

    monkeypatch.setattr(torch, "compile", counting)
    engine = engine_of(build())
    engine.module = wrap(engine.module)
    compile_model(engine, rows(), print)
    calls.clear()
    take_step(engine, [rows()], 1e-3, 1.0, 0)
    assert calls == [1]


@pytest.mark.slow
def test_compiled_losses_equal_the_plain_ones(build):
    def losses(compile: bool) -> list[float]:
        engine = engine_of(build())
        if compile:
            compile_model(engine, rows(), print)
            assert engine.module.hidden_states is not None
        return [take_step(engine, [rows()], 1e-3, 1.0, seed)[0] for seed in range(20)]

    assert losses(True) == pytest.approx(losses(False), abs=1e-4)
