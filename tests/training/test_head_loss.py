"""The chunked head and loss equal the plain ones, value and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from llm_scratch.training import head_loss
from llm_scratch.training.head_loss import chunked_head_loss


def inputs(rows: int = 11):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, 8, generator=generator, requires_grad=True)
    weight = torch.randn(30, 8, generator=generator, requires_grad=True)
    targets = torch.randint(30, (rows,), generator=generator)
    targets[2] = -100
    return hidden, weight, targets


def plain(hidden, weight, targets):
    logits = (hidden @ weight.T).float()
    return F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")


@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
@pytest.mark.parametrize("rows", [11, 40])
def test_chunked_head_loss_equals_the_plain_one(chunk, rows):
    hidden, weight, targets = inputs(rows)
    expected = plain(hidden, weight, targets) / 7
    gradients = torch.autograd.grad(expected, (hidden, weight))
    loss = chunked_head_loss(hidden, weight, targets, divisor=7, chunk=chunk)
    torch.testing.assert_close(loss, expected)
    found = torch.autograd.grad(loss, (hidden, weight))
    for mine, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("masked", [0, 1, 5, 11])
def test_no_logits_are_computed_where_there_is_no_target(masked):
    hidden, weight, targets = inputs()
    targets[2] = 7
    targets[:masked] = -100
    rows = []

    class Head(torch.nn.Module):
        def forward(self, x):
            rows.append(len(x))
            return x @ weight.T

    for loss in (head_loss.head_loss(Head(), hidden, targets, chunk=40),
                 chunked_head_loss(hidden, weight, targets)):  # fmt: skip
        (found,) = torch.autograd.grad(loss, hidden)
        assert (found.abs().sum(dim=-1) == 0).tolist() == [i < masked for i in range(11)]
    assert sum(rows) == (11 - masked or 11)


def test_chunked_head_loss_follows_the_gradient_from_outside():
    hidden, weight, targets = inputs()
    once = torch.autograd.grad(chunked_head_loss(hidden, weight, targets), hidden)[0]
    thrice = torch.autograd.grad(3 * chunked_head_loss(hidden, weight, targets), hidden)[0]
    torch.testing.assert_close(thrice, 3 * once)


def test_chunked_head_loss_agrees_with_the_plain_one_in_autocast():
    hidden, weight, targets = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        expected = plain(hidden, weight, targets)
        loss = chunked_head_loss(hidden, weight, targets, chunk=4)
    torch.testing.assert_close(loss, expected)
    mine = torch.autograd.grad(loss, (hidden, weight))
    theirs = torch.autograd.grad(expected, (hidden, weight))
    for a, b in zip(mine, theirs, strict=True):
        # Both round to bfloat16 on the way, at different places.
        torch.testing.assert_close(a, b, atol=0.05, rtol=0.02)


def test_chunked_head_loss_of_masked_targets_is_zero_and_moves_nothing():
    hidden, weight, targets = inputs()
    loss = chunked_head_loss(hidden, weight, torch.full_like(targets, -100))
    loss.backward()
    assert loss.item() == 0
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_chunked_head_loss_needs_no_gradients():
    hidden, weight, targets = inputs()
    with torch.no_grad():
        loss = chunked_head_loss(hidden, weight, targets, chunk=4)
    torch.testing.assert_close(loss, plain(hidden, weight, targets).detach())


def test_chunked_head_loss_leaves_the_hidden_states_alone():
    hidden, weight, targets = inputs()
    before = hidden.detach().clone(), weight.detach().clone()
    chunked_head_loss(hidden, weight, targets).backward()
    assert torch.equal(hidden, before[0])
    assert torch.equal(weight, before[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"chunk": 0}, "chunk=0 must be"), ({"targets": torch.zeros(3)}, "do not belong together")],
)
def test_chunked_head_loss_refuses_what_does_not_fit(options, message):
    hidden, weight, targets = inputs()
    with pytest.raises(ValueError, match=message):
        chunked_head_loss(hidden, weight, **{"targets": targets, **options})


@pytest.mark.parametrize("chunk", [4, 100])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_chunked_head_loss_by_slabs_of_the_vocabulary_is_the_same(monkeypatch, chunk, precision):
    hidden, weight, targets = inputs()

    def gradients():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            loss = chunked_head_loss(hidden, weight, targets, chunk=chunk)
        return torch.autograd.grad(loss, (hidden, weight))

    whole = gradients()
    monkeypatch.setattr(head_loss, "SLAB", 7)  # 30 is not a multiple of it
    for mine, theirs in zip(gradients(), whole, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("frozen", [0, 1])
def test_chunked_head_loss_leaves_out_what_is_frozen(frozen):
    tensors = list(inputs())
    expected = torch.autograd.grad(plain(*tensors), tensors[1 - frozen])[0]
    tensors[frozen] = tensors[frozen].detach()
    loss = chunked_head_loss(*tensors)
    found = torch.autograd.grad(loss, tensors[1 - frozen])[0]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_chunked_head_loss_of_logits_far_apart_is_exact():
    hidden, weight, targets = inputs()
    hidden = (hidden.detach() * 300).requires_grad_()
    loss = chunked_head_loss(hidden, weight, targets)
    torch.testing.assert_close(loss, plain(hidden, weight, targets))
    assert bool(torch.isfinite(torch.autograd.grad(loss, hidden)[0]).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunked_head_loss_reads_no_memory_that_was_never_set(dtype):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(256, 64, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(265, 64, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(265, (256,), generator=generator)
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        loss = chunked_head_loss(hidden, weight, targets, divisor=256.0)
        found = torch.autograd.grad(loss, (hidden, weight))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(gradient.isfinite().all() for gradient in (loss, *found))


def test_losses_run_without_numbers_and_all_targets_count():
    from torch._subclasses.fake_tensor import FakeTensorMode

    seen = []

    class Head(torch.nn.Module):
        def forward(self, x):
            seen.append(len(x))
            return x[:, :1].expand(-1, 30)

    with FakeTensorMode():
        hidden = torch.empty(2, 5, 8, requires_grad=True)
        weight = torch.empty(30, 8, requires_grad=True)
        targets = torch.empty(2, 5, dtype=torch.long)
        chunked_head_loss(hidden, weight, targets, chunk=4).backward()
        assert (hidden.grad.shape, weight.grad.shape) == ((2, 5, 8), (30, 8))
        head_loss.head_loss(Head(), hidden, targets, chunk=16).backward()
    assert sum(seen) == 10
