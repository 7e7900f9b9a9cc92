"""The formula of attention against PyTorch's fused kernel, and its masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from llm_scratch.model.attention import attention_by_hand, attention_weights, causal_mask

LENGTHS = [(1, 1), (5, 5), (3, 7)]


def random_qkv(T: int, S: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(T * 10 + S)
    shapes = ((2, 3, T, 8), (2, 3, S, 8), (2, 3, S, 8))
    return [
        torch.randn(shape, generator=generator).to(dtype).requires_grad_(True) for shape in shapes
    ]


def with_gradients(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """The output and the gradients of a loss that weighs its numbers unequally."""
    loss = (output * torch.linspace(-1, 1, output.numel()).view(output.shape)).sum()
    return [output, *torch.autograd.grad(loss, inputs)]


@pytest.mark.parametrize(("T", "S"), LENGTHS)
def test_attention_by_hand_equals_fused_attention(T, S):
    qkv = random_qkv(T, S)
    by_hand = with_gradients(attention_by_hand(*qkv), qkv)
    fused = with_gradients(F.scaled_dot_product_attention(*qkv), qkv)
    assert_close(by_hand, fused)


@pytest.mark.parametrize(("T", "S"), LENGTHS)
def test_attention_by_hand_equals_fused_attention_with_a_mask(T, S):
    qkv = random_qkv(T, S)
    mask = torch.rand(2, 1, T, S, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[..., 0] = True  # every query sees something
    by_hand = with_gradients(attention_by_hand(*qkv, mask=mask), qkv)
    fused = with_gradients(F.scaled_dot_product_attention(*qkv, attn_mask=mask), qkv)
    assert_close(by_hand, fused)


def test_attention_by_hand_equals_fused_attention_with_the_causal_mask():
    qkv = random_qkv(6, 6)
    by_hand = with_gradients(attention_by_hand(*qkv, mask=causal_mask(6)), qkv)
    fused = with_gradients(F.scaled_dot_product_attention(*qkv, is_causal=True), qkv)
    assert_close(by_hand, fused)


def test_attention_by_hand_works_in_bfloat16():
    qkv = random_qkv(5, 5, torch.bfloat16)
    outputs = with_gradients(attention_by_hand(*qkv, mask=causal_mask(5)), qkv)
    exact = [x.detach().float().requires_grad_(True) for x in qkv]
    expected = with_gradients(attention_by_hand(*exact, mask=causal_mask(5)), exact)
    for output, wanted in zip(outputs, expected, strict=True):
        assert output.dtype == torch.bfloat16
        # bfloat16 keeps 8 bits of a number, and several are added up.
        assert_close(output.float(), wanted, atol=0.05, rtol=0.05)


def test_attention_by_hand_takes_two_dimensions():
    queries, keys, values = (x[0, 0] for x in random_qkv(4, 6))
    assert_close(
        attention_by_hand(queries, keys, values),
        F.scaled_dot_product_attention(queries, keys, values),
    )


def test_attention_by_hand_gives_zeros_to_a_query_that_may_look_nowhere():
    qkv = random_qkv(3, 3)
    mask = torch.tensor([[False, False, False], [False, True, False], [False, True, True]])
    output, *gradients = with_gradients(attention_by_hand(*qkv, mask=mask), qkv)
    assert (output[:, :, 0] == 0).all()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert (gradients[0][:, :, 0] == 0).all()
    assert_close(output, F.scaled_dot_product_attention(*qkv, attn_mask=mask))


def test_attention_weights_sum_to_one_and_keep_to_the_mask():
    queries, keys, _ = random_qkv(5, 5)
    weights = attention_weights(queries, keys, causal_mask(5))
    assert_close(weights.sum(dim=-1), torch.ones(2, 3, 5))
    assert (weights.triu(1) == 0).all()


def test_attention_weights_survive_huge_scores():
    queries, keys = torch.full((2, 4), 1e19), torch.eye(2, 4) * 1e19
    weights = attention_weights(queries, keys, causal_mask(2))
    assert_close(weights, torch.tensor([[1.0, 0.0], [0.5, 0.5]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_attention_weights_refuse_a_mask_of_numbers(dtype):
    queries, keys, _ = random_qkv(3, 3)
    with pytest.raises(TypeError, match=f"holds booleans.*{dtype}"):
        attention_weights(queries, keys, torch.ones(3, 3, dtype=dtype))


def test_attention_by_hand_drops_weights_and_scales_the_rest():
    keys = torch.zeros(1000, 4)
    torch.manual_seed(0)
    mixed = attention_by_hand(torch.zeros(1, 4), keys, torch.eye(1000), dropout=0.25)
    dropped = mixed == 0
    assert 0.2 < dropped.float().mean() < 0.3
    kept = mixed[~dropped]
    assert_close(kept, torch.full_like(kept, 1 / 1000 / 0.75))


def test_causal_mask_shows_a_token_itself_and_its_past():
    expected = [[True, False, False], [True, True, False], [True, True, True]]
    assert causal_mask(3).tolist() == expected
