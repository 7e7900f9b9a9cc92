"""Every figure of book chapter 3, computed with this library."""

from __future__ import annotations

import pytest
import torch
from book_figures import Chapter
from torch import Tensor, nn

from llm_scratch.model.attention import (
    CausalAttention,
    MultiHeadAttention,
    MultiHeadAttentionWrapper,
    SelfAttention_v1,
    SelfAttention_v2,
    attention_by_hand,
    attention_weights,
    causal_mask,
)

figure = Chapter("ch03")

INPUTS = torch.tensor(
    [
        [0.43, 0.15, 0.89],
        [0.55, 0.87, 0.66],
        [0.57, 0.85, 0.64],
        [0.22, 0.58, 0.33],
        [0.77, 0.25, 0.10],
        [0.05, 0.80, 0.55],
    ]
)
QUERY = INPUTS[1]
BATCH = torch.stack((INPUTS, INPUTS))
FOUR_DIMENSIONS = torch.tensor(
    [
        [
            [
                [0.2745, 0.6584, 0.2775, 0.8573],
                [0.8993, 0.0390, 0.9268, 0.7388],
                [0.7179, 0.7058, 0.9156, 0.4340],
            ],
            [
                [0.0772, 0.3565, 0.1479, 0.5331],
                [0.4066, 0.2318, 0.4545, 0.9737],
                [0.4606, 0.5159, 0.4220, 0.5786],
            ],
        ]
    ]
)


def seeded(seed: int, make, *args):
    torch.manual_seed(seed)
    return make(*args)


def query_key_value() -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of the section with trainable weights."""
    layer = seeded(123, SelfAttention_v1, 3, 2)
    return tuple(INPUTS @ weight for weight in (layer.W_query, layer.W_key, layer.W_value))


def causal_parts() -> tuple[Tensor, Tensor]:
    """Queries and keys of the section that hides the future."""
    layer = seeded(789, SelfAttention_v2, 3, 2)
    return layer.W_query(INPUTS), layer.W_key(INPUTS)


def causal_weights() -> Tensor:
    return attention_weights(*causal_parts(), mask=causal_mask(6))


@figure("ch03.inputs")
def inputs():
    return INPUTS


@figure("ch03.simple.dot_1_2")
def dot_product():
    return INPUTS[0] @ QUERY


@figure("ch03.simple.weights_2_sumnorm")
def weights_by_sum():
    scores = INPUTS @ QUERY
    return scores / scores.sum()


@figure("ch03.simple.weights_2_softmax")
def weights_by_softmax():
    return (INPUTS @ QUERY).softmax(dim=0)


@figure("ch03.simple.context_2")
def context_of_one_query():
    return weights_by_softmax() @ INPUTS


@figure("ch03.simple.scores")
def scores():
    return INPUTS @ INPUTS.T


@figure("ch03.simple.weights")
def weights():
    # The queries times sqrt(d) take back the scaling that comes with trainable weights only.
    return attention_weights(INPUTS * 3**0.5, INPUTS)


@figure("ch03.simple.row_sums")
def row_sums():
    return weights().sum(dim=-1)


@figure("ch03.simple.context")
def context():
    return attention_by_hand(INPUTS * 3**0.5, INPUTS, INPUTS)


@figure("ch03.qkv.query_2")
def query():
    return query_key_value()[0][1]


@figure("ch03.qkv.keys_shape")
def keys_shape():
    return query_key_value()[1].shape


@figure("ch03.qkv.values_shape")
def values_shape():
    return query_key_value()[2].shape


@figure("ch03.qkv.score_22")
def score():
    queries, keys, _ = query_key_value()
    return queries[1] @ keys[1]


@figure("ch03.qkv.scores_2")
def scores_of_one_query():
    queries, keys, _ = query_key_value()
    return queries[1] @ keys.T


@figure("ch03.qkv.weights_2")
def weights_of_one_query():
    queries, keys, _ = query_key_value()
    return attention_weights(queries, keys)[1]


@figure("ch03.qkv.context_2")
def context_from_trainable_weights():
    return attention_by_hand(*query_key_value())[1]


@figure("ch03.self_attention_v1")
def self_attention_v1():
    return seeded(123, SelfAttention_v1, 3, 2)(INPUTS)


@figure("ch03.self_attention_v2")
def self_attention_v2():
    return seeded(789, SelfAttention_v2, 3, 2)(INPUTS)


@figure("ch03.causal.mask_tril")
def mask():
    return causal_mask(6).float()


@figure("ch03.causal.weights_times_mask")
def weights_times_mask():
    return attention_weights(*causal_parts()) * causal_mask(6)


@figure("ch03.causal.weights_renormalized")
def weights_renormalized():
    masked = weights_times_mask()
    return masked / masked.sum(dim=-1, keepdim=True)


@figure("ch03.causal.scores_masked")
def scores_masked():
    queries, keys = causal_parts()
    return (queries @ keys.T).masked_fill(~causal_mask(6), -torch.inf)


@figure("ch03.dropout.ones")
def dropout_on_ones():
    return seeded(123, nn.Dropout(0.5), torch.ones(6, 6))


@figure("ch03.dropout.weights")
def dropout_on_weights():
    return seeded(123, nn.Dropout(0.5), causal_weights())


@figure("ch03.batch.shape")
def batch_shape():
    return BATCH.shape


@figure("ch03.mha_wrapper")
def wrapper():
    return seeded(123, MultiHeadAttentionWrapper, 3, 2, 6, 0.0, 2)(BATCH)


@figure("ch03.mha_wrapper.shape")
def wrapper_shape():
    return wrapper().shape


@figure("ch03.mha")
def multi_head():
    return seeded(123, MultiHeadAttention, 3, 2, 6, 0.0, 2)(BATCH)


@figure("ch03.mha.shape")
def multi_head_shape():
    return multi_head().shape


@figure("ch03.matmul4d.input")
def four_dimensions():
    return FOUR_DIMENSIONS


@figure("ch03.matmul4d")
def product_in_four_dimensions():
    return FOUR_DIMENSIONS @ FOUR_DIMENSIONS.transpose(2, 3)


@figure("ch03.matmul4d.head1")
def product_of_the_first_head():
    head = FOUR_DIMENSIONS[0, 0]
    return head @ head.T


@figure("ch03.ex3.1.transferred")
def weights_moved_to_v1():
    source, target = seeded(123, SelfAttention_v2, 3, 2), SelfAttention_v1(3, 2)
    with torch.no_grad():
        for name, layer in source.named_children():
            getattr(target, name).copy_(layer.weight.T)
    torch.testing.assert_close(target(INPUTS), source(INPUTS))
    return target(INPUTS)


@figure("ch03.ex3.2.recomputed")
def wrapper_with_two_columns():
    first, second = seeded(123, MultiHeadAttentionWrapper, 3, 1, 6, 0.0, 2)(BATCH)
    assert torch.equal(first, second)
    return first


@figure("ch03.ex3.2.shape")
def wrapper_with_two_columns_shape():
    return MultiHeadAttentionWrapper(3, 1, 6, 0.0, num_heads=2)(BATCH).shape


@figure("ch03.ex3.3.params")
def parameters_at_gpt2_size():
    layer = MultiHeadAttention(768, 768, 1024, 0.0, num_heads=12)
    return sum(p.numel() for p in layer.parameters())


@figure("ch03.bonus03.causal_second")
def second_causal_attention():
    seeded(123, CausalAttention, 3, 2, 6, 0.0)
    return CausalAttention(3, 2, 6, 0.0)(BATCH)


@figure("ch03.bonus03.state_dict_keys")
def state_dict_keys():
    # This library keeps no mask; a file that has one is loaded all the same.
    layer = CausalAttention(3, 2, 6, 0.0)
    keys = list(layer.state_dict())
    with_mask = {"mask": layer.mask, **layer.state_dict()}
    layer.load_state_dict(with_mask)
    return {"plain_attribute": keys, "buffer": list(with_mask)}


@pytest.mark.parametrize("entry", figure.parameters())
def test_figure_comes_out_as_printed(entry, request):
    figure.check(entry, request)
