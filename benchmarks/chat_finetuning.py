"""Fine-tuning on conversations: ours against TRL's SFTTrainer, in one run.

    llm-scratch fetch smollm2
    pip install -e '.[test,peers]'
    python benchmarks/chat_finetuning.py                          about an hour on two cores
    python benchmarks/chat_finetuning.py --rounds 1 --steps 2 --kinds full

All cases train SmolLM2-135M-Instruct on this project's conversations in ChatML: the same rows and
learned tokens, batches of 4 rows, float32, fused AdamW, gradients clipped at 1. Either all weights
are trained, or LoRA of rank 16 in all layers of the blocks. Every case has its own process, and so
its own peak memory. The processes take turns, and what counts are ratios of medians within one run.
A real token is one that is not padding. Each case divides its real tokens by its own time, from the
end of one step to the end of the next.

"padded alike" has the same rows in the same batches for both, each batch padded to its longest row.
"buckets" groups rows of about the same length; for TRL this is `group_by_length`. "packing" puts
several conversations, invisible to each other, into a row of up to 1,024 tokens, with about as many
tokens per step. TRL's packing needs a kernel that a CPU does not have. TRL computes without
checkpointing, and with the fused loss that it calls "nll", which keeps no logits, like ours. "TRL,
its own defaults" has its default checkpointing on (but `bf16=False`, since the comparison is in
float32).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from results import record
from training_step import peak_memory

import llm_scratch as ls
from llm_scratch.conversations.encoding import encode_conversation
from llm_scratch.conversations.formats import find_format
from llm_scratch.conversations.readers import read_conversations
from llm_scratch.finetuning.conversation_rows import encoded_row, packed_conversations
from llm_scratch.text.corpora import find_data
from llm_scratch.text.token_rows import IGNORE_INDEX, TokenRows

OURS, TRL = "ours", "TRL"
CASES = (
    f"{TRL}, padded alike",
    f"{OURS}, padded alike",
    f"{TRL}, buckets",
    f"{OURS}, buckets",
    f"{OURS}, packing",
    f"{TRL}, its own defaults",
)
KINDS = ("full", "LoRA")
BATCH, LENGTH, RANK, RATE = 4, 1024, 16, 2e-5
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--steps", type=int, default=6, help="timed steps per turn, after one for warm-up"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--turn", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.case:
        print(json.dumps(run_case(args)))
        return
    print(f"{platform.machine()}, PyTorch {torch.__version__}, {args.threads} threads")
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for kind in args.kinds:
            report(kind, measure(kind, folder, args), args.rounds)


def prepare(folder: Path) -> None:
    """Write the rows, and the model for transformers."""
    opened = ls.open_model("smollm2")
    form = find_format("chatml")
    conversations, _ = read_conversations(find_data("conversations.jsonl"))
    rows = []
    for conversation in conversations:
        row = encoded_row(encode_conversation(conversation, form, opened.tokenizer))
        if len(row[0]) <= LENGTH:
            rows.append(row)
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    ls.export_huggingface(opened.model, folder / "model", opened.tokenizer)
    lengths = sorted(len(ids) for ids, _ in rows)
    learned = sum(target != IGNORE_INDEX for _, targets in rows for target in targets)
    print(
        f"{len(rows)} conversations of {lengths[0]} to {lengths[-1]} tokens, {sum(lengths):,} in "
        f"all, {learned / sum(lengths):.0%} learned"
    )


def measure(kind: str, folder: str, args: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Return what every case's process reports in each round; rounds start with different cases."""
    found: dict[str, list[dict[str, float]]] = {case: [] for case in args.cases}
    names = list(args.cases)
    for turn in range(args.rounds):
        start = turn % len(names)
        for case in names[start:] + names[:start]:
            command = [sys.executable, __file__, "--folder", folder, "--case", case,
                       "--kinds", kind, "--steps", str(args.steps), "--turn", str(turn),
                       "--threads", str(args.threads)]  # fmt: skip
            child = subprocess.run(command, capture_output=True, encoding="utf-8")
            if child.returncode:
                sys.exit(child.stderr)
            found[case].append(json.loads(child.stdout.splitlines()[-1]))
            print(f"{kind}, round {turn + 1}, {case}: {found[case][-1]}", flush=True)
    return found


def report(kind: str, found: dict[str, list[dict[str, float]]], rounds: int) -> None:
    """Print and record medians, and their ratios to TRL's rows padded alike."""
    medians = {
        case: {key: statistics.median(each[key] for each in runs) for key in runs[0]}
        for case, runs in found.items()
    }
    base = medians.get(CASES[0])
    print(f"\n## {kind}\n\n| case | real tokens/s | x TRL, padded alike | peak MB | loss |")
    print("|---|---|---|---|---|")
    for case, values in medians.items():
        ratio = f"{values['rate'] / base['rate']:.2f}" if base else ""
        print(
            f"| {case} | {values['rate']:.1f} | {ratio} | {values['peak']:,.0f} "
            f"| {values['loss']:.3f} |"
        )
    for what, key, unit in (("", "rate", "real tokens/s"), (", peak of memory", "peak", "MB")):
        cases = {name: values[key] for name, values in medians.items()}
        pairs = [(own, peer) for peer in cases if "TRL" in peer for own in cases if OURS in own]
        work = f"fine-tuning SmolLM2-135M on chats, {kind}{what}"
        record(work, cases, pairs, unit=unit, rounds=rounds, less=key == "peak")


def run_case(args: argparse.Namespace) -> dict[str, float]:
    """Train for a few steps; return real tokens per second, peak memory and the first loss."""
    rows = json.loads((Path(args.folder) / "rows.json").read_text(encoding="utf-8"))
    who, _, how = args.case.partition(", ")
    run = ours if who == OURS else theirs
    return run(rows, how, args.kinds[0], args) | {"peak": peak_memory()}


def ours(rows: Any, how: str, kind: str, args: argparse.Namespace) -> dict[str, float]:
    """Train with the steps of this library's loop, with its batches."""
    from llm_scratch.lora.layers import replace_linear_with_lora
    from llm_scratch.training.allocator import keep_freed_memory
    from llm_scratch.training.optimizers import build_optimizers
    from llm_scratch.training.steps import Engine, take_step

    keep_freed_memory()
    model = ls.open_model("smollm2").model
    if kind == "LoRA":
        replace_linear_with_lora(model, RANK, RANK, targets="trf_blocks", freeze_base=True)
    engine = Engine(model, build_optimizers(model, RATE, weight_decay=0.0), torch.device("cpu"))
    vocab_size = model.cfg.vocab_size
    data = TokenRows(rows, pad_id=0, vocab_size=vocab_size, buckets=how == "buckets")
    batches: Any = data
    per_step = BATCH
    if how == "packing":
        batches = packed_conversations(data, LENGTH)
        per_step = max(1, round(BATCH * float(data.lengths.mean()) / LENGTH))
    order = order_of(len(rows), args.turn)
    losses, ends, tokens = [], [], []
    for step in range(args.steps + 1):
        if how == "padded alike":
            batch = data.padded(order[BATCH * step : BATCH * (step + 1)])
        else:
            batch = batches.batch(args.turn, step, per_step, LENGTH)
        losses.append(take_step(engine, [batch], RATE, 1.0, step).loss)
        ends.append(time.perf_counter())
        tokens.append(real_tokens(batch[1]))
    return {"rate": sum(tokens[1:]) / (ends[-1] - ends[0]), "loss": losses[0]}


def real_tokens(targets: torch.Tensor) -> int:
    """Return the number of tokens that are not padding: those up to each row's last target."""
    return int((targets != IGNORE_INDEX).flip(1).cumsum(1).gt(0).sum())


def order_of(n: int, turn: int) -> list[int]:
    """Return the order of the rows in a turn, the same for both libraries."""
    generator = torch.Generator().manual_seed(turn)
    return torch.randperm(n, generator=generator).tolist()


def theirs(rows: Any, how: str, kind: str, args: argparse.Namespace) -> dict[str, float]:
    """Train with `SFTTrainer`, with a clock at the end of every step."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from transformers.utils import logging
    from trl import SFTConfig, SFTTrainer

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    ends: list[float] = []
    tokens: list[int] = []
    losses: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_log(self, arguments: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
            if "loss" in logs:
                losses.append(logs["loss"])

    class Counted(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            tokens.append(real_tokens(inputs["labels"][:, 1:]))
            return super().training_step(model, inputs, *rest, **named)

    folder = Path(args.folder) / "model"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    data = [rows[i] for i in order_of(len(rows), args.turn)]
    peft_config = None
    if kind == "LoRA":
        from peft import LoraConfig

        peft_config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LAYERS)
    Counted(
        model=model,
        args=SFTConfig(**settings_of(how, args)),
        train_dataset=Dataset.from_list([as_theirs(*row) for row in data]),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=peft_config,
        callbacks=[Clock()],
    ).train()
    return {"rate": sum(tokens[1:]) / (ends[-1] - ends[0]), "loss": losses[0]}


def settings_of(how: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of `SFTTrainer`; all others are its defaults."""
    settings = {
        "output_dir": str(Path(args.folder) / "trl"),
        "per_device_train_batch_size": BATCH,
        "max_steps": args.steps + 1,
        "max_length": LENGTH + 1,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "optim": "adamw_torch_fused",
        "train_sampling_strategy": "group_by_length" if how == "buckets" else "sequential",
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "seed": args.turn,
    }
    return settings if how == "its own defaults" else settings | {"gradient_checkpointing": False}


def as_theirs(ids: list[int], targets: list[int]) -> dict[str, list[int]]:
    """Return a row for transformers: labels are the ids themselves; transformers shifts them."""
    return {"input_ids": [*ids, targets[-1]], "labels": [IGNORE_INDEX, *targets]}


if __name__ == "__main__":
    main()
