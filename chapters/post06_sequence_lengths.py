"""The series' parts 6 and 7: memory by sequence length.

    python chapters/post06_sequence_lengths.py            three minutes
    python chapters/post06_sequence_lengths.py --quick    fewer lengths, a smaller model: 40 seconds

Times are for two cores of a laptop. Nothing is downloaded, no GPU is needed. The series' curves are
drawn if LLM_SCRATCH_DATA names a folder with its CSV files.
"""

# %%
import tempfile
from pathlib import Path

from llm_scratch import chapter
from llm_scratch.memory.curves import law_of, law_points, law_text, measured_points
from llm_scratch.memory.estimate import estimate_memory
from llm_scratch.memory.models import model_config
from llm_scratch.memory.sweep_files import read_sweep
from llm_scratch.plotting.memory import MemoryCurve, plot_memory
from llm_scratch.text.corpora import data_folders
from llm_scratch.training.division import Division

settings = chapter.settings(__doc__)
MIB = 2**20

# %% [markdown]
# # The price of one more token
#
# Part 6 of *Messing around with fine-tuning LLMs* measured the peak memory for every length from 1
# to 2,048 tokens, for a model of half a billion parameters (Qwen1.5-0.5B), one row, and a fresh
# process for each point. It found a flat line up to about 920 tokens, then a rising one, and asked
# why.
#
# Here is the experiment with a small model on this machine. A sweep starts a process for each
# point, takes a few steps beyond the first one, in which the optimizer makes its state, and writes
# a row with the whole configuration. An interrupted sweep can be resumed.

# %%
model = "preset:small"
lengths = "64:256:96" if settings.quick else "16:256:24"
rows = "8" if settings.quick else "16"
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    chapter.run_command(
        ["memory", "sweep", model, "--length", lengths, "--batch", rows, "--steps", "2"]
        + ["--out", "lengths.csv"],
        folder,
    )
    (curve,) = read_sweep(folder / "lengths.csv")
points = measured_points(curve, "resident")
cfg = model_config(model)
print(f"{'length':>6}{'measured, MiB':>15}{'estimate, MiB':>15}")
estimates = []
for length, _, mean, _ in points:
    size = estimate_memory(cfg, rows=int(rows), length=int(length), device="cpu").bytes
    estimates.append((length, size))
    print(f"{int(length):>6}{mean / MIB:>15,.0f}{size / MIB:>15,.0f}")

# %% [markdown]
# On a CPU, the measurement is the growth of the process's resident memory since before the model
# was built. It includes freed memory that malloc keeps, which no formula knows. So in places it is
# above the estimate. On a GPU, the allocator says exactly what is alive.
#
# The law that fits is the larger of a constant and a line, because a step has two peaks. During the
# optimizer's step, memory holds parameters, gradients and states, whatever the length. In the
# backward pass, it also holds activations and logits, which grow with every token. The larger peak
# counts:

# %%
law = law_of(curve, "resident")
print(law_text(law, "length"))
drawn = MemoryCurve(points, estimates, law_points(curve, law), law_text(law, "length"))
curves = {"a small GPT, on a CPU": drawn}
chapter.show(settings, "post06-small", plot_memory, curves, axis="length", number="resident")

# %% [markdown]
# # What the series measured
#
# This is Qwen1.5-0.5B on one GPU of 24 GiB, with one row (part 6, peak active memory, expandable
# segments):
#
# | | measured |
# |---|---|
# | floor | 10,896 MiB, up to 918 to 926 tokens |
# | slope | 2.955 MiB per token |
# | intercept | 8,150 MiB |
# | at 2,048 tokens | 14,048 MiB |
#
# The knee follows from the other three: (10,896 - 8,150) / 2.955 = 929 tokens. And what do the
# formulas say, for the same model under the series' engine?

# %%
qwen = model_config("qwen1.5-0.5b")
options = {"precision": "bfloat16", "loss_chunk": None, "engine": "deepspeed"}
short, long = (estimate_memory(qwen, length=T, **options) for T in (1024, 2048))
slope = (long.backward.bytes - short.backward.bytes) / 1024
intercept = long.backward.bytes - 2048 * slope
knee = (long.update.bytes - intercept) / slope
print(f"floor {long.update.bytes / MIB:,.0f} MiB, slope {slope / MIB:.3f} MiB per token, ", end="")
print(f"intercept {intercept / MIB:,.0f} MiB")
print(f"knee {knee:,.0f} tokens, at 2,048 tokens {long.bytes / MIB:,.0f} MiB")

# %% [markdown]
# The slope has three parts: activations of the blocks, logits, and the rest. With so large a
# vocabulary (151,936), most of it is logits:

# %%
logits = 12 * qwen.vocab_size
print(f"logits: 12 V = {logits / MIB:.2f} of {slope / MIB:.2f} MiB per token")
spared = estimate_memory(qwen, length=2048, **{**options, "loss_chunk": 1024})
print(
    f"with head and loss in chunks of 1,024 tokens: {spared.bytes / MIB:,.0f} MiB at 2,048 tokens"
)

# %% [markdown]
# The whole curve is drawn if the series' files are here (they have no licence, so this project does
# not include them):

# %%
PART6 = "sequence-length-memory-modeling/results-with-env-var.csv"
PART7 = "sequence-length-memory-modeling-8B/results-with-env-var.csv"


def published(name):
    """Return a file of the series as a curve, its points and its law; None where it is not here."""
    path = next((f / name for f in data_folders() if (f / name).is_file()), None)
    if path is None:
        chapter.missing(name, "naming its folder in LLM_SCRATCH_DATA")
        return None
    (found,) = read_sweep(path)
    return found, measured_points(found, "active"), law_of(found, "active")


if found := published(PART6):
    curve, points, law = found
    print(law_text(law, "length"))
    estimates = [(T, estimate_memory(qwen, length=T, **options).bytes) for T in range(1, 2049, 64)]
    drawn = MemoryCurve(points, estimates, law_points(curve, law), law_text(law, "length"))
    curves = {"Qwen1.5-0.5B": drawn}
    chapter.show(settings, "post06-half", plot_memory, curves, axis="length", number="active")

# %% [markdown]
# # Part 7: eight GPUs
#
# Part 7 does the same for Llama 3 8B, divided among eight GPUs of 80 GB. With the optimizer in the
# host's memory, the line was flat at 21 to 22 GiB. That run also computed activations twice and
# divided less (ZeRO-2), so the comparison mixes three changes. Without them, the line rose from
# 36,174 MiB at 1 token to 48,674 at 2,001. Its left end was not at the estimator's 17.68 GiB, but
# at about twice that:

# %%
llama = model_config("llama3-8b")
options |= {"ranks": 8, "division": Division("full")}
short, long = (estimate_memory(llama, length=T, **options).backward.bytes for T in (1, 2001))
print(f"estimate: {short / MIB:,.0f} MiB at 1 token, {long / MIB:,.0f} at 2,001, ", end="")
print(f"{(long - short) / 2000 / MIB:.2f} MiB per token; measured about 7.4 above 300 tokens")
if found := published(PART7):
    curve, points, _ = found
    estimates = [
        (T, estimate_memory(llama, length=T, **options).bytes) for T in range(1, 2002, 100)
    ]
    curves = {"Llama 3 8B, eight GPUs": MemoryCurve(points, estimates)}
    chapter.show(settings, "post06-llama", plot_memory, curves, axis="length", number="active")

# %% [markdown]
# At the left end, estimate and measurement consist mostly of states (16.8 GiB) and gathered weights
# (15.0 GiB), neither of which depends on the length. `llm-scratch memory plot FILE --estimate`
# draws such figures for your own sweeps.
#
# ## Exercise
#
# Up to which length does the half-billion model fit on a card of 24 GiB, without and with chunks?

# %%
card = 24 * 2**30
for chunk in (None, 1024):
    fits = [
        length
        for length in range(1024, qwen.context_length + 1, 256)
        if estimate_memory(
            qwen, length=length, precision="bfloat16", loss_chunk=chunk, engine="deepspeed"
        ).bytes
        <= card
    ]
    print(f"chunk {chunk}: {max(fits):,} tokens")
