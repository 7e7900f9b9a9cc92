"""Appendix D: adding bells and whistles to the training loop.

    python chapters/appendix_d_training.py            a smaller model: 3 to 6 minutes
    python chapters/appendix_d_training.py --quick    a small one: less than a minute
    python chapters/appendix_d_training.py --full     the book's model: 10 to 20 minutes

Times are for two cores of a laptop. The numbers of D.1 to D.3 are the book's; those of D.4 only
with --full. Nothing is downloaded: without the book's story it trains on one that is part of this
project. --epochs N replaces the 15 epochs.
"""

# %%
import math
import time

import torch

from llm_scratch import chapter
from llm_scratch.model.config import GPT_CONFIG_124M
from llm_scratch.model.device import pick_device
from llm_scratch.model.gpt import GPTModel
from llm_scratch.plotting.figures import BLUE, ORANGE
from llm_scratch.plotting.learning import plot_losses
from llm_scratch.text.windows import create_dataloader_v1, split_text
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer
from llm_scratch.training.appendix_d import (
    book_learning_rate,
    find_highest_gradient,
    train_model,
)
from llm_scratch.training.losses import calc_loss_batch
from llm_scratch.training.schedules import SCHEDULES, learning_rate
from llm_scratch.training.simple import train_model_simple

settings = chapter.settings(__doc__, epochs=0, full=False, device="auto")

config = {**GPT_CONFIG_124M, "context_length": 256}
trained_config = dict(config)  # of D.4
n_epochs, peak_rate_of_training = settings.epochs or 15, 1e-3
if settings.quick:
    config |= {"emb_dim": 64, "n_heads": 4, "n_layers": 2, "context_length": 64}
    trained_config = dict(config)
    n_epochs, peak_rate_of_training = settings.epochs or 1, 4e-3
    print("A small model (--quick): its numbers are not the book's.")
elif not settings.full:
    trained_config |= {"emb_dim": 256, "n_heads": 4, "n_layers": 4}
    peak_rate_of_training = 3e-3

context_length = config["context_length"]
device = pick_device(settings.device)
tokenizer = GPT2Tokenizer()

# %% [markdown]
# # Appendix D: a training loop with more control
#
# The loop of chapter 5 takes every step at the same learning rate and trusts every gradient. That
# suits a short story and a few epochs. Longer runs of larger models need three additions, which
# this appendix makes one at a time. The rate rises slowly at the start (D.1) and falls afterwards
# (D.2), and gradients that are too large are scaled down (D.3). Section D.4 puts all three into the
# loop.
#
# The data is that of chapter 5: one story, cut into windows as long as the context, two per batch.

# %%
title, text_data = chapter.story()
train_text, val_text = split_text(text_data, train_frac=0.9)
torch.manual_seed(123)
windows = {"batch_size": 2, "max_length": context_length, "stride": context_length}
train_loader = create_dataloader_v1(train_text, **windows)
val_loader = create_dataloader_v1(val_text, **windows, shuffle=False, drop_last=False)
print(f"{title}: {len(train_loader)} batches for training, {len(val_loader)} for validation")

# %% [markdown]
# # D.1 Learning rate warmup
#
# At the start the weights are random numbers, the gradients are large, and Adam's averages are
# based on a handful of batches. A step at the full rate would go far in a direction that is little
# better than chance. So the first steps, here a fifth of the run, are short. The rate begins small
# and rises by the same amount at every step until it reaches its peak.

# %%
initial_lr = 0.0001
peak_lr = 0.01
total_steps = len(train_loader) * n_epochs
warmup_steps = int(0.2 * total_steps)
print(warmup_steps)

# %% [markdown]
# The loop below computes only the rate and leaves out the training. In a real loop, each step
# writes the rate into the optimizer before the update: `for group in optimizer.param_groups:
# group["lr"] = rate`.

# %%
lr_increment = (peak_lr - initial_lr) / warmup_steps

rates_warmup = []
for _ in range(n_epochs):
    for _ in train_loader:
        step = len(rates_warmup)
        rate = initial_lr + step * lr_increment if step < warmup_steps else peak_lr
        rates_warmup.append(rate)

print(f"{len(rates_warmup)} steps")
for step in (0, 1, warmup_steps - 1, warmup_steps, total_steps - 1):
    print(f"Rate at step {step}: {rates_warmup[step]:.6f}")


# %%
def plot_rates(rates):
    """Return a figure of learning rates over the steps: name -> the rate of each step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    for (name, values), colour, style in zip(
        rates.items(), (BLUE, ORANGE, "black"), ("-", "--", ":"), strict=False
    ):
        axes.plot(values, color=colour, ls=style, label=name)
    axes.set(xlabel="Step", ylabel="Learning rate")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure


chapter.show(settings, "appendix-d-warmup", plot_rates, {"warm-up": rates_warmup})

# %% [markdown]
# # D.2 Cosine decay
#
# Near the end a large step does harm: it jumps across the minimum instead of descending into it. So
# after warm-up the rate follows half a period of a cosine, from the peak down to a minimum. It
# falls slowly at first, fastest half-way, and slowly again at the end.

# %%
min_lr = 0.1 * initial_lr

rates_cosine = []
for _ in range(n_epochs):
    for batch in train_loader:
        last_batch = batch  # for section D.3
        step = len(rates_cosine)
        if step < warmup_steps:
            rate = initial_lr + step * lr_increment
        else:
            progress = (step - warmup_steps) / (total_steps - warmup_steps)  # 0 up to nearly 1
            rate = min_lr + (peak_lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
        rates_cosine.append(rate)

for step in (0, 1, warmup_steps - 1, warmup_steps, (warmup_steps + total_steps) // 2):
    print(f"Rate at step {step}: {rates_cosine[step]:.6f}")
print(f"Rate at the last step, {total_steps - 1}: {rates_cosine[-1]:.8f} (smallest: {min_lr:.8f})")

curves = {"warm-up, then cosine": rates_cosine, "warm-up, then constant": rates_warmup}
chapter.show(settings, "appendix-d-cosine", plot_rates, curves)

# %% [markdown]
# The last step does not have the smallest rate: the cosine reaches it one step later.
# `book_learning_rate` is this formula as a function of the step. It has no state, so a run that is
# interrupted and resumed has the rate that it would have had.

# %%
schedule = {"total_steps": total_steps, "warmup_steps": warmup_steps, "peak_lr": peak_lr}
schedule |= {"initial_lr": initial_lr, "min_lr": min_lr}
both = rates_cosine, [book_learning_rate(step, **schedule) for step in range(total_steps)]
print("The function gives the same rates:", torch.allclose(*map(torch.tensor, both)))

# %% [markdown]
# # D.3 Gradient clipping
#
# A single odd batch can have a gradient many times larger than usual, and one such step undoes the
# work of many. Clipping limits the length of the gradient. All gradients together form one long
# vector. If its length, the norm, is above the limit, every number is multiplied by limit / norm.
# The direction stays the same.
#
# The norm is the square root of the sum of squares. By hand, for the gradient of one 2 x 2 matrix:

# %%
gradient = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
norm = gradient.square().sum().sqrt()
print("Norm:", norm.item())
print("Clipped to a norm of 1:\n", gradient * (1.0 / norm))

# %% [markdown]
# Now a whole model: the one of chapter 5, and the loss of the last batch from above.

# %%
inputs, targets = last_batch
torch.manual_seed(123)
model = GPTModel(config).to(device)
loss = calc_loss_batch(inputs, targets, model, device)
loss.backward()

# %% [markdown]
# `find_highest_gradient` looks for the largest number in the gradients of all parameters.

# %%
print(find_highest_gradient(model))

# %% [markdown]
# `clip_grad_norm_` changes the gradients in place and returns the norm from before. That norm is
# worth logging in every run: it jumps before the loss does. If it is below the limit, nothing
# changes.

# %%
norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
print(f"Norm before clipping: {norm:.4f}")
print(find_highest_gradient(model))

# %% [markdown]
# The book's version compares signed numbers, so it overlooks a large negative one. With
# `signed=True`, so does this one. Whether that matters depends on the batch:

# %%
signed, size = find_highest_gradient(model, signed=True), find_highest_gradient(model)
print(f"Largest with the sign: {signed:.4f}, in size: {size:.4f}")
model = loss = None  # free the memory before the next model is made

# %% [markdown]
# # D.4 The modified training function
#
# `train_model` is the loop of chapter 5 with all three additions. Its peak is the optimizer's
# initial rate, and it also returns the rate of every step. Like the book, it clips only after
# warm-up.

# %%
torch.manual_seed(123)
model = GPTModel(trained_config).to(device)
if trained_config is not config and not settings.full:
    print(f"A model of {model.num_parameters():,} parameters; --full uses the book's.")
optimizer = torch.optim.AdamW(
    model.parameters(), lr=peak_rate_of_training, weight_decay=0.1, fused=True
)
evaluation = {"eval_freq": 10 if settings.quick else 5, "eval_iter": 1}
evaluation |= {"start_context": "Every effort moves you", "tokenizer": tokenizer}

start = time.perf_counter()
train_losses, val_losses, tokens_seen, rates = train_model(
    model,
    train_loader,
    val_loader,
    optimizer,
    device,
    n_epochs=n_epochs,
    warmup_steps=warmup_steps,
    initial_lr=1e-5,
    min_lr=1e-5,
    **evaluation,
)
print(f"Training took {time.perf_counter() - start:.0f} seconds.")

# %% [markdown]
# The rates of this run, and its losses:

# %%
chapter.show(settings, "appendix-d-rates", plot_rates, {"rate of the run": rates})

epochs_seen = torch.linspace(0, n_epochs, len(train_losses))
chapter.show(
    settings, "appendix-d-losses", plot_losses, epochs_seen, tokens_seen, train_losses, val_losses
)

# %% [markdown]
# The training loss keeps falling, but the validation loss stops: there are only a few thousand
# tokens, and no schedule makes more of them. Look at the shape of the curve. While the rate is
# high, the curve is restless. As the rate falls, the curve becomes smooth and then flat, because
# the last steps are too short to change anything.
#
# Be careful when calling it twice: the peak is read from the optimizer, where the run has left its
# last rate. A second call would only climb to that rate.

# %%
print(f"Peak of this run: {peak_rate_of_training}")
print(f"Rate left in the optimizer: {optimizer.param_groups[0]['lr']:.2e}")

# %% [markdown]
# # What the schedule gains
#
# The same model is trained again from the same seed with the loop of chapter 5: at the peak rate
# from the first step to the last, without clipping.

# %%
torch.manual_seed(123)
model = GPTModel(trained_config).to(device)
optimizer = torch.optim.AdamW(
    model.parameters(), lr=peak_rate_of_training, weight_decay=0.1, fused=True
)
constant_train, constant_val, _ = train_model_simple(
    model,
    train_loader,
    val_loader,
    optimizer,
    device,
    num_epochs=n_epochs,
    log=lambda line: None,
    **evaluation,
)
print("                         training, last three   validation, lowest and last")
for name, train, val in (
    ("warm-up, cosine, clipped", train_losses, val_losses),
    ("constant rate", constant_train, constant_val),
):
    last = ", ".join(f"{loss:.3f}" for loss in train[-3:])
    print(f"{name:<25}{last:<23}{min(val):.3f}, {val[-1]:.3f}")

# %% [markdown]
# With the default model and the book's story, the lowest validation loss was 6.13 with the schedule
# and 6.27 without; at the end it was 6.47 against 7.74, although the constant rate had the lower
# training loss: it keeps memorising the story at full speed. (`--quick` has too few steps to show
# this, and one run with one seed proves nothing; try others.)
#
# # The loop for real runs
#
# `train_model` follows the book to the letter. For your own texts there is `llm_scratch.train`,
# which corrects the three additions. Gradients are clipped at every step, warm-up included, and the
# norm is logged. The last step has exactly the smallest rate. The peak comes from the settings, so
# an interrupted run continues with the rate that it would have had. Checkpoints are written, and a
# run resumed from one gives exactly the same numbers.
#
# Its schedules are functions of the step, which counts from 1. Besides the cosine there is a
# straight line, and a rate that stays at the peak and falls only in the last fifth. With the
# latter, a run can be extended afterwards.

# %%
options = {"steps": total_steps, "warmup": warmup_steps, "peak": peak_lr, "minimum": min_lr}
curves = {
    name: [learning_rate(step, schedule=name, **options) for step in range(1, total_steps + 1)]
    for name in SCHEDULES
}
for name, values in curves.items():
    print(f"{name:<9} first {values[0]:.6f}, highest {max(values):.6f}, last {values[-1]:.6f}")
chapter.show(settings, "appendix-d-schedules", plot_rates, curves)

# %% [markdown]
# The command line goes from files to a model that writes. `prepare` encodes the texts once.
# `pretrain` trains (stop it at any moment; `--resume` continues). `plot` draws losses, rates and
# norms of one or more runs. `eval` gives loss and perplexity, and `generate` writes text.

# %%
for command in (
    "llm-scratch prepare MY_TEXTS --out tokens.bin",
    "llm-scratch pretrain --data tokens.bin --preset small --schedule cosine --out RUN",
    "llm-scratch pretrain --data tokens.bin --preset small --schedule cosine --out RUN --resume",
    "llm-scratch plot RUN",
    "llm-scratch eval RUN --data tokens.bin",
):
    print(command)
