"""The series' part 9: computing activations twice instead of keeping them.

    python chapters/post09_checkpointing.py            one minute
    python chapters/post09_checkpointing.py --quick    smaller models: 10 seconds

Times are for two cores of a laptop. Nothing is downloaded.
"""

# %%
import statistics
import time
from dataclasses import replace

import torch

from llm_scratch import chapter
from llm_scratch.model.config import GPTConfig
from llm_scratch.model.families import empty_model
from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.plotting import processes as pictures
from llm_scratch.training.held import kept_for_backward
from llm_scratch.training.step_loss import StepLoss

settings = chapter.settings(__doc__)

# %% [markdown]
# # Computing twice instead of keeping
#
# The backward pass needs what the forward pass computed: x for a product W x, the input of a GELU,
# queries, keys and values for attention. So the forward pass keeps these tensors, the
# *activations*. Their memory grows with the layers, the tokens and the rows of a batch, while the
# memory for parameters, gradients and optimizer stays the same.
#
# Activation checkpointing keeps only the *input* of a block. When the backward pass reaches the
# block, it computes again, with the same random numbers for dropout. This time it keeps everything,
# until its gradients are done. So instead of all blocks' activations, memory holds those of one
# block and the inputs of the others. The price is a second forward pass. (This has nothing to do
# with the checkpoints that a run saves.)
#
# In this library it is one setting, `--checkpoint-blocks K` (in code, `model.checkpoint_blocks`):
# every K-th block computes twice; with 0, none does.
#
# Letters: B texts, T tokens, C the width of the stream, V the vocabulary.

# %%
layers = 6 if settings.quick else 8
B, T, C = (2, 64, 64) if settings.quick else (4, 256, 192)
shape = {"vocab_size": 512, "context_length": T, "emb_dim": C, "n_heads": 4, "n_layers": layers}
gpt_cfg = GPTConfig(**shape, drop_rate=0.0, tie_weights=True)
models = {
    "GPT": gpt_cfg,
    "GPT, dropout": replace(gpt_cfg, drop_rate=0.1),
    "Llama": LlamaConfig(**shape, hidden_dim=8 * C // 3 // 8 * 8, n_kv_groups=2, tie_weights=True),
}
batch = torch.randint(0, 512, (2, B, T), generator=torch.Generator().manual_seed(1)).unbind()


def step(model, every):
    """Return a batch's loss and gradients, the bytes kept in between, and the seconds taken."""
    model.checkpoint_blocks = every
    model.zero_grad()
    torch.manual_seed(123)  # for dropout
    start = time.perf_counter()
    with kept_for_backward() as kept:
        loss = StepLoss(model)(batch, B * T)
    loss.backward()
    seconds = time.perf_counter() - start
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    return loss.item(), gradients, kept.activations, seconds


def new(cfg):
    """Return a newly initialised model in training mode."""
    model = empty_model(cfg)
    model.init_weights(generator=torch.Generator().manual_seed(123))
    return model.train()


# %% [markdown]
# ## The same numbers
#
# The loss and every gradient are exactly the same, even with dropout: before a block computes
# again, the random generators are reset to their earlier state.

# %%
every_choices = (0, 3, 2, 1)
results = {}
for family, cfg in models.items():
    model = new(cfg)
    step(model, 0)  # the first step is slow
    results[family] = {every: step(model, every) for every in every_choices}
    loss, gradients, _, _ = results[family][0]
    for every in every_choices[1:]:
        other, others, _, _ = results[family][every]
        same = loss == other and all(torch.equal(gradients[name], others[name]) for name in others)
        print(f"{family}: blocks computed twice: every {every}. Same loss and gradients: {same}")

# %% [markdown]
# Otherwise the gradients would be those of another network, because dropout would have removed
# different numbers the second time.
#
# ## What is kept
#
# Every tensor that autograd keeps passes through a hook
# (`torch.autograd.graph.saved_tensors_hooks`), so its bytes can be counted. Shared memory is
# counted once, and parameters not at all. These numbers are exact: neither clock nor allocator
# affects them. A block's own share is the difference between two models whose depth differs by one.

# %%
kept = {family: {k: run[2] for k, run in found.items()} for family, found in results.items()}
block, again = {}, {}  # bytes that a block keeps, computing once and twice
for family, cfg in models.items():
    shorter = new(replace(cfg, n_layers=layers - 1))
    block[family], again[family] = (kept[family][k] - step(shorter, k)[2] for k in (0, 1))
    plain, twice = (sizes[family] / (B * T * C) for sizes in (block, again))
    print(f"{family:<14}a block keeps {plain:.1f} bytes for each input", end="")
    print(f", {twice:.2f} when it computes twice")

# %% [markdown]
# A block that computes twice keeps its inputs, 4 bytes each, and the negligible state of the random
# generator. In 16 bits, a GPT block with dropout is known to keep 34 bytes for each input, besides
# the attention scores (Korthikanti et al. 2022, arXiv:2205.05198). In float32 it is about twice
# that. Scores are not kept if attention is one fused function. With dropout, it is fused on GPUs
# only. Here every score is kept several times, which makes the second line's number so large. It
# grows with T x T.

# %%
print(f"{'KB kept':<14}" + "".join(f"{f'every {k}' if k else 'none':>12}" for k in every_choices))
for family, found in kept.items():
    print(f"{family:<14}" + "".join(f"{size / 1e3:>12,.0f}" for size in found.values()))

# %% [markdown]
# At the peak there is one more block: the one that the backward pass has just recomputed. So the
# peak of a checkpointed model is the table's number *and* one block. With few layers the gain is
# small; with many, nearly all of the activations are saved. The memory gained allows more rows.

# %%
model = new(gpt_cfg)
states = {"parameters": 4, "gradients": 4, "optimizer": 8}
bars = {}
for every in every_choices:
    name = f"every {every}" if every else "none"
    bars[name] = {kind: size * model.num_parameters() / 1e6 for kind, size in states.items()}
    bars[name]["kept"] = kept["GPT"][every] / 1e6
    bars[name]["computed again"] = block["GPT"] / 1e6 if every else 0.0
    print(f"{name:<9}{sum(bars[name].values()):>6.1f} MB, activations and states of AdamW")
chapter.show(settings, "post09-held", pictures.plot_held, bars)

# %% [markdown]
# ## What it costs
#
# A backward pass costs about two forward passes. So with an extra forward pass a step costs 4
# instead of 3: a third more time, but less in practice, since embedding, head and loss are not
# computed twice. (These are times of single steps; on a busy machine they are meaningless.)

# %%
rounds = 3 if settings.quick else 7
for family, cfg in models.items():
    model, times = new(cfg), {every: [] for every in every_choices}
    step(model, 0)
    for _ in range(rounds):
        for every in every_choices:  # in turn, so that all see the same load
            times[every].append(step(model, every)[3])
    plain = statistics.median(times[0])
    for every in every_choices[1:]:
        more = statistics.median(times[every]) / plain
        print(f"{family}: every {every}: {more:.2f} times as long")

# %% [markdown]
# ## Figures of the series
#
# This is the peak memory of a card with sequences of 2,048 tokens (gpjt, *Messing around with
# fine-tuning LLMs*, parts 8 and 9, August and September 2024). The cards are an RTX 3090 of 24 GB
# for half a billion parameters and eight A100s of 80 GB for 8 billion, with DeepSpeed's ZeRO-3. The
# posts say "allocated" for what PyTorch calls *active*. Their iterations per second are about 3.6 %
# too high, because 29 steps are divided by the time of 28.

# %%
ACTIVE = {  # MiB, by sequences per card
    "0.5B": {1: 14_048, 2: 20_228},
    "0.5B, checkpointing": {1: 11_926, 2: 15_605, 3: 19_288},
    "8B": {1: 49_086, 2: 64_180},
    "8B, checkpointing": {1: 26_529, 4: 35_382, 8: 50_416, 12: 64_688},
}
ITERATIONS = {  # per second
    "0.5B": {1: 4.35, 2: 2.37},
    "0.5B, checkpointing": {1: 3.65, 2: 2.00, 3: 1.33},
    "8B": {1: 1.171, 2: 0.713},
    "8B, checkpointing": {1: 0.988, 4: 0.310, 8: 0.161, 12: 0.107},
}
CARDS = {"0.5B": 1, "8B": 8}
rates = {}
print(f"{'':<21}{'MiB/sequence':>15}{'most rows':>11}{'sequences/s at most':>21}")
for name, sizes in ACTIVE.items():
    cards = CARDS[name.partition(",")[0]]
    rates[name] = {rows: rows * cards * speed for rows, speed in ITERATIONS[name].items()}
    few, many = min(sizes), max(sizes)
    slope = (sizes[many] - sizes[few]) / (many - few)
    print(f"{name:<21}{slope:>15,.0f}{many:>11}{max(rates[name].values()):>21.1f}")
chosen = [name for name in ACTIVE if name.startswith("8B")]
memory = {name: {rows: size / 1024 for rows, size in ACTIVE[name].items()} for name in chosen}
speeds = {name: rates[name] for name in chosen}
chapter.show(settings, "post09-batches", pictures.plot_batches, memory, speeds, 80e9 / 2**30)

# %% [markdown]
# With checkpointing, six times as many rows fit, 12 instead of 2, and still the run was slower:
# 10.3 sequences per second against 11.4. Two rows already kept such a GPU busy, and more rows
# cannot make up for an extra forward pass. **Checkpointing pays only where a model does not fit
# without it.**
#
# Why do 8 billion parameters still need 3.4 GiB per sequence when blocks keep only their inputs?
# Because of the logits. With a vocabulary of 128,256, each token has that many logits of 4 bytes in
# float32, as many logarithms, and as many gradients:

# %%
for name, V, width, depth, measured in (
    ("0.5B", 151_936, 1_024, 24, (19_288 - 11_926) / 2),
    ("8B", 128_256, 4_096, 32, (64_688 - 26_529) / 11),
):
    logits, inputs = 12 * V * 2048 / 2**20, 2 * width * depth * 2048 / 2**20
    print(f"{name}: logits {logits:,.0f} MiB and inputs of blocks {inputs:,.0f}, measured", end="")
    print(f" {measured:,.0f} MiB per sequence: {logits / measured:.0%} are logits")

# %% [markdown]
# This library never holds them all: head and loss are computed for 1,024 tokens at a time
# (`--loss-chunk`), gradients included, at no cost in time. Part 8 of the series does the same with
# Liger's fused kernels.
#
# ## In which order
#
# Hugging Face's documentation, quoted in part 9, advises: first checkpointing, then ZeRO-2, then
# ZeRO-2 with an offloaded optimizer. The measurements in these chapters suggest this order,
# cheapest first:
#
# 1. logits in chunks: always on in this library;
# 2. fewer rows at a time and more accumulation: free until the device has too little to do;
# 3. `--checkpoint-blocks 1` (or 2, 3: part of the memory for part of the time);
# 4. with several GPUs, `--shard optimizer`, then `--shard full`: costs communication;
# 5. `--offload`: costs copies and an optimizer step on the host's CPU.
#
# ## Exercises
#
# **1.** A model of 32 blocks computes every second one twice. What does it keep, counted in GPT
# blocks? And with every 8th? Which K keeps least?

# %%
share = again["GPT"] / block["GPT"]  # of a block's memory, when only its input is kept
for every in (1, 2, 8):
    twice = len(range(0, 32, every))
    print(f"every {every}: {32 - twice + twice * share + 1:.1f} of 32 blocks, at the peak")

# %% [markdown]
# **2.** Why not checkpoint larger pieces, for example 4 blocks at a time, of which only the first
# input is kept? Count what pieces of n blocks keep at the peak.

# %%
peaks = {n: 32 / n * share + n for n in (1, 2, 4, 8, 16)}  # inputs of pieces, and one whole piece
for n, peak in peaks.items():
    print(f"pieces of {n:>2} blocks: {peak:.1f} blocks at the peak")
print(f"Least with {min(peaks, key=peaks.get)}: inputs are too small for larger pieces to pay.")
