"""Chapter 5, bonus: from GPT to Llama to Qwen, one change at a time.

    python chapters/ch05_bonus_llama.py            all changes, trained side by side: 1 to 2 minutes
    python chapters/ch05_bonus_llama.py --quick    fewer steps, a smaller model: 10 seconds

Times are for two cores of a laptop. Nothing is downloaded. If SmolLM2 is on this machine
(`llm-scratch fetch smollm2`), it is opened too, which takes half a minute more.
"""

# %%
import importlib
import math
import statistics
import time
import timeit
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise

import torch
from torch import nn

from llm_scratch import chapter
from llm_scratch.generation.decoding import generate, stream
from llm_scratch.generation.quantized import quantize_int8
from llm_scratch.model import llama_sizes
from llm_scratch.model.attention import attention_by_hand, causal_mask
from llm_scratch.model.config import GPTConfig, gpt2_config
from llm_scratch.model.families import parameter_shapes
from llm_scratch.model.gpt import GPTModel
from llm_scratch.model.grouped_attention import GroupedQueryAttention, window_mask
from llm_scratch.model.linear import Linear
from llm_scratch.model.llama import LlamaModel
from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.model.llama_layers import (
    GatedFeedForward,
    RMSNorm,
    rms_norm_by_hand,
    swiglu_by_hand,
)
from llm_scratch.model.rope import apply_rope, frequencies, rope_by_hand, rope_tables
from llm_scratch.opening import open_model
from llm_scratch.plotting import families as pictures
from llm_scratch.text.corpora import load_text
from llm_scratch.text.windows import create_dataloader_v1, split_text
from llm_scratch.tokenizers.any_tokenizer import encode
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training.losses import calc_loss_loader
from llm_scratch.training.simple import train_model_simple

settings = chapter.settings(__doc__)

# %% [markdown]
# # From GPT to Llama to Qwen
#
# A model of 2025 is still the GPT of chapter 4: token embeddings, a stack of blocks in which
# attention and a feed-forward network add to one stream, a norm and a head. Between GPT-2 and
# Llama, each part was replaced by a simpler or cheaper one. This chapter makes the replacements one
# by one in a small version of the book's GPT and counts the cost of each. The result *is* a Llama:
# `LlamaModel` computes the same numbers from the same weights.
#
# Letters: B texts, T tokens, C the width of the stream, H heads of D numbers each, G heads with
# their own keys and values, F the width inside the feed-forward network, V the vocabulary.

# %%
text = load_text("the-tide-clock")
tokenizer = BytePairTokenizer.train([text], vocab_size=512)
sizes = {"vocab_size": 512, "context_length": 64, "emb_dim": 96, "n_heads": 6, "n_layers": 3}
gpt_cfg = GPTConfig(**sizes, drop_rate=0.1)
llama_cfg = LlamaConfig(**sizes, hidden_dim=256, n_kv_groups=2, tie_weights=True)
C, F, H, G, D = 96, 256, 6, 2, 16

torch.manual_seed(123)
model = GPTModel(gpt_cfg)
changes = []  # (name, a function that changes a model in place), in the order of this chapter
x = torch.randn(2, 10, C)  # (B, T, C)


def change(name, function):
    """Apply a change to the model, print its effect on the number of parameters, and note it."""
    before = model.num_parameters(trainable_only=True)
    function(model)
    after = model.num_parameters(trainable_only=True)
    changes.append((name, function))
    print(f"{name}: {before:,} -> {after:,} parameters ({after - before:+,})")


def compare(by_hand, fused):
    """Print the difference between the formula and the fast function, which is only rounding."""
    print(f"Largest difference, by hand and fused: {(by_hand - fused).abs().max().item():.0e}")


# %% [markdown]
# ## RMSNorm for LayerNorm
#
# LayerNorm brings a vector to mean 0 and variance 1, then scales and shifts it. RMSNorm leaves the
# mean alone and only divides by the root of the mean square:
#
#     y = scale * x / sqrt(mean(x^2) + eps)
#
# Deep networks stay stable if vectors have a fixed size. RMSNorm ensures this with one sum over the
# vector instead of two, and half the parameters. Both norms forget the length of x; only LayerNorm
# also forgets a constant that is added to it.

# %%
norm = RMSNorm(C)
compare(rms_norm_by_hand(x, norm.scale, norm.eps), norm(x))
print("Ten times as long, the same output:", torch.allclose(norm(10 * x), norm(x), atol=1e-4))
print("One added, the same output:", torch.allclose(norm(x + 1), norm(x), atol=1e-4))


def use_rms_norm(model):
    """Replace every LayerNorm by an RMSNorm."""
    for block in model.trf_blocks:
        block.norm1, block.norm2 = RMSNorm(C), RMSNorm(C)
    model.final_norm = RMSNorm(C)


change("RMSNorm", use_rms_norm)

# %% [markdown]
# ## SwiGLU for GELU
#
# GPT widens each vector, applies a nonlinearity and narrows it: W2 gelu(W1 x). Llama widens it
# twice, and the output of one layer, the gate, decides how much of the other passes:
#
#     y = W_down (silu(W_gate x) * W_up x)        silu(z) = z / (1 + exp(-z))
#
# The product lets the network multiply two features of x, which a single nonlinearity can't. Three
# matrices of C x F cost as much as GPT's two of C x 4C if F = 8/3 C. That explains the odd widths
# in Llama's configurations (11,008 for 4,096). There are no biases: nothing is lost without them,
# and large models train more stably (according to PaLM's report).

# %%
gated = GatedFeedForward(C, F)
weights = [layer.weight for layer in (gated.fc1, gated.fc2, gated.fc3)]
compare(swiglu_by_hand(x, *weights), gated(x))
print(f"Two matrices, 2 * C * 4C = {2 * C * 4 * C:,}; three matrices, 3 * C * F = {3 * C * F:,}")


def use_swiglu(model):
    """Replace every feed-forward network by a gated one."""
    for block in model.trf_blocks:
        block.ff = GatedFeedForward(C, F)


change("SwiGLU", use_swiglu)

# %% [markdown]
# ## Rotary positions (RoPE) for a table of positions
#
# GPT adds a learned vector for position 0, 1, 2, ... to the embeddings. The meaning of each
# position has to be learned, and the table has an end. RoPE adds nothing. It rotates queries and
# keys: their D numbers form D/2 pairs, and at position m pair i is rotated by the angle m *
# theta_i:
#
#     theta_i = base^(-2i/D)
#     (a, b) -> (a cos - b sin, a sin + b cos)    of the angle m * theta_i
#
# (Here, as in Hugging Face's files, number i is the partner of number i + D/2.)

# %%
cfg64 = replace(llama_cfg, head_dim=64)
queries = torch.randn(1, H, 10, 64)  # (B, H, T, D)
angles = torch.arange(10)[:, None] * frequencies(cfg64)  # (T, D/2)
rope = rope_tables(cfg64, slice(0, 10), torch.device("cpu"))
compare(rope_by_hand(queries, angles), apply_rope(queries, rope))

# %% [markdown]
# Rotating both sides of an angle leaves the angle unchanged. A query at m and a key at n have the
# score
#
#     sum over i of |q_i| |k_i| cos(phi_i + (m - n) theta_i)        phi_i: the angle between them
#
# in which m and n occur only as m - n. So the score of two vectors depends on their distance, not
# on their positions: each row below is one distance, and its scores are equal.


# %%
def score(query, key, query_at, key_at):
    """Return the score of a query and a key (D,) at two positions."""
    places = torch.tensor([query_at, key_at])
    query, key = apply_rope(torch.stack([query, key]), rope_tables(cfg64, places, places.device))
    return (query @ key / math.sqrt(len(key))).item()


query, key = torch.randn(2, 64)
print("Distance   key at 0   key at 100   key at 1000")
for distance in (0, 1, 7, 50):
    at = (score(query, key, start + distance, start) for start in (0, 100, 1000))
    print(f"{distance:>8}   {next(at):>8.3f}   {next(at):>10.3f}   {next(at):>11.3f}")

# %% [markdown]
# The pairs turn at different speeds, like the hands of a clock. A fast one tells neighbours apart
# and goes round many times within a paragraph. A slow one hardly moves within a page, and tells
# near from far.

# %%
chapter.show(
    settings, "ch05-bonus-rope-waves", pictures.plot_rope_waves, frequencies(cfg64), (0, 8, 20)
)


def use_rope(model, groups=H):
    """Replace the book's attention by one with RoPE, and make the table of positions add zeros."""
    for block in model.trf_blocks:
        block.att = GroupedQueryAttention(replace(llama_cfg, n_kv_groups=groups))
    model.pos_emb.requires_grad_(False).weight.zero_()


change("RoPE", use_rope)

# %% [markdown]
# The table is gone (64 positions of 96 numbers), and so is the bias after the heads of each block.
#
# ## No dropout
#
# Dropout keeps a model from memorising its data over many epochs. A large model reads a trillion
# tokens once: there is nothing to prevent, and dropout would only cost.


# %%
def drop_nothing(model):
    """Switch off all dropout, even in training."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


change("No dropout", drop_nothing)

# %% [markdown]
# ## Grouped queries for many heads
#
# To write a token, a model reads the keys and values of all previous tokens, so they are kept in a
# cache:
#
#     bytes = 2 (keys and values) * layers * G * D * bytes of a number * tokens * texts
#
# In GPT each head has its own: G = H. But heads with different queries can look things up in the
# same place. With grouped queries, H / G neighbouring heads share a key and a value. Quality hardly
# suffers, and the cache shrinks by a factor of H / G. By hand, the shared ones are written out for
# every head:

# %%
queries, keys, values = (torch.randn(1, heads, 10, D) for heads in (H, G, G))
written_out = [part.repeat_interleave(H // G, dim=1) for part in (keys, values)]  # (B, H, T, D)
attention = nn.functional.scaled_dot_product_attention
fused = attention(queries, keys, values, is_causal=True, enable_gqa=True)
compare(attention_by_hand(queries, *written_out, mask=causal_mask(10)), fused)

change("Grouped queries", lambda model: use_rope(model, groups=G))


def cache_bytes(cfg, tokens=1, number=2):
    """Return the bytes of one text's keys and values; `number` is the bytes of one number."""
    return 2 * cfg.n_layers * cfg.n_kv_heads * cfg.head_dim * number * tokens


llama = LlamaModel(llama_cfg)
found = llama.new_cache(batch=1, length=64).num_bytes
print(f"Cache of 64 tokens: {found:,} bytes, by the formula {cache_bytes(llama_cfg, 64, 4):,}")

# %% [markdown]
# ## One matrix for both ends
#
# The head is a V x C matrix, as large as the embedding, and may be the same one. (GPT-2 shares it;
# the book does not.)

# %%
change("Tied head", GPTModel.tie_weights)

# %% [markdown]
# ## This is a Llama
#
# Nothing else is different. `LlamaModel` loads the weights of the changed model, except the table
# of zeros, and computes the same logits.

# %%
llama.load_state_dict({k: v for k, v in model.state_dict().items() if k != "pos_emb.weight"})
ids = torch.tensor([encode(tokenizer, text)[:64]])  # (B, T)
with torch.no_grad():
    difference = (model.eval()(ids) - llama.eval()(ids)).abs().max()
print(f"The GPT with all changes and LlamaModel: largest difference {difference:.0e}")

# %% [markdown]
# Here are the changes in real models. The embedding is a large share of a small model's parameters
# and a small share of a large one's. So SmolLM2 and the small Qwen tie the head to it; Llama 3 8B
# does not. The cache is for one token, in bfloat16.

# %%
published = {
    "GPT-2 124M": gpt2_config("124M"),
    "Llama 2 7B": LlamaConfig(**llama_sizes.LLAMA2_CONFIG_7B),
    "Llama 3.1 8B": LlamaConfig(**llama_sizes.LLAMA31_CONFIG_8B),
    "Qwen 3 0.6B": LlamaConfig(**{**llama_sizes.QWEN_CONFIG_06_B, "tie_weights": True}),
    "SmolLM2 135M": LlamaConfig(**llama_sizes.SMOLLM2_CONFIG_135M),
}


def count(cfg, used=1.0):
    """Return the number of parameters: a tied head once, experts by the share `used`."""
    shapes = parameter_shapes(cfg)
    if cfg.tie_weights:
        del shapes["out_head.weight"]
    shares = {name: used if ".ff.fc" in name else 1 for name in shapes}
    return round(sum(math.prod(shape) * shares[name] for name, shape in shapes.items()))


print("               parameters    in the head   heads   keys   cache")
for name, cfg in published.items():
    head = f"{cfg.vocab_size * cfg.emb_dim / count(cfg):.0%}{' tied' if cfg.tie_weights else ''}"
    print(f"{name:<13}{count(cfg) / 1e6:>10,.0f} M {head:>14}{cfg.n_heads:>8}", end="")
    print(f"{cfg.n_kv_heads:>7}{cache_bytes(cfg) / 1024:>5,.0f} KiB")

caches = {}
for name, cfg in published.items():
    label = f"{name}: {cfg.n_kv_heads} keys for {cfg.n_heads} queries"
    caches[label] = cache_bytes(cfg), cfg.context_length
chapter.show(settings, "ch05-bonus-cache", pictures.plot_cache_memory, caches)

# %% [markdown]
# ## Trained side by side
#
# Each model below has one more change than the one above it. All see the same batches of our own
# story, from several seeds. (GPT-2's initial spread of 0.02 suits its width of 768; a model of
# width 96 learns faster from 0.06.)


# %%
def built(number):
    """Return a model with the first `number` changes."""
    model = GPTModel(gpt_cfg)
    for _, function in changes[:number]:
        function(model)
    model.init_weights(std=0.06, position_std=0.06 if model.pos_emb.weight.requires_grad else 0.0)
    return model


def trained_loss(number, seed):
    """Return the validation loss after one pass over overlapping windows of the story."""
    torch.manual_seed(seed)
    model = built(number)
    torch.manual_seed(seed)
    train_text, val_text = split_text(text)
    windows = {"batch_size": 8, "max_length": 64, "tokenizer": tokenizer}
    loader = create_dataloader_v1(train_text, stride=64 if settings.quick else 16, **windows)
    val_loader = create_dataloader_v1(val_text, stride=64, drop_last=False, **windows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1, fused=True)
    run = {"num_epochs": 1, "eval_freq": 1000, "eval_iter": 1, "start_context": "The"}
    run |= {"tokenizer": tokenizer, "log": lambda line: None}
    train_model_simple(model, loader, val_loader, optimizer, "cpu", **run)
    return calc_loss_loader(val_loader, model.eval(), "cpu"), len(loader)


if settings.quick:
    print("--quick takes too few steps for the losses to mean anything.")
seeds = (1,) if settings.quick else (1, 2, 3)
for number, name in enumerate(["GPT", *(name for name, _ in changes)]):
    losses = [trained_loss(number, seed) for seed in seeds]
    found = ", ".join(f"{loss:.2f}" for loss, _ in losses)
    print(f"{'+ ' if number else ''}{name:<18} loss after {losses[0][1]} steps: {found}")

# %% [markdown]
# These losses show which differences are larger than those between seeds. Usually RoPE helps at
# once, since the model does not have to learn what position 37 means. They do not show which change
# is good. SwiGLU tends to start slowly here, and is in every large model because it ended lower in
# long training runs. RMSNorm, grouped queries and the tied head save cost; at best, you see no
# difference. Dropout helps when a text is read again and again, which does not happen in so short a
# run. A small model, a short text and a few dozen steps can't judge any of them.
#
# ## Longer contexts: the base, and Llama 3.1's scaling
#
# With base 10,000, the slowest of 64 pairs turns once in 54,000 tokens. Angles that never occurred
# in training mean nothing to a model, so for longer texts the hands must go slower. Llama 3 uses a
# base of 500,000. Llama 3.1 was first trained on 8,192 tokens and then extended to 131,072. The
# turns are stretched depending on their length w = 2 pi / theta:
#
#     w < 8192 / 4:   theta stays     (near tokens look the same as before)
#     w > 8192 / 1:   theta / 8       (pairs that never went round in the first training)
#     between them:   a mixture, s theta + (1 - s) theta / 8, with s = (8192 / w - 1) / (4 - 1)

# %%
scaled_cfg = published["Llama 3.1 8B"]
plain, scaled = frequencies(replace(scaled_cfg, rope_freq=None)), frequencies(scaled_cfg)
for pair in (0, 20, 30, 32, 40, 63):
    lengths = [2 * math.pi / turns[pair].item() for turns in (plain, scaled)]
    print(f"Pair {pair:>2}: one turn in {lengths[0]:>11,.0f} tokens, scaled", end=" ")
    print(f"{lengths[1]:>12,.0f}, {lengths[1] / lengths[0]:.1f} times as long")

turns = {
    "Base 10,000 (Llama 2)": frequencies(published["Llama 2 7B"]),
    "Base 500,000 (Llama 3)": plain,
    "Base 500,000, scaled (Llama 3.1)": scaled,
}
draw = pictures.plot_rope_wavelengths
chapter.show(settings, "ch05-bonus-wavelengths", draw, turns, (8192, 131_072))

# %% [markdown]
# ## From Llama to Qwen
#
# Qwen is the same model with other switches. Qwen 1.5 to 2.5 give queries, keys and values their
# biases back (`qkv_bias`). Qwen 3 drops them and normalises queries and keys, each head separately,
# before the rotation (`qk_norm`):
#
#     q = RMSNorm(W_query x)     k = RMSNorm(W_key x)     so that |q . k| / sqrt(D) <= sqrt(D)
#
# as long as the scales are 1. However large the weights grow in training, scores stay in a range
# where softmax still has a slope. Qwen 3 also sets the width of heads separately: D = 128 at C =
# 1,024 and 16 heads, so W_query is wider than the stream.

# %%
for name in ("qkv_bias", "qk_norm"):
    more = count(replace(llama_cfg, **{name: True})) - count(llama_cfg)
    print(f"{name} adds {more:,} parameters to {count(llama_cfg):,}")

norm = GroupedQueryAttention(replace(llama_cfg, qk_norm=True)).q_norm
queries, keys = torch.randn(2, 10, D)  # (T, D)
for factor in (1, 100):
    raw = (factor * queries) @ (factor * keys).T / math.sqrt(D)
    normed = norm(factor * queries) @ norm(factor * keys).T / math.sqrt(D)
    print(f"Queries and keys times {factor}: largest score {raw.abs().max():,.1f}", end=", ")
    print(f"normalised {normed.abs().max():.2f} (at most {math.sqrt(D):.0f})")

# %% [markdown]
# The published configurations differ only in sizes and in these switches. Changing them turns
# Llama's into Qwen's.

# %%
llama32, qwen3 = (
    LlamaConfig(**llama_sizes.LLAMA32_CONFIG_1B),
    LlamaConfig(**llama_sizes.QWEN_CONFIG_06_B),
)
changed = {name: qwen3[name] for name in qwen3 if qwen3[name] != llama32[name]}
for name, value in changed.items():
    print(f"{name:<15} {'scaled' if name == 'rope_freq' else llama32[name]} -> {value}")
print("That is Qwen 3's configuration:", replace(llama32, **changed) == qwen3)

# %% [markdown]
# ## Two more switches: windows and experts
#
# With a sliding window of W tokens (Mistral), a token looks at itself and the W - 1 tokens before
# it. Work and cache need not grow with the text any more (this library's cache still keeps all
# tokens). Distant tokens are not lost: each layer passes on what it saw, so L layers reach back L
# (W - 1) tokens. Up to W tokens, nothing changes.

# %%
print(window_mask(6, window=3).int())
windowed = LlamaModel(replace(llama_cfg, sliding_window=16)).eval()
windowed.load_state_dict(llama.state_dict())
with torch.no_grad():
    for T in (16, 17):
        same = torch.allclose(windowed(ids[:, :T]), llama(ids[:, :T]), atol=1e-5)
        print(f"A window of 16, {T} tokens, the same as without: {same}")

# %% [markdown]
# A mixture of experts has many feed-forward networks in each block, and a small layer that sends
# every token through the few that suit it. All of them must be in memory, but only the few are read
# and computed.

# %%
experts = LlamaConfig(**llama_sizes.QWEN3_CONFIG_30B_A3B)
used, there = experts.num_experts_per_tok, experts.num_experts
print(
    f"Qwen 3 30B-A3B: a token goes through {used} of {there} experts in each block, which is",
    end="",
)
print(f" {count(experts, used / there) / 1e9:.1f} of {count(experts) / 1e9:.1f} billion parameters")

# %% [markdown]
# ## A real one: SmolLM2
#
# SmolLM2-135M-Instruct has the shape above: Llama's, with 3 keys for 9 queries and a tied head. It
# was trained on 2 trillion tokens and then on conversations in a plain-text format: a turn begins
# with `<|im_start|>` and the speaker, and ends with `<|im_end|>`. The prompt ends where the
# assistant should speak.

# %%
smollm2 = None
try:
    importlib.import_module("gguf")
    smollm2, smol_tokenizer = open_model("smollm2")
except ModuleNotFoundError:
    chapter.missing(
        "The gguf package, which opens SmolLM2,", "pip install gguf", "continuing without"
    )
except FileNotFoundError:
    chapter.missing("SmolLM2 (98 MB)", "llm-scratch fetch smollm2", "continuing without it")

if smollm2 is not None:
    above = replace(published["SmolLM2 135M"], dtype=smollm2.cfg.dtype)
    print("Its configuration is the one above:", smollm2.cfg == above)
    prompt = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nWhy does the sea have tides?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    prompt_ids = torch.tensor([encode(smol_tokenizer, prompt)])
    (end,) = encode(smol_tokenizer, "<|im_end|>")
    answer = generate(smollm2, prompt_ids, 20 if settings.quick else 60, eos_id=end)
    print(prompt + smol_tokenizer.decode(answer[0, prompt_ids.shape[1] :].tolist()))

# %% [markdown]
# ## How fast can it write?
#
# For one token of one text, every matrix is read from memory once, multiplied by one vector, and
# not needed again until the next token. That is two operations for each number read; processors
# could do dozens in that time. So memory sets the limit:
#
#     tokens per second <= bytes per second / (bytes of weights + bytes of the cache)
#
# and smaller numbers are faster: bfloat16 halves the bytes of float32, and int8 quarters them.
# First we measure this machine's memory by multiplying one vector with a large matrix. (Close other
# programs first; on a busy machine these numbers are meaningless.)


# %%
def bandwidth(megabytes):
    """Return the most bytes per second that a matrix-vector product reads in several tries."""
    layer, vector = Linear(1024, megabytes * 2**20 // 4096, bias=False), torch.randn(1, 1024)
    with torch.no_grad():
        return megabytes * 2**20 / min(timeit.repeat(lambda: layer(vector), number=1, repeat=12))


def measure(model, tokens):
    """Return tokens per second in each precision, and the limits: two dicts by precision."""
    found, limits = {}, {}
    for name, number, variant in (
        ("float32", 4, model), ("bfloat16", 2, deepcopy(model).bfloat16()),
        ("int8", 1, quantize_int8(model)),
    ):  # fmt: skip
        steps = [time.perf_counter() for _ in stream(variant, torch.arange(16)[None], tokens)]
        found[name] = 1 / statistics.median(after - before for before, after in pairwise(steps))
        kept = cache_bytes(model.cfg, 16 + tokens // 2, number=2 if number == 2 else 4)
        limits[name] = top = memory_speed / (number * model.num_parameters() + kept)
        print(f"  {name:<9}{found[name]:>7,.0f} tokens/s, {found[name] / top:.0%} of {top:,.0f}")
    return found, limits


memory_speed = bandwidth(64 if settings.quick else 512)
print(f"The memory gives {memory_speed / 1e9:.1f} GB/s to {torch.get_num_threads()} threads")
layers = 3 if settings.quick else 12
shape = replace(published["SmolLM2 135M"], n_layers=layers, vocab_size=16_384, dtype=None)
torch.manual_seed(123)
measured = {f"Random, {count(shape) / 1e6:.0f}M": LlamaModel(shape).eval()}
if smollm2 is not None:
    measured["SmolLM2, 135M"] = smollm2
speeds, limits = {}, {}
for name, model in measured.items():
    print(name)
    speeds[name], limits[name] = measure(model, 8 if settings.quick else 32)
chapter.show(settings, "ch05-bonus-speeds", pictures.plot_speeds, speeds, limits)

# %% [markdown]
# The gap to the limit is everything except reading: calling modules, norms, attention, choosing the
# token. It matters more when there is less to read. That is why int8 is rarely four times as fast,
# and why a small model is further from its limit than a large one. A model that fits into the
# processor's cache may even exceed the limit. `docs/cpu-speed.md` goes through this step by step.
#
# ## Exercises
#
# **1.** At what length is the cache of one text as large as the weights (both in bfloat16)?

# %%
for name in ("Llama 2 7B", "Llama 3.1 8B", "Qwen 3 0.6B"):
    cfg = published[name]
    tokens = 2 * count(cfg) / cache_bytes(cfg)
    print(f"{name}: at {tokens:,.0f} tokens; its context is {cfg.context_length:,}")

# %% [markdown]
# **2.** Without positions, attention ignores order: the last token sees a bag of tokens. Show this,
# and that RoPE changes it.

# %%
shuffled = torch.cat([x[:, :9].flip(1), x[:, 9:]], dim=1)  # all before the last in another order
attention = GroupedQueryAttention(llama_cfg)
still = (torch.ones(10, D), torch.zeros(10, D))  # cosines and sines of no turn at all
with torch.no_grad():
    for name, tables in (("Without", still), ("With", None)):
        last = [attention(row, rope=tables)[:, -1] for row in (x, shuffled)]
        print(f"{name} RoPE, another order gives the same: {torch.allclose(*last, atol=1e-5)}")

# %% [markdown]
# **3.** At best, how fast can Llama 3.1 8B write with memory of 100 GB/s, with an empty bfloat16
# cache and with 32,768 tokens in it? And in a batch of 8, which reads the weights once for all?

# %%
cfg = published["Llama 3.1 8B"]
for number, name in ((2, "bfloat16"), (1, "int8")):
    read = number * (count(cfg) - cfg.vocab_size * cfg.emb_dim)  # all but the embedding
    one, long = 100e9 / read, 100e9 / (read + cache_bytes(cfg, 32_768))
    eight = 8 * 100e9 / (read + 8 * cache_bytes(cfg, 32_768))
    print(f"{name}: {one:.1f} tokens/s, {long:.1f} after 32,768; eight texts {eight:.1f} in all")
