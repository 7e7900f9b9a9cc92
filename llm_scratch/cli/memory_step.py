"""The options of a step of training, which the commands of `llm-scratch memory` share."""

from __future__ import annotations

import argparse
from typing import Any

from llm_scratch.cli.options import add_option
from llm_scratch.cli.processes import add_division, division_of
from llm_scratch.cli.settings import or_none
from llm_scratch.memory.step import ATTENTIONS, DEVICES, ENGINES, NUMBERS, TrainingStep
from llm_scratch.training.config import CHUNK, OPTIMIZERS

MODEL = (
    "sizes by name, such as gpt2-xl, llama3-8b, qwen3-0.6b, smollm2 or preset:small, or the path "
    "of a run, a folder or a config.json; weights are not required"
)


def add_step(
    parser: argparse.ArgumentParser, *, lists: bool = False, described: bool = False
) -> None:
    """Add MODEL and the options of its step.

    Args:
        parser: the parser to add them to.
        lists: whether several lengths and batches are allowed.
        described: whether the step is taken elsewhere, on processes, a device and an engine that
            are options.
    """
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    group = parser.add_argument_group("the step")
    words = "LIST" if lists else "N"
    add_option(group, f"--batch {words}", "rows per micro batch, on each process",
               "1" if lists else 1)  # fmt: skip
    add_option(group, f"--length {words}", "tokens per row", usual="the model's context length")
    group.add_argument("--precision", choices=NUMBERS, default="float32",
                       help="number format of matrix products; below float32 by autocast; default: "
                            "float32")  # fmt: skip
    weights = (*NUMBERS, "int8") if described else NUMBERS
    more = " (int8: with --generate)" if described else ""
    group.add_argument("--weights", choices=weights, default="float32",
                       help=f"number format of parameters, gradients and optimizer state{more}; "
                            "default: float32")  # fmt: skip
    group.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw",
                       help="muon updates the matrices of the blocks, and adamw the rest; "
                            "default: adamw")  # fmt: skip
    add_option(group, "--lora RANK", "train LoRA matrices of this rank",
               usual="the model's own layers")  # fmt: skip
    add_option(group, "--last-blocks N", "train only the last N blocks, with norm and head",
               usual="all")  # fmt: skip
    add_option(group, "--accumulation N", "micro batches per update", 1)
    add_option(group, "--checkpoint-blocks N", "compute every N-th block again in the backward "
               "pass instead of keeping its activations (0: none)", 0)  # fmt: skip
    group.add_argument("--attention", choices=ATTENTIONS, default="fused",
                       help="fused keeps no attention scores, by-hand keeps all; default: "
                            "fused")  # fmt: skip
    group.add_argument("--loss-chunk", type=or_none(int), default=CHUNK, metavar="N",
                       help="tokens whose logits are in memory at a time (none: all); "
                            f"default: {CHUNK}")  # fmt: skip
    if described:
        _add_described(parser)
    else:
        add_division(parser.add_argument_group("several processes"))
        parser.add_argument("--device", default="auto", metavar="NAME",
                            help="cpu, cuda or auto; default: auto, which is cuda if available, "
                                 "else cpu")  # fmt: skip


def _add_described(parser: argparse.ArgumentParser) -> None:
    """Add the processes, device and engine that would take the step."""
    group = parser.add_argument_group("where it is taken")
    group.add_argument("--gpus", "--processes", dest="ranks", type=int, default=1, metavar="N",
                       help="processes, one on each GPU; default: 1")  # fmt: skip
    add_division(group)
    group.add_argument("--device", choices=DEVICES, default="cuda",
                       help="device whose kernels are counted; default: cuda")  # fmt: skip
    group.add_argument("--engine", choices=ENGINES, default="ours",
                       help="engine that divides and updates: this library, or deepspeed (ZeRO); "
                            "default: ours")  # fmt: skip


def step_of(args: argparse.Namespace, **more: Any) -> TrainingStep:
    """Return the step that the options describe.

    Args:
        args: of a command with `add_step`.
        more: arguments of `TrainingStep` that replace those of the command line.

    Raises:
        ValueError: if such a step is impossible.
    """
    from llm_scratch.memory.models import model_config

    return TrainingStep(model_config(args.model), **{**options_of(args), **more})


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `TrainingStep` that the command line states."""
    given = vars(args)
    options = {
        "rows": args.batch, "length": args.length, "precision": args.precision,
        "weights": args.weights, "optimizer": args.optimizer, "lora_rank": args.lora,
        "last_blocks": args.last_blocks, "accumulation": args.accumulation,
        "checkpoint_blocks": args.checkpoint_blocks, "attention": args.attention,
        "loss_chunk": args.loss_chunk, "division": division_of(args),
    }  # fmt: skip
    if "engine" in given:
        options |= {name: given[name] for name in ("ranks", "device", "engine")}
    return options
