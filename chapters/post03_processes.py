"""The series' part 3: the same run in one process and in several.

    python chapters/post03_processes.py            from one process to one per core: a minute
    python chapters/post03_processes.py --quick    one and two, a smaller model: 15 seconds

Times are for two cores of a laptop. Nothing is downloaded. Torchrun starts the processes, on Linux
and macOS; elsewhere the chapter continues without them.
"""

# %%
import csv
import inspect
import json
import os
import statistics
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from llm_scratch import chapter
from llm_scratch.model.gpt import GPTModel
from llm_scratch.plotting import processes as pictures
from llm_scratch.text.corpora import load_text
from llm_scratch.text.token_file import write_tokens
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training.run_folder import read_metrics

settings = chapter.settings(__doc__)

# %% [markdown]
# # One process, and several
#
# Part 3 of *Messing around with fine-tuning LLMs* trains a model of half a billion parameters,
# first on one A100 and then on eight, with DDP (`DistributedDataParallel`). Every process has the
# whole model and its own rows of each batch. It does the forward and backward pass alone. Then all
# processes average their gradients, and each takes the same step.
#
# This chapter does the same with a small model and the processes of one machine. It asks what part
# 3 leaves to the library: are the losses the same, what does a process hold, what goes over the
# wire, and when? Each run is an ordinary command, printed as you would type it.

# %%
several = chapter.has_processes()
scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name)
text = load_text("the-tide-clock")
write_tokens(folder / "tokens.bin", text, BytePairTokenizer.train([text], vocab_size=512))

steps, width = (8, 64) if settings.quick else (20, 192)
most = 2 if settings.quick else max(2, min(4, os.cpu_count() or 1))
threads = max(1, (os.cpu_count() or 1) // most)
sizes = {"emb-dim": width, "n-layers": 4, "n-heads": 4, "context-length": 64}
options = [f"--{name}={size}" for name, size in sizes.items()]
options += [f"--steps={steps}", f"--eval-every={steps}", "--device=cpu", "--precision=float32"]


def run(name, processes, rows):
    """Run a training command; return the metrics of its steps and what each process held."""
    words = ["pretrain", "--data=tokens.bin", f"--out={name}", f"--micro-batch={rows}", *options]
    chapter.run_command(words, folder, processes, threads)
    lines = [line for line in read_metrics(folder / name) if "loss" in line]
    return lines, json.loads((folder / name / "held.json").read_text(encoding="utf-8"))


one, (alone,) = run("one", 1, 8)
two, held = run("two", 2, 4) if several else (one, [alone])

# %% [markdown]
# ## The same losses
#
# A step has 8 rows in both runs: one process reads all of them, two read 4 each. The rows depend on
# the seed and the number of the step, not on which process reads them. So the losses agree, up to
# the order in which floating-point numbers are added.

# %%
print("step   one process   two")
for before, after in list(zip(one, two, strict=True))[:: max(1, steps // 4)]:
    print(f"{before['step']:>4}   {before['loss']:<11.6f}   {after['loss']:.6f}")
apart = max(abs(a["loss"] - b["loss"]) for a, b in zip(one, two, strict=True))
print(f"Largest difference of {steps} losses: {apart:.0e}; below 1e-5: {apart < 1e-5}")

# %% [markdown]
# DDP averages gradients. The result is the gradient of the whole batch only if each process divides
# by the right number. If answers are learned and questions are not, one process may have 10 targets
# and another 90, and the mean of the two means gives the 10 as much weight as the 90. Here each
# process's loss is the *sum* of its losses, times the number of processes, divided by the total
# number of targets. DDP's mean of these is the mean over all targets. With numbers:

# %%
torch.manual_seed(123)
weight = torch.randn(8, 5, requires_grad=True)
inputs, targets = torch.randn(100, 5), torch.randint(0, 8, (100,))
losses = F.cross_entropy(inputs @ weight.T, targets, reduction="none")
shares = losses[:10], losses[10:]  # of two processes
gradients = {
    "all targets in one process": losses.mean(),
    "mean of the means": sum(share.mean() for share in shares) / 2,
    "mean of sum * 2 / 100": sum(share.sum() * 2 / 100 for share in shares) / 2,
}
wanted = None
for name, loss in gradients.items():
    (found,) = torch.autograd.grad(loss, weight, retain_graph=True)
    wanted = found if wanted is None else wanted
    print(f"{name:<28}{(found - wanted).norm() / wanted.norm():.0%} off")

# %% [markdown]
# ## What a process holds
#
# In its first step, every run counts what each process holds and writes it to `held.json` in its
# folder. With DDP, each process holds everything: the parameters, a gradient for each, and AdamW's
# two averages. In float32 that is 4 + 4 + 8 = 16 bytes per parameter, whatever the number of
# processes. Only the activations, which the forward pass keeps for the backward pass, shrink, since
# each process has fewer rows.

# %%
KINDS = ("parameters", "gradients", "optimizer", "activations")
print(f"{'KB':<16}" + "".join(f"{kind:>13}" for kind in KINDS))
ways = {"one process": alone}
ways |= {f"rank {rank} of 2": each for rank, each in enumerate(held)} if several else {}
for name, each in ways.items():
    print(f"{name:<16}" + "".join(f"{each[kind] / 1e3:>13,.0f}" for kind in KINDS))
numbers = alone["parameters"] / 4
states = sum(alone[kind] for kind in KINDS[:3])
print(f"{numbers:,.0f} parameters, {states / numbers:.1f} bytes for each, without activations")
bars = {name: {kind: each[kind] / 1e6 for kind in KINDS} for name, each in ways.items()}
chapter.show(settings, "post03-held", pictures.plot_held, bars)

# %% [markdown]
# So DDP makes training faster, never smaller: a model that does not fit on one GPU does not fit on
# eight this way. Part 4 of the series meets exactly this problem, and so does the next chapter.
#
# ## What goes over the wire, and when
#
# Gradients, once per step, and next to nothing else. They are sent in *buckets*. The last layers
# have their gradients first, and as soon as a bucket is full it is sent, while the backward pass
# continues through the earlier layers. The first bucket is 1 MB, so that sending begins early; the
# others are 25 MB. In the first step, which is counted here, DDP does not know the order of the
# gradients yet, and has a single bucket. The forward phase exchanges only single numbers: how many
# targets and rows the step has in all.


# %%
def show_exchanges(name, each):
    """Print what a process exchanges with the others in a step."""
    for phase, kinds in each["sent"].items():
        for kind, (times, size) in kinds.items():
            print(f"{name:<8}{phase:<10}{kind:<15}{times:>3} times, {size:>10,} bytes in all")


for rank, each in enumerate(held):
    show_exchanges(f"rank {rank}", each)
if several:
    sent = held[0]["sent"]["backward"]["all-reduce"][1]
    print(f"Gradients, sent once: {sent == held[0]['gradients']}")

# %% [markdown]
# An all-reduce sums a tensor over all processes and gives the sum to each. In a ring, every process
# sends 2 (N - 1) / N times the tensor's size, at most twice its size for any N. First each process
# computes the sum of one N-th, then the sums go round. For the model of part 3 and gradients of 4
# bytes:

# %%
published_numbers = 463_987_712  # of Qwen1.5-0.5B, its head tied
for processes in (2, 8):
    share = 2 * (processes - 1) / processes
    print(f"{processes} processes: each sends {share * 4 * published_numbers / 1e9:.1f} GB/step")

# %% [markdown]
# At 5 steps per second, that is about 16 GB per second from each of eight GPUs: little for the
# links between the GPUs of one machine, and out of the question for most networks between machines.
# There it helps to send less often: with accumulation, the gradients of several micro batches are
# added up and sent with the last one.
#
# ## How much faster
#
# `llm-scratch distributed scale` starts runs with one process, two, and so on. Each process has the
# same number of rows, so a step of N processes has N times as many. Efficiency is the remaining
# share of each process's speed: processes wait for the slowest one, and for the exchange. Where
# they share the cores of one machine, the speed of each thread counts. (On a busy machine these
# numbers are meaningless.)


# %%
def read_speeds(table):
    """Return the table of `distributed scale`: processes -> (steps/s, tokens/s, efficiency)."""
    with open(table, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["tokens_per_s"]]
    names = ("its_per_s", "tokens_per_s", "efficiency")
    return {int(row["processes"]): tuple(float(row[name]) for name in names) for row in rows}


def speed_of(lines, processes):
    """Return a run's steps/s and tokens/s per process, from the median of its later steps."""
    seconds = statistics.median(line["seconds"] for line in lines[2:])
    return 1 / seconds, (lines[-1]["tokens"] - lines[-2]["tokens"]) / seconds / processes


def show_speeds(speeds):
    """Print a table: processes, steps per second of each, tokens per second of all, efficiency."""
    print("processes   it/s each   tokens/s in all   efficiency")
    for count, (rate, tokens, efficiency) in speeds.items():
        print(f"{count:>9}   {rate:>9.2f}   {tokens:>15,.0f}   {efficiency:>10.0%}")


if settings.quick or not several:
    print("The runs from above: a step of 8 rows, by one process and by two.")
    runs = {1: one} | ({2: two} if several else {})
    each = {count: speed_of(lines, count) for count, lines in runs.items()}
    measured = {n: (rate, n * tokens, tokens / each[1][1]) for n, (rate, tokens) in each.items()}
else:
    words = ["distributed", "scale", "--data=tokens.bin", f"--processes=1:{most}"]
    words += [f"--steps={steps}", "--out=scale.csv", "--", "--micro-batch=8"]
    words += [word for word in options if not word.startswith(("--steps", "--eval"))]
    chapter.run_command(words, folder)
    measured = read_speeds(folder / "scale.csv")
show_speeds(measured)

# %% [markdown]
# Here is part 3's table, from A100s of 40 GB with one sequence of 2,048 tokens per process (gpjt,
# *Messing around with fine-tuning LLMs*, part 3, 15 May 2024). Started by plain `python`, one
# process took 6.24 steps per second; by `torchrun`, 5.81. From 1 to 8 processes, the run's time
# went from 56 minutes to 8, and the eight GPUs were 7.3 times as fast as one: 91 % of the ideal.

# %%
RATES = (5.81, 5.48, 5.39, 5.38, 5.33, 5.32, 5.30, 5.29)  # steps per second, of each process
MINUTES = (56, 30, 20, 15, 12, 10, 9, 8)
published = {  # the tokens are those of full rows, padding included
    count: (rate, rate * count * 2048, rate / RATES[0]) for count, rate in enumerate(RATES, 1)
}
show_speeds(published)
print("minutes:", ", ".join(map(str, MINUTES)))
curves = {
    "part 3: 0.5B on A100s": {count: found[1] for count, found in published.items()},
    "here": {count: found[1] for count, found in measured.items()},
}
chapter.show(settings, "post03-scaling", pictures.plot_speedups, curves)

# %% [markdown]
# Most is lost between one process and two, where sending begins; from two to eight it is 3 %. That
# is thanks to the ring: the amount that each sends hardly grows.
#
# For learning, larger steps are not free. Eight processes took an eighth of the steps, each with
# eight times as many rows, and neither the learning rate nor the number of epochs was tuned for
# that. A later post by the same author trains base models with DDP. There, the smaller global batch
# had the lower loss for the same number of tokens.
#
# ## Why `DataParallel` crashed
#
# Before DDP, part 3 wrapped the model in `nn.DataParallel` in a notebook, and got an `IndexError:
# ... out of bounds for size 0`. The post leaves it there. The message comes from a data set without
# rows. The likely reason: the Trainer of transformers drops every column of the data that the
# model's `forward` has no argument for. It asks the wrapper, whose `forward` names none of them.

# %%
sizes = {"vocab_size": 512, "context_length": 64, "emb_dim": 32, "n_layers": 1, "n_heads": 2}
model = GPTModel({**sizes, "drop_rate": 0.0, "qkv_bias": False})
print("the model's forward:  ", *inspect.signature(model.forward).parameters)
print("the wrapper's forward:", *inspect.signature(nn.DataParallel(model).forward).parameters)

# %% [markdown]
# All columns are dropped, the data set has 0 rows, and row 0 is out of bounds. (The same was
# reported for another wrapper, `AveragedModel`: huggingface/datasets#2988.) `DataParallel` would
# have been a detour anyway. It is one process with a thread for each GPU. In every step it copies
# the model to all of them and collects the results on the first, and its threads wait for one
# another. DDP has a process for each GPU and copies nothing, and eight processes are started by the
# same command as one.
#
# ## Exercises
#
# **1.** Two machines with one GPU each are connected by a network of 10 Gbit/s. How long does it
# take to send the gradients of part 3's model? How many micro batches of 172 ms have to be
# accumulated before sending takes only a tenth of the time?

# %%
seconds = 2 * (2 - 1) / 2 * 4 * published_numbers * 8 / 10e9
print(f"{seconds:.1f} s to send; {9 * seconds / (1 / RATES[0]):.0f} micro batches")

# %% [markdown]
# **2.** A step takes 172 ms with one process (5.81 per second) and 189 ms with eight. If all of the
# difference is sending, how fast would computing have to become for sending to take half of a step?

# %%
lost = 1 / RATES[7] - 1 / RATES[0]
print(f"{lost * 1e3:.0f} ms are lost, so a step would be {2 * lost * 1e3:.0f} ms long;")
print(f"computing would have to be {(1 / RATES[0]) / lost:.0f} times as fast")
scratch.cleanup()
