"""Chapter 3: attention, from a plain dot product to many causal heads.

Run it with

    python chapters/ch03_attention.py

It takes about three seconds on two cores, with --quick as without, and downloads nothing.
"""

# %% [markdown]
# # Chapter 3: how tokens look at each other
#
# Chapter 2 gave every token a vector of its own. But what "it" or "bank" means depends on the words
# around it. Attention is the part of the network that lets every token collect information from the
# others. We build it in five steps, each of which adds one idea: without weights, with weights,
# blind to the future, with dropout, with many heads.

# %%
from importlib.metadata import version

import torch
from torch import nn

from llm_scratch.chapter import settings, show
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
from llm_scratch.plotting.insides import plot_attention

args = settings(__doc__)
print("torch version:", version("torch"))

# %% [markdown]
# ## 3.1 and 3.2 Why not read from left to right?
#
# Older networks read a sentence word by word and kept all of it in a state of fixed size. By the
# end, the beginning was half forgotten. Attention keeps all tokens and asks, for each one, which of
# them matter right now. There is nothing to compute yet.

# %% [markdown]
# ## 3.3.1 A first attention, for one token and without trainable weights
#
# We use six words, each a vector of three numbers: small enough to follow by eye.

# %%
words = ["Your", "journey", "starts", "with", "one", "step"]
inputs = torch.tensor(
    [
        [0.43, 0.15, 0.89],  # Your
        [0.55, 0.87, 0.66],  # journey
        [0.57, 0.85, 0.64],  # starts
        [0.22, 0.58, 0.33],  # with
        [0.77, 0.25, 0.10],  # one
        [0.05, 0.80, 0.55],  # step
    ]
)  # (T, d_in): (6, 3)

# %% [markdown]
# How well do two vectors match? Their dot product tells: it is large when they point the same way.
# The word that asks, "journey", is called the query. Here are its scores with all six words.

# %%
query = inputs[1]  # (3,)
attn_scores_2 = torch.empty(inputs.shape[0])
for i, x_i in enumerate(inputs):
    attn_scores_2[i] = torch.dot(x_i, query)
print(attn_scores_2)

# %% [markdown]
# A dot product is a sum of products. The loop and `torch.dot` agree.

# %%
res = 0.0
for i, element in enumerate(inputs[0]):
    res += element * query[i]
print(res)
print(torch.dot(inputs[0], query))

# %% [markdown]
# Weights are scores that are scaled to add up to 1. Dividing by the sum works as long as no score
# is negative. Softmax works for all scores, and its weights are never negative.

# %%
attn_weights_2_tmp = attn_scores_2 / attn_scores_2.sum()
print("Attention weights:", attn_weights_2_tmp)
print("Sum:", attn_weights_2_tmp.sum())


# %%
def softmax_naive(x: torch.Tensor) -> torch.Tensor:
    """Return positive weights of the same shape, which sum to 1 over the first dimension.

    This is the textbook formula. A score of 100 is too large for it: `exp` overflows.
    """
    return torch.exp(x) / torch.exp(x).sum(dim=0)


attn_weights_2_naive = softmax_naive(attn_scores_2)
print("Attention weights:", attn_weights_2_naive)
print("Sum:", attn_weights_2_naive.sum())

# %% [markdown]
# PyTorch's softmax gives the same result. It subtracts the largest score first, so nothing
# overflows.

# %%
attn_weights_2 = torch.softmax(attn_scores_2, dim=0)
print("Attention weights:", attn_weights_2)
print("Sum:", attn_weights_2.sum())

# %% [markdown]
# The result for "journey" is a mixture of all six vectors in these proportions, called the context
# vector.

# %%
context_vec_2 = torch.zeros(query.shape)
for i, x_i in enumerate(inputs):
    context_vec_2 += attn_weights_2[i] * x_i
print(context_vec_2)

# %% [markdown]
# ## 3.3.2 The same for all tokens at once
#
# Every word queries every word: 36 dot products. Two loops do it, and so does one matrix product.

# %%
attn_scores = torch.empty(6, 6)
for i, x_i in enumerate(inputs):
    for j, x_j in enumerate(inputs):
        attn_scores[i, j] = torch.dot(x_i, x_j)
print(attn_scores)

attn_scores = inputs @ inputs.T  # (T, T)
print(attn_scores)

# %% [markdown]
# Softmax runs over the last dimension, so that each row, the view of one word, sums to 1.

# %%
attn_weights = torch.softmax(attn_scores, dim=-1)
print(attn_weights)
print("Row 2 sum:", attn_weights[1].sum().item())
print("All row sums:", attn_weights.sum(dim=-1))

# %% [markdown]
# A second matrix product mixes the vectors. Its second row is what we had for "journey" alone.

# %%
all_context_vecs = attn_weights @ inputs  # (T, d_in)
print(all_context_vecs)
print("Previous 2nd context vector:", context_vec_2)

# %% [markdown]
# ## 3.4.1 Self-attention with trainable weights, step by step
#
# So far a word can only find what resembles it. Three trainable matrices change that. One makes the
# query (what am I looking for?), one the key (what do I have to offer?) and one the value (what do
# I pass on?).

# %%
x_2 = inputs[1]
d_in = inputs.shape[1]  # 3, the width of the inputs
d_out = 2  # the width of queries, keys and values

torch.manual_seed(123)
W_query = nn.Parameter(torch.rand(d_in, d_out), requires_grad=False)
W_key = nn.Parameter(torch.rand(d_in, d_out), requires_grad=False)
W_value = nn.Parameter(torch.rand(d_in, d_out), requires_grad=False)

query_2 = x_2 @ W_query  # (d_out,)
print(query_2)

# %% [markdown]
# Keys and values are needed for all words, even when only one of them asks.

# %%
keys = inputs @ W_key  # (T, d_out)
values = inputs @ W_value  # (T, d_out)
print("keys.shape:", keys.shape)
print("values.shape:", values.shape)

attn_score_22 = query_2.dot(keys[1])
print(attn_score_22)
attn_scores_2 = query_2 @ keys.T  # (T,)
print(attn_scores_2)

# %% [markdown]
# The scores are divided by the square root of the width before softmax. Otherwise they would grow
# with the width, softmax would put almost everything on one word, and hardly any gradient would
# flow back.

# %%
attn_weights_2 = torch.softmax(attn_scores_2 / d_out**0.5, dim=-1)
print(attn_weights_2)
context_vec_2 = attn_weights_2 @ values  # (d_out,)
print(context_vec_2)

# %% [markdown]
# ## 3.4.2 The same as a module
#
# `SelfAttention_v1` holds the three matrices and calls `attention_by_hand`, the formula that you
# have just followed. The second row of its output is the context vector from above.

# %%
torch.manual_seed(123)
sa_v1 = SelfAttention_v1(d_in, d_out)
print(sa_v1(inputs))

# %% [markdown]
# `SelfAttention_v2` has linear layers instead. They start with numbers around zero, scaled to the
# width, which trains better. A different start gives different numbers; exercise 3.1 makes the two
# agree.

# %%
torch.manual_seed(789)
sa_v2 = SelfAttention_v2(d_in, d_out)
print(sa_v2(inputs))

# %% [markdown]
# ## 3.5.1 Hiding the future
#
# A model that predicts the next word must not see it. Here are the weights again, step by step:
# each word still looks at words that come after it.

# %%
queries = sa_v2.W_query(inputs)
keys = sa_v2.W_key(inputs)
attn_weights = attention_weights(queries, keys)  # (T, T)
print(attn_weights)

# %% [markdown]
# The first way to hide them is to multiply by a triangle of ones...

# %%
context_length = attn_weights.shape[0]
mask_simple = causal_mask(context_length).float()
print(mask_simple)
masked_simple = attn_weights * mask_simple
print(masked_simple)

# %% [markdown]
# ...and divide every row by its new sum, so that it adds up to 1 again.

# %%
masked_simple_norm = masked_simple / masked_simple.sum(dim=-1, keepdim=True)
print(masked_simple_norm)

# %% [markdown]
# The second way saves a step: scores of minus infinity become weights of zero, and softmax divides
# the 1 among the rest.

# %%
attn_scores = queries @ keys.T
masked = attn_scores.masked_fill(~causal_mask(context_length), -torch.inf)
print(masked)
attn_weights = torch.softmax(masked / keys.shape[-1] ** 0.5, dim=-1)
print(attn_weights)

# %% [markdown]
# In the picture, each row is a word that looks, and everything right of the diagonal is dark.

# %%
show(args, "ch03-causal-attention", plot_attention, attn_weights, words)

# %% [markdown]
# ## 3.5.2 Dropout on the weights
#
# During training, some weights are set to zero at random, so that no word relies on a single other
# word. The rest is multiplied by 1 / (1 - rate), here 2, which keeps the expected sum.

# %%
torch.manual_seed(123)
dropout = nn.Dropout(0.5)
example = torch.ones(6, 6)
print(dropout(example))

torch.manual_seed(123)
print(dropout(attn_weights))

# %% [markdown]
# ## 3.5.3 Causal attention as a module
#
# From here on there is a batch dimension: the same text twice will do. The mask depends only on the
# length, so it is made when needed and is not stored with the weights.

# %%
batch = torch.stack((inputs, inputs), dim=0)
print(batch.shape)  # (B, T, d_in)

torch.manual_seed(123)
context_length = batch.shape[1]
ca = CausalAttention(d_in, d_out, context_length, 0.0)
context_vecs = ca(batch)
print(context_vecs)
print("context_vecs.shape:", context_vecs.shape)

# %% [markdown]
# ## 3.6.1 Several heads side by side
#
# One head looks for one kind of thing. Two heads, each with its own matrices, look for two. Their
# outputs are concatenated, so the result is twice as wide.

# %%
torch.manual_seed(123)
mha = MultiHeadAttentionWrapper(d_in, d_out, context_length, 0.0, num_heads=2)
context_vecs = mha(batch)
print(context_vecs)
print("context_vecs.shape:", context_vecs.shape)

# %% [markdown]
# ## 3.6.2 All heads in one matrix product
#
# The wrapper runs its heads one after the other. `MultiHeadAttention` has one wide matrix for all
# heads. It multiplies once and then splits the result: (B, T, C) is viewed as (B, T, H, D), and H
# moves forward, before T. A final linear layer combines the heads.

# %%
torch.manual_seed(123)
batch_size, context_length, d_in = batch.shape
d_out = 2
mha = MultiHeadAttention(d_in, d_out, context_length, 0.0, num_heads=2)
context_vecs = mha(batch)
print(context_vecs)
print("context_vecs.shape:", context_vecs.shape)

# %% [markdown]
# Why does H move? Because `@` multiplies over the last two dimensions and leaves the others alone:
# one product does all heads of all texts.

# %%
a = torch.tensor(
    [
        [0.2745, 0.6584, 0.2775, 0.8573],
        [0.8993, 0.0390, 0.9268, 0.7388],
        [0.7179, 0.7058, 0.9156, 0.4340],
        [0.0772, 0.3565, 0.1479, 0.5331],
        [0.4066, 0.2318, 0.4545, 0.9737],
        [0.4606, 0.5159, 0.4220, 0.5786],
    ]
).view(1, 2, 3, 4)  # (B, H, T, D)
print(a @ a.transpose(2, 3))  # (B, H, T, T)

first_head = a[0, 0]
print("First head:\n", first_head @ first_head.T)
second_head = a[0, 1]
print("\nSecond head:\n", second_head @ second_head.T)

# %% [markdown]
# Internally, `MultiHeadAttention` leaves scores, mask, softmax and mixture to one fast PyTorch
# function, which need not keep the whole T x T table in memory. The formula is the same, as the
# comparison with `attention_by_hand` shows.

# %%
heads = a.expand(3, -1, -1, -1)  # queries, keys and values
fused = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
by_hand = attention_by_hand(*heads, mask=causal_mask(3))
print(f"Largest difference, by hand and fused: {(fused - by_hand).abs().max().item():.0e}")

# %% [markdown]
# ## Exercise 3.1: the same weights in both versions
#
# A linear layer stores its matrix transposed, as (d_out, d_in). When the matrices are transposed
# back and copied into version 1, both versions print the same.

# %%
torch.manual_seed(123)
sa_v2 = SelfAttention_v2(d_in, d_out)
sa_v1 = SelfAttention_v1(d_in, d_out)
with torch.no_grad():
    for name in ("W_query", "W_key", "W_value"):
        getattr(sa_v1, name).copy_(getattr(sa_v2, name).weight.T)
print(sa_v1(inputs))
print(sa_v2(inputs))

# %% [markdown]
# ## Exercise 3.2: two heads, but two columns
#
# The outputs are concatenated, so each of the two heads must give a single column. (The matrix in
# the book's solution belongs to an earlier version of its code; this is the current output.)

# %%
torch.manual_seed(123)
mha = MultiHeadAttentionWrapper(d_in, 1, context_length, 0.0, num_heads=2)
context_vecs = mha(batch)
print(context_vecs)
print("context_vecs.shape:", context_vecs.shape)

# %% [markdown]
# ## Exercise 3.3: attention at the size of GPT-2
#
# The smallest GPT-2 reads 1,024 tokens, is 768 numbers wide and has 12 heads.

# %%
mha = MultiHeadAttention(768, 768, context_length=1024, dropout=0.0, num_heads=12)
print(f"Parameters: {sum(p.numel() for p in mha.parameters()):,}")
