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
    parser.add_argument("model", metavar="MODEL", help="gpt2, smollm2, or a config.json")
    group = parser.add_argument_group("the step")
    words = "LIST" if lists else "N"
    add_option(
        group, f"--batch {words}", "rows of a micro batch, on each process", "1" if lists else 1
    )
    add_option(group, f"--length {words}", "tokens of a row", usual="the model's context length")
    group.add_argument("--precision", choices=NUMBERS, default="float32")
    group.add_argument("--weights", choices=NUMBERS, default="float32")
    group.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw")
    add_option(group, "--lora RANK", "LoRA", usual="none")
    add_option(group, "--last-blocks N", "blocks at the end that learn", usual="all")
    add_option(group, "--accumulation N", "micro batches", 1)
    add_option(group, "--checkpoint-blocks N", "blocks", 0)
    group.add_argument("--attention", choices=ATTENTIONS, default="fused")
    group.add_argument("--loss-chunk", type=or_none(int), default=CHUNK, metavar="N")
    add_division(parser)
    parser.add_argument("--device", default="auto", metavar="NAME")


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
