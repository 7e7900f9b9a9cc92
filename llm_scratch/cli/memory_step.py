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
    "sizes by name, as gpt2-xl, llama3-8b, qwen3-0.6b, smollm2 or preset:small, or the path of a "
    "run, a folder or a config.json; no weights are needed"
)


def add_step(
    parser: argparse.ArgumentParser, *, lists: bool = False, described: bool = False
) -> None:
    """Add MODEL and what its step is like.

    Args:
        parser: gets the options.
        lists: take several lengths and batches.
        described: the step is not taken here: processes, device and engine are options.
    """
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    group = parser.add_argument_group("the step")
    words = "LIST" if lists else "N"
    add_option(group, f"--batch {words}", "rows of a micro batch, on each process",
               "1" if lists else 1)  # fmt: skip
    add_option(group, f"--length {words}", "tokens of a row", usual="the model's context length")
    group.add_argument("--precision", choices=NUMBERS, default="float32",
                       help="numbers of the products; below float32 by autocast; default: "
                            "float32")  # fmt: skip
    weights = (*NUMBERS, "int8") if described else NUMBERS
    more = " (int8: with --generate)" if described else ""
    group.add_argument("--weights", choices=weights, default="float32",
                       help=f"numbers of parameters, gradients and the optimizer's state{more}; "
                            "default: float32")  # fmt: skip
    group.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw",
                       help="muon is for the matrices of the blocks, with adamw for the rest; "
                            "default: adamw")  # fmt: skip
    add_option(group, "--lora RANK", "train LoRA matrices of this rank",
               usual="the model's own layers")  # fmt: skip
    add_option(group, "--last-blocks N", "only so many blocks at the end learn, with norm and head",
               usual="all")  # fmt: skip
    add_option(group, "--accumulation N", "micro batches of an update", 1)
    add_option(group, "--checkpoint-blocks N", "compute every N-th block twice instead of keeping "
               "what it needs (0: none)", 0)  # fmt: skip
    group.add_argument("--attention", choices=ATTENTIONS, default="fused",
                       help="fused keeps no scores, by-hand all of them; default: "
                            "fused")  # fmt: skip
    group.add_argument("--loss-chunk", type=or_none(int), default=CHUNK, metavar="N",
                       help="tokens whose logits are in memory at a time (none: those of all); "
                            f"default: {CHUNK}")  # fmt: skip
    if described:
        _add_described(parser)
    else:
        add_division(parser.add_argument_group("several processes"))
        parser.add_argument("--device", default="auto", metavar="NAME",
                            help="cpu, cuda or auto; default: auto, which is cuda where there is "
                                 "one, else cpu")  # fmt: skip


def _add_described(parser: argparse.ArgumentParser) -> None:
    """Add where the step would be taken."""
    group = parser.add_argument_group("where it is taken")
    group.add_argument("--gpus", "--processes", dest="ranks", type=int, default=1, metavar="N",
                       help="processes, one on each GPU; default: 1")  # fmt: skip
    add_division(group)
    group.add_argument("--device", choices=DEVICES, default="cuda",
                       help="whose kernels are counted; default: cuda")  # fmt: skip
    group.add_argument("--engine", choices=ENGINES, default="ours",
                       help="what divides and updates: this library, or deepspeed (ZeRO); "
                            "default: ours")  # fmt: skip


def step_of(args: argparse.Namespace, **more: Any) -> TrainingStep:
    """Return the step that is asked for.

    Args:
        args: of a command with `add_step`.
        more: arguments of `TrainingStep` that take the place of the command line's.

    Raises:
        ValueError: if there can be no such step.
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
