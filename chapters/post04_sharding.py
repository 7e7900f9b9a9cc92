"""The series' part 4: a model divided among processes, because it does not fit.

    python chapters/post04_sharding.py            all ways to divide it: two minutes
    python chapters/post04_sharding.py --quick    two of them, a smaller model: 20 seconds

Times are for two cores of a laptop. Nothing is downloaded. Torchrun starts the processes, on Linux
and macOS; elsewhere the chapter continues without them.
"""

# %%
import json
import math
import os
import tempfile
from pathlib import Path

from llm_scratch import chapter
from llm_scratch.model.families import parameter_shapes
from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.model.llama_sizes import LLAMA3_CONFIG_8B
from llm_scratch.plotting import processes as pictures
from llm_scratch.text.corpora import load_text
from llm_scratch.text.token_file import write_tokens
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training.run_folder import read_metrics

settings = chapter.settings(__doc__)

# %% [markdown]
# # A model that does not fit
#
# Part 4 of *Messing around with fine-tuning LLMs* moves from half a billion parameters to Llama 3
# with 8 billion, on eight A100s of 40 GB. With DDP each GPU has all of it: parameters, a gradient
# for each, and AdamW's two averages for each. In float32 that is 16 bytes per parameter. In mixed
# precision, as ZeRO counts it, it is also 16: 2 + 2 + 12, where the 12 are a float32 copy and the
# two averages.

# %%
llama = LlamaConfig(**LLAMA3_CONFIG_8B)
P = sum(math.prod(shape) for shape in parameter_shapes(llama).values())
print(f"Llama 3 8B: {P:,} parameters, {16 * P / 2**30:.0f} GiB, on a card of 40 GB")

# %% [markdown]
# None of that has to be on every GPU. ZeRO (Rajbhandari et al. 2020) divides it among the N
# processes, in three stages:
#
# | here | ZeRO | what is divided | bytes for a parameter |
# |---|---|---|---|
# | `--shard none` | (DDP) | nothing | 4 + 4 + 8 |
# | `--shard optimizer` | stage 1 | the optimizer's state | 4 + 4 + 8/N |
# | (none) | stage 2 | that and the gradients | 4 + 4/N + 8/N |
# | `--shard full` | stage 3 | that and the parameters | 4/N + 4/N + 8/N, and one block whole |
# | `--shard full --reshard no` | "2" | the same | the same, and all blocks whole |
#
# With `full`, the parts of a block are gathered before it computes and dropped afterwards, in the
# forward pass and again in the backward pass (PyTorch's `fully_shard`, FSDP2). `--reshard no` keeps
# the parameters gathered in the forward pass until the backward pass has used them. That is
# ZeRO-2's trade: memory for all parameters in exchange for one exchange less.
#
# This chapter trains a small model in each way and shows what every process held and exchanged in
# the first step, which the run writes to `held.json` in its folder.

# %%
several = chapter.has_processes()
scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name)
text = load_text("the-tide-clock")
write_tokens(folder / "tokens.bin", text, BytePairTokenizer.train([text], vocab_size=512))

steps, width = (6, 64) if settings.quick else (20, 192)
sizes = {"emb-dim": width, "n-layers": 4, "n-heads": 4, "context-length": 64}
options = [f"--{name}={size}" for name, size in sizes.items()]
options += [f"--steps={steps}", f"--eval-every={steps}", "--device=cpu", "--precision=float32"]


def run(name, processes, *how):
    """Run a training command, 8 rows per step; return losses and what each process held."""
    words = ["pretrain", "--data=tokens.bin", f"--out={name}", f"--micro-batch={8 // processes}"]
    threads = max(1, (os.cpu_count() or 1) // processes)
    chapter.run_command([*words, *options, *how], folder, processes, threads)
    losses = [line["loss"] for line in read_metrics(folder / name) if "loss" in line]
    return losses, json.loads((folder / name / "held.json").read_text(encoding="utf-8"))


ways = {  # name -> processes, options; a name is a folder too
    "one": (1,),
    "optimizer": (2, "--shard=optimizer"),
    "full": (2, "--shard=full"),
    "ddp": (2, "--shard=none"),
    "full-kept": (2, "--shard=full", "--reshard=no"),
    "full-offload": (2, "--shard=full", "--offload"),
    "mesh-2x2": (4, "--shard=full", "--mesh=2x2"),
}
if settings.quick:
    ways = {name: ways[name] for name in ("one", "optimizer", "full")}
if not several:
    ways = {"one": ways["one"]}
found = {name: run(name, *how) for name, how in ways.items()}

# %% [markdown]
# ## The same losses
#
# Dividing changes where the numbers are, not what they are.

# %%
for name, (losses, _) in found.items():
    apart = max(abs(a - b) for a, b in zip(losses, found["one"][0], strict=True))
    print(f"{name:<13}{losses[0]:.5f} ... {losses[-1]:.5f}   below 1e-5 apart: {apart < 1e-5}")

# %% [markdown]
# ## What a process holds
#
# These are the first process's bytes. *Gathered* is the most that was whole at one time in the
# forward pass of a divided model: the embeddings, last norm and head, which stay, and one block, or
# all of them.

# %%
KINDS = ("parameters", "gathered", "gradients", "optimizer", "activations")
print(f"{'KB':<14}" + "".join(f"{kind:>13}" for kind in KINDS))
for name, (_, held) in found.items():
    print(f"{name:<14}" + "".join(f"{held[0][kind] / 1e3:>13,.0f}" for kind in KINDS))
bars = {name: {kind: held[0][kind] / 1e6 for kind in KINDS} for name, (_, held) in found.items()}
chapter.show(settings, "post04-held", pictures.plot_held, bars)

# %% [markdown]
# A part is an N-th of each tensor along its first dimension. If that does not divide evenly, the
# last process has less. Over all processes, nothing is missing or duplicated. (The exception is
# AdamW's step counter, 4 bytes for each part of a tensor.) ZeRO-1 deals out whole tensors, so its
# shares are only about equal.

# %%
whole = found["one"][1][0]
for name, (_, held) in found.items():
    for kind in ("parameters", "gradients", "optimizer") if len(held) > 1 else ():
        shares = [each[kind] / whole[kind] for each in held]
        shown = ", ".join(f"{share:.1%}" for share in shares)
        print(f"{name:<13}{kind:<11}{shown:<30}together {sum(shares):.2f} times one model's")

# %% [markdown]
# ## What goes over the wire, and when
#
# DDP and ZeRO-1 exchange gradients in the backward pass (an all-reduce). With ZeRO-1, each process
# then updates its share of the parameters and broadcasts the result, so all parameters are sent
# after the update. A divided model gathers parameters in the forward pass, and most of them again
# in the backward pass. Instead of an all-reduce it needs only the first half, a reduce-scatter,
# since each process needs only its own part of the sums. A ring sends (N - 1) / N of a tensor for
# an all-gather or a reduce-scatter, and twice that for an all-reduce.

# %%
RING = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1, "broadcast": 1, "numbers": 0}


def per_parameter(held, processes):
    """Return the bytes that a process sends per step and parameter of the model."""
    kinds = [pair for phase in held["sent"].values() for pair in phase.items()]
    size = sum(RING[kind] * size for kind, (_, size) in kinds)
    return size * (processes - 1) / processes / (whole["parameters"] / 4)


for name, (_, held) in found.items():
    if name not in ("one", "mesh-2x2"):
        for phase, kinds in held[0]["sent"].items():
            for kind, (times, size) in kinds.items():
                line = f"{kind:<15}{times:>3} times, {size:>10,} bytes in all"
                print(f"{name:<13}{phase:<10}{line}")
        sent = per_parameter(held[0], 2)
        print(f"{name:<13}by a ring of 2: {sent:.1f} bytes sent for each parameter\n")

# %% [markdown]
# Full sharding sends about half as much again as DDP: parameters twice and gradients once, instead
# of gradients "twice". With `--reshard no` it sends as much as DDP. (In the table above, the head
# and the embedding are gathered once in either case: the loss needs them at the end of the forward
# pass, and the backward pass right after it.)
#
# ## Offload, and a mesh
#
# `--offload` keeps everything that is divided in the host's memory: parameters, gradients, and the
# optimizer's state. A block's part is copied to the GPU when the block is gathered, its gradients
# are copied back, and the optimizer steps on the host's CPU. Only activations and gathered
# parameters remain on the GPU. Here, on a CPU, the two memories are one, so the table's numbers are
# the same. It shows that nothing else changes.
#
# `--mesh 2x4` makes two copies of a model, each divided among four processes. Parameters are
# exchanged within a copy, as between the GPUs of one machine, and only gradients between copies.
# Here `mesh-2x2` has the shares of two processes although it has four.
#
# ## What part 4 saw
#
# (gpjt, *Messing around with fine-tuning LLMs*, part 4, 21 May 2024; DeepSpeed 0.14.2 by the
# Trainer of transformers.) The first attempt, with ZeRO-2, "blew up at iteration 24", out of
# memory. With the optimizer offloaded to the host it succeeded. An iteration took this many
# seconds:

# %%
SECONDS = {23: 5.6, 24: 8.3, 26: 10.7, 33: 12.6, 616: 13.0}  # "up to 23", then as logged
for iteration, seconds in SECONDS.items():
    print(f"iteration {iteration:>3}: {seconds:>4} s, {seconds / SECONDS[23]:.1f} times the start")

# %% [markdown]
# DeepSpeed's **ZeRO-2 with an offloaded optimizer is not `--shard full --offload`**:
#
# | | ZeRO-2, optimizer offloaded | `--shard full --offload` |
# |---|---|---|
# | parameters on the GPU | always all, in 16 bits | one block at a time |
# | gradients | partitioned: each process keeps its part, on the host | the same |
# | optimizer's state | divided, on the host, with a float32 copy of the parameters | the same |
# | optimizer step | on the host (CPUAdam) | on the host (PyTorch's AdamW, fused) |
# | after a step | new parameters are copied to the GPU and gathered by all | nothing |
# | on the GPU, whatever N is | 2 bytes per parameter | nothing |
#
# (`--offload` has no 16-bit copy on the GPU: the next forward pass gathers each block in float32,
# and autocast multiplies matrices in 16 bits.)
#
# So this is the memory for 8 billion parameters and 8 GPUs, without activations (N = 8; mixed
# precision as ZeRO counts; one block of Llama 3 8B has 218 million parameters, embedding and head
# 525 million each):

# %%
N, GIB = 8, 2**30
block = P - 2 * llama.vocab_size * llama.emb_dim  # of all blocks
block = block / llama.n_layers
gathered = 2 * (block + 2 * llama.vocab_size * llama.emb_dim)
estimates = {
    "DDP": (2 * P, 0, 2 * P, 12 * P),
    "ZeRO-1": (2 * P, 0, 2 * P, 12 * P / N),
    "ZeRO-2": (2 * P, 0, 2 * P / N, 12 * P / N),
    "ZeRO-2, optimizer offloaded": (2 * P, 0, 0, 0),
    "full": (2 * P / N, gathered, 2 * P / N, 12 * P / N),
    "full, offloaded": (0, gathered, 0, 0),
}
bars = {
    name: dict(zip(KINDS, (part / GIB for part in parts), strict=False))
    for name, parts in estimates.items()
}
for name, parts in bars.items():
    print(f"{name:<29}{sum(parts.values()):>6.1f} GiB")
card = 40 * 1e9 / GIB
chapter.show(settings, "post04-llama", pictures.plot_held, bars, "GiB", card)

# %% [markdown]
# ZeRO-2 leaves little of 37 GiB for activations, logits, buckets and a step's temporary copies, yet
# it ran for 23 iterations. Why it stopped there is open. **An unproven guess**: the optimizer's
# first real step happened then. In 16 bits DeepSpeed scales the loss. Steps whose gradients
# overflow are skipped, the scale is halved each time, and AdamW's state is made in the first step
# that is not skipped. That would explain the sudden lack of memory. It would also explain why, with
# offload, the time of an iteration doubled at the same point: from then on the host computed steps.
# Two facts speak against it: a scale that begins at 2^16 and halves does not obviously need 24
# skips, and the time rose over some ten iterations rather than at once. A log of skipped steps
# would settle it. Here bfloat16 is the default on GPUs; it needs no scale and skips no steps.
#
# ## Which one to use
#
# 1. The model fits: `--shard none`. It sends least and is simplest.
# 2. It nearly fits: first save activation memory (posts 5 and 9), then `--shard optimizer`.
# 3. It does not fit: `--shard full`, with `--mesh` on several machines.
# 4. Even that does not fit: `--offload`, at the cost of host memory and time for copies.
#
# ## Exercises
#
# **1.** How many GPUs of 40 GB does Llama 3 8B need with full sharding, if a third of each card is
# reserved for activations?

# %%
for N in range(1, 65):
    if (16 * P / N + gathered) / GIB <= card * 2 / 3:
        print(f"{N} GPUs: {(16 * P / N + gathered) / GIB:.1f} GiB on each")
        break

# %% [markdown]
# **2.** How many bytes does a GPU send per step, for N = 8 and 2 bytes per number, with DDP and
# with full sharding?

# %%
for name, times in (("DDP", 2), ("full sharding", 3)):
    print(f"{name}: {times * 2 * P * 7 / 8 / 1e9:.0f} GB")
scratch.cleanup()
