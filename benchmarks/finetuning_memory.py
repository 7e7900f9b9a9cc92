"""The peak memory of tuning GPT-2 124M: all parameters against LoRA, in one run.

    python benchmarks/finetuning_memory.py            about 5 minutes on two cores
    python benchmarks/finetuning_memory.py --small    a tiny model, to try the script

All cases have the same batch, 8 rows of 80 tokens as in chapter 7, an untied head as there,
float32, AdamW, and a few steps of `train`, the loop for real runs. Each case runs in its own
process, whose peak the system reports. A case that only builds the model shows what training adds.

Memory holds the weights, in every case; gradients and AdamW's two averages, each as large as the
trained parameters; and every layer's activations for the backward pass. The last are the same with
LoRA, since the gradient has to pass through all layers. Recomputing blocks in the backward pass
(`checkpoint_blocks=1`) removes most of them in both cases.

Ids and weights are random, because the memory of a step does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from typing import Any

from results import record

CASES = {
    "built": "the model alone",
    "full": "all parameters",
    "lora": "LoRA in the blocks",
    "lora-head": "LoRA everywhere, as in the book",
    "full-again": "all parameters, blocks computed again",
    "lora-again": "LoRA in the blocks, computed again",
}
RATIOS = (("lora", "full"), ("lora-head", "full"), ("lora-again", "full-again"))
BAR = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=80)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each case")
    parser.add_argument("--tied", action="store_true", help="tie the head to the embedding")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try the script")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if min(args.batch, args.length, args.rank, args.steps, args.rounds) < 1:
        parser.error("batch, length, rank, steps and rounds must be 1 or more")
    if args.case:
        print(json.dumps(run_case(args)))
        return
    turns: dict[str, list[dict]] = {case: [] for case in CASES}
    for _ in range(args.rounds):
        for case, name in CASES.items():
            turns[case].append(run_child(case))
            print(f"{name}: {turns[case][-1]['peak_mb']:,.0f} MB", flush=True)
    results = {case: middle_of(found) for case, found in turns.items()}
    report(results)
    peaks = {name: results[case]["peak_mb"] for case, name in CASES.items()}
    pairs = [(CASES[case], CASES[other]) for case, other in RATIOS]
    work = f"tuning GPT-2 124M, {args.batch}x{args.length}, peak of memory"
    record(work, peaks, pairs, unit="MB", rounds=args.rounds, less=True)


def middle_of(turns: list[dict]) -> dict:
    """Return a case's result with the medians of its turns."""
    numbers = ("peak_mb", "seconds")
    return turns[0] | {key: statistics.median(turn[key] for turn in turns) for key in numbers}


def run_child(case: str) -> dict:
    """Run one case in its own process and return its result."""
    command = [sys.executable, __file__, *sys.argv[1:], "--case", case]
    child = subprocess.run(command, capture_output=True, encoding="utf-8")
    if child.returncode:
        sys.exit(f"{case} failed:\n{child.stderr}")
    return json.loads(child.stdout.splitlines()[-1])


def report(results: dict[str, dict]) -> None:
    """Print a table of peaks, and the ratios that count."""
    print(f"\n{platform.machine()}, Python {platform.python_version()}, {results['full']['on']}")
    print("| trained | parameters | peak MB | above the model alone | s/step |")
    print("|---|---|---|---|---|")
    alone = results["built"]["peak_mb"]
    for case, name in CASES.items():
        run = results[case]
        print(
            f"| {name} | {run['learning']:,} | {run['peak_mb']:,.0f} | "
            f"{run['peak_mb'] - alone:,.0f} | {run['seconds']:.2f} |"
        )
    for case, other in RATIOS:
        ratio = results[case]["peak_mb"] / results[other]["peak_mb"]
        print(f"{CASES[case]} / {CASES[other]}: {ratio:.2f} (bar: at most {BAR})")


def run_case(args: argparse.Namespace) -> dict:
    """Take the steps of one case in this process."""
    import torch

    from llm_scratch.lora.layers import replace_linear_with_lora
    from llm_scratch.model.config import gpt2_config
    from llm_scratch.model.gpt import GPTModel
    from llm_scratch.training.reporting import memory_in_use

    torch.manual_seed(123)
    options: dict[str, Any] = {**gpt2_config("124M"), "tie_weights": args.tied}
    model = GPTModel(options | ({"emb_dim": 64, "n_heads": 4, "n_layers": 2} if args.small else {}))
    if args.case.startswith("lora"):
        targets = None if args.case == "lora-head" else "trf_blocks"
        replace_linear_with_lora(model, args.rank, args.rank, targets=targets, freeze_base=True)
    seconds = 0.0 if args.case == "built" else train_a_little(args, model)
    return {
        "peak_mb": memory_in_use(torch.device("cpu")) / 1e6,
        "learning": 0 if args.case == "built" else model.num_parameters(trainable_only=True),
        "seconds": seconds,
        "on": f"torch {torch.__version__}, {torch.get_num_threads()} threads",
    }


def train_a_little(args: argparse.Namespace, model: Any) -> float:
    """Take some steps of the loop for real runs; return the seconds per step."""
    import torch

    from llm_scratch.text.token_rows import TokenRows
    from llm_scratch.training.config import TrainConfig
    from llm_scratch.training.loop import train

    ids = torch.randint(model.cfg.vocab_size, (args.batch * args.steps, args.length + 1)).tolist()
    data = TokenRows(
        [(row[:-1], row[1:]) for row in ids], pad_id=0, vocab_size=model.cfg.vocab_size
    )
    config = TrainConfig(
        steps=args.steps,
        micro_batch=args.batch,
        length=args.length,
        precision="float32",
        checkpoint_blocks=int(args.case.endswith("again")),
        loss_chunk=256,
        log_every=0,
    )
    start = time.perf_counter()
    train(model, data, config, log=lambda line: None)
    return (time.perf_counter() - start) / args.steps


if __name__ == "__main__":
    main()
