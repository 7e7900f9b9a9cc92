"""The figures that don't come out yet, and those that can't come out on this kind of machine.

Nothing else excuses a figure from being computed. An entry of `OPEN` names what ends it when it
arrives, as MODULE:NAME: from then on a test fails until the figures have functions and the entry is
gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Open:
    """Figures that are still to come: a pattern of ids, why, and what will bring them."""

    pattern: str
    why: str
    until: str


OPEN: tuple[Open, ...] = ()

APPLE = "from a run on an Apple GPU, whose dropout draws other numbers than a CPU's"
CUDA = "the end of a run of GPT-2 355M on a CUDA GPU, whose last digits depend on the machine"
JUDGE = "from Llama 3 as a judge, which answers at an Ollama server only, and never the same twice"

ELSEWHERE = {
    "ch02.bonus05.vocab": "from a BPE that has the mark for blanks as a token of its own",
    "ch02.bonus05.ids_test": "from a BPE whose alphabet and merges are not GPT-2's",
    "ch04.dummy.logits.old_linux_windows": "older builds of PyTorch drew another dropout mask",
    "ch04.bonus02.flops.*": "counted by the package thop, which also counts its own way",
    "ch03.mh_nb.*": "its sample text is not among the book's data files",
    "ch05.train.log": APPLE,
    "ch05.train.final": APPLE,
    "ch05.train.greedy25": APPLE,
    "ch05.generate.topk25_t1.4": APPLE,
    "appD.grad.max_before": APPLE,
    "appD.grad.max_after": APPLE,
    "appD.train.log": APPLE,
    "appD.train.final": APPLE,
    "appE.train.log": APPLE,
    "appE.train.epoch_accuracy_pct": APPLE,
    "ch06.ex6.*": "accuracy after a training run whose last digits depend on the machine",
    "ch07.responses.first3": "answers after a run of GPT-2 355M, whose words depend on the machine",
    "ch07.load.passive": "an answer of the book's own tuned file of 1.6 GB, which is not published",
    "ch07.script.cpu_losses": "from a script that drew its batches in another order than the book",
    "ch07.score.*": JUDGE,
    "ch07.ex7.?.score": JUDGE,
    "ch07.ex7.?.losses": CUDA,
    "ch07.ex7.3.alpaca": "days of training on 52,000 instructions that are not part of the book",
    "ch05.download.file_sizes": "sizes of files on OpenAI's server; tests reach no network",
}


def open_because(id: str) -> str:
    """Return why a figure is open, "" if it isn't."""
    return next((entry.why for entry in OPEN if fnmatchcase(id, entry.pattern)), "")


def elsewhere_because(id: str) -> str:
    """Return why a figure can't come out here, "" if it can."""
    return next((why for pattern, why in ELSEWHERE.items() if fnmatchcase(id, pattern)), "")
