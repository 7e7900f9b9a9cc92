from __future__ import annotations

import pytest
from planted import Mistake, must_be_caught, results, right_source

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.run import checks_of

CAUSAL, MULTI = ("ch03", "CausalAttention"), ("ch03", "MultiHeadAttention")
HIDE_ONE = "scores = scores.masked_fill(self.mask[:count, :count], -torch.inf)\n"
HIDE = "scores = scores.masked_fill(hidden, -torch.inf)\n"
SOFTMAX = "        weights = torch.softmax(scores / self.head_dim**0.5, dim=-1)"
# A table with one mistake per row.
# fmt: off
MISTAKES = [
    Mistake("exp forgotten", "ch03", "softmax_naive", "torch.exp(x) /", "x /", hints.SOFTMAX),
    Mistake(
        "not scaled", "ch03", "SelfAttention_v1", "keys.shape[-1] ** 0.5", "1.0", hints.NO_SCALE
    ),
    Mistake(
        "scaled without a root", "ch03", "SelfAttention_v2", " ** 0.5", "", hints.SCALE
    ),
    Mistake(
        "softmax over the queries", "ch03", "SelfAttention_v1", "dim=-1", "dim=0", hints.SOFTMAX_DIM
    ),
    Mistake(
        "keys ask",
        "ch03",
        "SelfAttention_v2",
        "queries @ keys.T",
        "keys @ queries.T",
        hints.QUERIES_KEYS,
    ),
    Mistake(
        "keys instead of values",
        "ch03",
        "SelfAttention_v1",
        "weights @ values",
        "weights @ keys",
        hints.VALUES,
    ),
    Mistake("no causal mask", *CAUSAL, HIDE_ONE, "pass\n", hints.NO_MASK),
    Mistake("no causal mask in many heads", *MULTI, HIDE, "pass\n", hints.NO_MASK),
    Mistake(
        "mask after softmax",
        *CAUSAL,
        HIDE_ONE,
        "scores = scores / keys.shape[-1] ** 0.5\n"
        "        weights = scores.softmax(-1).masked_fill(self.mask[:count, :count], 0.0)\n"
        "        return self.dropout(weights) @ values\n",
        hints.MASK_AFTER_SOFTMAX,
    ),
    Mistake(
        "mask after softmax in many heads",
        *MULTI,
        HIDE + SOFTMAX,
        SOFTMAX.strip() + " * ~hidden",
        hints.MASK_AFTER_SOFTMAX,
    ),
    Mistake("hidden scores are 0", *MULTI, "-torch.inf", "0.0", hints.MASK_WITH_ZERO),
    Mistake("the other triangle", *CAUSAL, "torch.triu(ones, diagonal=1)", "torch.tril(ones, -1)",
            hints.MASK_REVERSED),
    Mistake("a token hides itself", *CAUSAL, "diagonal=1", "diagonal=0", hints.MASK_DIAGONAL),
    Mistake("mask not cut", *CAUSAL, "self.mask[:count, :count]", "self.mask", hints.MASK_LENGTH),
    Mistake("dropout in evaluation", *CAUSAL, "self.dropout(weights)",
            "nn.functional.dropout(weights, self.dropout.p)", hints.DROPOUT_IN_EVAL),
    Mistake("dropout not called", *MULTI, "self.dropout(weights)", "weights", hints.NO_DROPOUT),
    Mistake("heads in a list", "ch03", "MultiHeadAttentionWrapper", "nn.ModuleList(made)", "made",
            hints.UNREGISTERED),
    Mistake("heads added up", "ch03", "MultiHeadAttentionWrapper", "torch.cat([head(x) for head in "
            "self.heads], dim=-1)", "sum(head(x) for head in self.heads)", hints.SHAPE),
    Mistake("scaled by the whole width", *MULTI, "self.head_dim**0.5", "self.d_out**0.5",
            hints.SCALE),
    Mistake("not scaled in many heads", *MULTI, " / self.head_dim**0.5", "", hints.NO_SCALE),
    Mistake("view without transpose", *MULTI, "view(shape).transpose(1, 2)",
            "view(rows, self.num_heads, count, self.head_dim)", hints.VIEW_WITHOUT_TRANSPOSE),
    Mistake("view after transpose", *MULTI, "joined = (weights @ values).transpose(1, 2)",
            "joined = weights @ values", hints.MERGE_WITHOUT_TRANSPOSE),
    Mistake("heads interleaved", *MULTI, "view(shape).transpose(1, 2)",
            "view(rows, count, self.head_dim, self.num_heads).permute(0, 3, 1, 2)",
            hints.HEADS_INTERLEAVED),
    Mistake("one head only", *MULTI, "self.num_heads = num_heads\n        self.head_dim = d_out "
            "// num_heads", "self.num_heads = 1\n        self.head_dim = d_out",
            hints.HEADS_NOT_SPLIT),
    Mistake("no last projection", *MULTI, "return self.out_proj(joined)", "return joined",
            hints.NO_OUT_PROJ),
    Mistake("bias always", *MULTI, "bias=qkv_bias", "bias=True", hints.QKV_BIAS),
    Mistake("uneven heads accepted", *MULTI, 'assert d_out % num_heads == 0, "d_out must be '
            'divisible by num_heads"', "d_out -= d_out % num_heads", hints.DIVISIBLE),
    Mistake("softmax over the batch", *MULTI, "dim=-1)\n        weights = self", "dim=0)\n"
            "        weights = self", hints.BATCH_MIXED),
    Mistake("gradient cut", *CAUSAL, "self.W_query(x), self.W_key(x)",
            "self.W_query(x).detach(), self.W_key(x)", hints.GRADIENT),
    Mistake("nothing returned", *CAUSAL, "return self.dropout(weights) @ values",
            "self.dropout(weights) @ values", hints.NOT_TENSOR),
    Mistake("another signature", *MULTI, "d_in, d_out, context_length, dropout, num_heads, "
            "qkv_bias=False):", "d_in, num_heads):", hints.SIGNATURE),
]
# fmt: on


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.title)
def test_planted_mistake_is_caught_with_its_hint(mistake: Mistake) -> None:
    must_be_caught(mistake)


@pytest.mark.parametrize("chapter", ["ch03"])
def test_right_file_has_no_mistake(chapter: str) -> None:
    for name in {check.name for check in checks_of(chapter)}:
        assert {result.state for result in results(right_source(), chapter, name)} == {"right"}
