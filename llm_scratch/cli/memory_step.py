"""The options of a step of training, which the commands of `llm-scratch memory` share."""

from __future__ import annotations

import argparse
from typing import Any

from llm_scratch.cli.options import add_option
from llm_scratch.cli.processes import add_division, division_of
from llm_scratch.cli.settings import or_none
from llm_scratch.memory.models import model_config
from llm_scratch.memory.step import ATTENTIONS, NUMBERS, TrainingStep
from llm_scratch.training.config import CHUNK, OPTIMIZERS


def add_step(parser: argparse.ArgumentParser, *, lists: bool = False) -> None:
    """Add MODEL and what its step is like; `lists` takes several lengths and batches."""
    parser.add_argument("model", metavar="MODEL",
                        help="a name, as gpt2 or smollm2; the path of a run, a folder or a "
                             "config.json; or preset:NAME")  # fmt: skip
    group = parser.add_argument_group("the step")
    words, one = ("LIST", "1") if lists else ("N", 1)
    add_option(group, f"--batch {words}", "rows of a micro batch, on each process", one)
    add_option(group, f"--length {words}", "tokens of a row", usual="the model's context length")
    group.add_argument("--precision", choices=NUMBERS, default="float32",
                       help="numbers of the products; default: float32")  # fmt: skip
    group.add_argument("--weights", choices=NUMBERS, default="float32",
                       help="numbers of parameters, gradients and the optimizer's state; default: "
                            "float32")  # fmt: skip
    group.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw",
                       help="muon is for the matrices of the blocks, with adamw for the rest; "
                            "default: adamw")  # fmt: skip
    add_option(group, "--lora RANK", "train LoRA matrices of this rank alone", usual="none")
    add_option(group, "--last-blocks N", "train the last N blocks, norm and head", usual="all")
    add_option(group, "--accumulation N", "micro batches of an update", 1)
    add_option(group, "--checkpoint-blocks N", "compute every N-th block twice instead of keeping "
               "what it needs (0: none)", 0)  # fmt: skip
    group.add_argument("--attention", choices=ATTENTIONS, default="fused",
                       help="fused keeps no scores, by-hand all of them; default: "
                            "fused")  # fmt: skip
    group.add_argument("--loss-chunk", type=or_none(int), default=CHUNK, metavar="N",
                       help="tokens whose logits are there at a time (none: all); default: "
                            f"{CHUNK}")  # fmt: skip
    group = parser.add_argument_group("several processes")
    add_division(group)
    parser.add_argument("--device", default="auto", metavar="NAME",
                        help="cpu, cuda or auto; default: auto, which is cuda where there is "
                             "one")  # fmt: skip


def step_of(args: argparse.Namespace, **more: Any) -> TrainingStep:
    """Return the step that is asked for."""
    options = {
        "rows": args.batch, "length": args.length, "precision": args.precision,
        "weights": args.weights, "optimizer": args.optimizer, "lora_rank": args.lora,
        "last_blocks": args.last_blocks, "accumulation": args.accumulation,
        "checkpoint_blocks": args.checkpoint_blocks, "attention": args.attention,
        "loss_chunk": args.loss_chunk, "division": division_of(args),
    }  # fmt: skip
    return TrainingStep(model_config(args.model), **{**options, **more})
