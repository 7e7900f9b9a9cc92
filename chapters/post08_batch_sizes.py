"""The series' part 8: memory and speed by batch size, until nothing more fits.

    python chapters/post08_batch_sizes.py            three minutes
    python chapters/post08_batch_sizes.py --quick    a smaller limit: 50 seconds

Times are for two cores of a laptop. Nothing is downloaded, no GPU is needed. On Linux, a limit on
the process makes it run out of memory; elsewhere there is no limit.
"""

# %%
import sys
import tempfile
from pathlib import Path

from llm_scratch import chapter
from llm_scratch.memory.curves import law_of, law_points, law_text, measured_points
from llm_scratch.memory.estimate import estimate_memory
from llm_scratch.memory.models import model_config
from llm_scratch.memory.sweep_files import read_sweep
from llm_scratch.plotting.memory import MemoryCurve, plot_memory
from llm_scratch.training.division import Division

settings = chapter.settings(__doc__)
MIB = 2**20

# %% [markdown]
# # How many rows fit?
#
# Part 8 of *Messing around with fine-tuning LLMs* grows the batch from one row until memory runs
# out, on one GPU of 24 GiB and on eight of 80, and draws memory, speed and the time of a whole
# epoch. Running out is a result here: it ends the point, not the sweep, and becomes a row of the
# file.
#
# Here is the experiment on this machine, with a memory limit on each process:

# %%
model = "preset:tiny" if settings.quick else "preset:small"
limit, batch = ("430MiB", "16:272:64") if settings.quick else ("4GiB", "8:128:12")
more = ["--length", "64" if settings.quick else "256", "--steps", "2", "--epoch-rows", "19692"]
if sys.platform == "linux":
    more += ["--limit", limit, "--until-oom"]
else:
    batch = "16:64:16"
    print("no limit on a process's memory on this system: the sweep ends without running out")
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    chapter.run_command(
        ["memory", "sweep", model, "--batch", batch, *more, "--out", "batches.csv"], folder
    )
    (curve,) = read_sweep(folder / "batches.csv")
print(f"{'rows':>4}{'MiB':>9}{'samples/s':>11}{'19,692 samples':>16}")
for reading in curve.readings:
    if reading.numbers:
        samples, epoch = (float(reading.row[key]) for key in ("samples_per_s", "epoch_seconds"))
        size = reading.numbers["resident"].mean / MIB
        print(f"{reading.x:>4}{size:>9,.0f}{samples:>11.1f}{epoch:>14,.0f} s")
    else:
        print(f"{reading.x:>4}  {reading.state}")

# %% [markdown]
# Twice the rows need twice the activations, and nothing else grows. The speed, in samples, rises
# only until the machine is busy. Beyond that, a larger batch is not worth its memory.

# %%
points = measured_points(curve, "resident")
law = law_of(curve, "resident")
cfg, length = model_config(model), int(more[1])
estimates = [
    (x, estimate_memory(cfg, rows=int(x), length=length, device="cpu").bytes) for x, *_ in points
]
print(law_text(law, "batch"))
drawn = MemoryCurve(points, estimates, law_points(curve, law), law_text(law, "batch"), curve.out)
curves = {"a small GPT, on a CPU": drawn}
chapter.show(settings, "post08-small", plot_memory, curves, axis="batch", number="resident")

# %% [markdown]
# If you only want to know the largest batch, use `memory sweep ... --largest`. It doubles the batch
# until memory runs out, and then halves the gap. The series did that by hand, one machine after
# another.
#
# # What the series measured, and what the formulas say
#
# The numbers are a GPU's peak active memory in MiB, with 2,048 tokens per row. The estimates are
# for DeepSpeed's engine with a GPU's kernels, as in part 5, which also describes what was fitted.

# %%
LLAMA, QWEN = model_config("llama3-8b"), model_config("qwen1.5-0.5b")
PUBLISHED = {  # part 8 and, with checkpointing, part 9
    ("0.5B, ZeRO-3", False): {1: 14_048, 2: 20_228},
    ("0.5B, ZeRO-3", True): {1: 11_926, 2: 15_605, 3: 19_288},
    ("8B, ZeRO-3 on 8 GPUs", False): {1: 49_086, 2: 64_180},
    ("8B, ZeRO-3 on 8 GPUs", True): {1: 26_529, 4: 35_382, 8: 50_416, 12: 64_688},
}


def estimated(name, checkpointing, rows, chunk=None):
    """Return the estimate for one of these runs, in MiB."""
    cfg, ranks = (QWEN, 1) if name.startswith("0.5B") else (LLAMA, 8)
    return (
        estimate_memory(
            cfg,
            rows=rows,
            length=2048,
            precision="bfloat16",
            ranks=ranks,
            division=Division("full" if ranks > 1 else "none"),
            checkpoint_blocks=int(checkpointing),
            loss_chunk=chunk,
            engine="deepspeed",
        ).bytes
        / MIB
    )


print(f"{'':<38}{'rows':>4}{'measured':>10}{'estimate':>10}{'':>8}{'in chunks':>11}")
for (name, checkpointing), found in PUBLISHED.items():
    for rows, measured in found.items():
        size = estimated(name, checkpointing, rows)
        spared = estimated(name, checkpointing, rows, 1024)
        title = name + (", checkpointing" if checkpointing else "")
        print(f"{title:<38}{rows:>4}{measured:>10,}{size:>10,.0f}", end="")
        print(f"{size / measured - 1:>8.1%}{spared:>11,.0f}")

# %% [markdown]
# The last column is what the same run would have needed with head and loss in chunks of 1,024
# tokens. With checkpointing, most of a row's memory is its logits, so a GPU that took 12 rows would
# have taken several times as many. The author of Liger, a package of fused kernels, had pointed
# this out to the series, which is why part 9 was written.
#
# ## Exercise
#
# How many rows of 2,048 tokens fit on each of eight GPUs with 80 GB, for the 8B model, in these
# four ways? (A tenth is reserved for the allocator.)

# %%
name, card = "8B, ZeRO-3 on 8 GPUs", 0.9 * 80e9 / MIB
for checkpointing in (False, True):
    for chunk in (None, 1024):
        fits = 0
        while estimated(name, checkpointing, fits + 1, chunk) <= card:
            fits += 1
        print(f"checkpointing {checkpointing}, chunk {chunk}: {fits} rows")
