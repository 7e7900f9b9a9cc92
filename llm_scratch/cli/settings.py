"""What each setting of a model and of a run does, in the words of the help."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from llm_scratch.training.config import OPTIMIZERS
from llm_scratch.training.schedules import SCHEDULES

CHOICES = {"Schedule": SCHEDULES, "OptimizerName": OPTIMIZERS}


class Setting(NamedTuple):
    """The help of one setting.

    Args:
        about: what it does.
        usual: its default in words, where that is neither a number nor a word to give.
    """

    about: str
    usual: str = ""


SIZES = {
    "emb_dim": Setting("numbers in the vector of a token"),
    "n_layers": Setting("transformer blocks"),
    "n_heads": Setting("attention heads of a block"),
    "context_length": Setting("tokens that the model sees at once"),
    "drop_rate": Setting("share of the numbers that dropout sets to 0 in training"),
}
LLAMA_SIZES = {
    "hidden_dim": Setting("llama: width of the gated networks"),
    "n_kv_groups": Setting("llama: keys and values that the heads of a block share"),
}
# All settings of a run but its precision, which is an option that other commands have too.
SETTINGS = {
    "steps": Setting("updates of the weights"),
    "micro_batch": Setting("rows in memory at a time"),
    "length": Setting("tokens of a row", "the model's context length"),
    "tokens_per_step": Setting(
        "tokens of an update, read in as many micro batches as it takes", "one micro batch"
    ),
    "accumulation": Setting(
        "micro batches of an update", "1, or what the tokens of an update need"
    ),
    "learning_rate": Setting("learning rate at its peak"),
    "min_learning_rate": Setting("learning rate of the last step", "a tenth of the peak"),
    "warmup_steps": Setting("steps in which the learning rate rises", "a twentieth of the run"),
    "schedule": Setting("how the learning rate falls after its peak"),
    "decay_share": Setting("last part of the run, in which a constant learning rate falls"),
    "optimizer": Setting("muon is for the matrices of the blocks, with adamw for the rest"),
    "weight_decay": Setting("decay of matrices and embeddings"),
    "beta1": Setting("decay rate of the mean of the gradients in adamw"),
    "beta2": Setting("decay rate of the mean of their squares in adamw"),
    "clip": Setting("largest norm of all gradients together (none: no limit)"),
    "compile": Setting("compile the model: a slow start, then faster steps"),
    "checkpoint_blocks": Setting(
        "compute every N-th block twice instead of keeping what it needs: less memory, more time "
        "(0: none)"
    ),
    "loss_chunk": Setting("tokens whose logits are in memory at a time"),
    "seed": Setting("decides first weights, order of the data, and dropout"),
    "eval_every": Setting("steps from one evaluation to the next"),
    "eval_batches": Setting("micro batches that an evaluation reads (none: all)", "all"),
    "patience": Setting("end the run after N evaluations without a lower loss", "never"),
    "save_every": Setting("steps from one checkpoint to the next"),
    "keep_last": Setting("how many checkpoints are kept"),
    "sample_every": Setting("steps from one sample of text to the next (0: never)"),
    "sample_prompt": Setting("what samples begin with", "a line break"),
    "sample_tokens": Setting("tokens of a sample"),
    "log_every": Setting("steps from one line of the log to the next (0: never)"),
    "log_memory": Setting("write the memory of each stage of a step into the run's log"),
    "tune_allocator": Setting("keep freed memory for the next step (Linux, on a CPU)"),
}


def add_settings(
    group: Any, kind: type, settings: Mapping[str, Setting], defaults: Mapping[str, str]
) -> None:
    """Add an option for each setting of a dataclass; one that is left out is not in the result.

    Args:
        group: the parser or group that gets them.
        kind: the dataclass, whose types the options have.
        settings: what is said of them.
        defaults: what is shown as their defaults.
    """
    types = {field.name: str(field.type) for field in fields(kind)}
    for name, setting in settings.items():
        about = f"{setting.about}; default: {defaults[name]}"
        group.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS,
                           help=about.replace("%", "%%"), **_taken(types[name]))  # fmt: skip


def _taken(type_name: str) -> dict[str, Any]:
    """Return what argparse needs to read a value of this type."""
    kind, _, optional = type_name.partition(" | ")
    if kind == "bool":
        return {"action": argparse.BooleanOptionalAction}
    if kind in CHOICES:
        return {"choices": CHOICES[kind]}
    convert, metavar = {"int": (int, "N"), "float": (float, "X"), "str": (str, "TEXT")}[kind]
    return {"type": or_none(convert) if optional else convert, "metavar": metavar}


def or_none(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a converter that takes the word "none" too."""

    def converted(word: str) -> Any:
        return None if word.lower() == "none" else convert(word)

    converted.__name__ = convert.__name__  # what argparse calls the type in its message
    return converted


def shown_defaults(configs: Mapping[str, Any], settings: Mapping[str, Setting]) -> dict[str, str]:
    """Return how each setting's default is shown: what most of the presets have, then the others.

    Args:
        configs: by the preset's name; "250 (tiny 50)" is one default and the preset without it.
        settings: the settings to show.
    """
    shown = {}
    for name, setting in settings.items():
        values = {preset: _shown(getattr(c, name), setting) for preset, c in configs.items()}
        usual, count = Counter(values.values()).most_common(1)[0]
        listed = ", ".join(f"{p} {v}" for p, v in values.items() if count == 1 or v != usual)
        if len(values) == 1 or not listed:
            shown[name] = usual
        else:
            shown[name] = listed if count == 1 else f"{usual} ({listed})"
    return shown


def _shown(value: Any, setting: Setting) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, int | float) else setting.usual or str(value)
