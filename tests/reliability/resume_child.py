"""Trains in the folders whose names come in, each in a process of its own that may be killed.

One process imports everything and forks for each run, which takes milliseconds instead of the
seconds that a new Python would import for. For each line it prints the number of the process,
and after another line, once the process has ended, its exit code.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings

import numpy as np
import torch

from llm_scratch.model.gpt import GPTModel
from llm_scratch.text.token_parts import TokenPart
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.loop import train

CONFIG = TrainConfig(
    steps=40,
    micro_batch=2,
    accumulation=2,
    learning_rate=3e-3,
    eval_every=7,
    eval_batches=None,
    save_every=3,
    keep_last=2,
    log_every=0,
)


def one_run(folder: str) -> None:
    """Start or go on with the run in a folder; an epoch is 9 steps and a bit."""
    tokens = np.cumsum(np.random.default_rng(0).integers(0, 3, 700)) % 50
    train_part, val_part = (TokenPart.from_tokens(part, 50) for part in np.split(tokens, [600]))
    torch.manual_seed(1)
    sizes = {"vocab_size": 50, "context_length": 16, "emb_dim": 16, "n_heads": 2, "n_layers": 2}
    model = GPTModel({**sizes, "drop_rate": 0.1, "tie_weights": True})
    train(model, train_part, CONFIG, validation=val_part, folder=folder, resume=True)


def main() -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)  # a process with threads can't be forked
    torch.optim.AdamW([torch.zeros(1)])  # imports for a second when the first one is made
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 1
            try:
                one_run(line.rstrip("\n"))
                code = 0
            except Exception:
                traceback.print_exc(file=sys.stdout)
            finally:
                sys.stdout.flush()
                os._exit(code)
        print(f"started {child}", flush=True)
        # Until somebody asks, the number stays this child's, so that nobody else is killed.
        sys.stdin.readline()
        _, status = os.waitpid(child, 0)
        print(f"ended {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    main()
