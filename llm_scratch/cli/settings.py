"""The help text of each setting of a model and of a run."""

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
        usual: its default in words, where that is neither a number nor a word that can be given.
    """

    about: str
    usual: str = ""


SIZES = {
    "emb_dim": Setting("numbers in each token's vector"),
    "n_layers": Setting("number of transformer blocks"),
    "n_heads": Setting("attention heads per block"),
    "context_length": Setting("tokens that the model sees at once"),
    "drop_rate": Setting("share of the activations that dropout sets to 0 in training"),
}
LLAMA_SIZES = {
    "hidden_dim": Setting("llama: width of the gated feed-forward networks"),
    "n_kv_groups": Setting("llama: sets of keys and values per block, shared by its heads"),
}
# All settings of a run except its precision, an option that other commands have too.
SETTINGS = {
    "steps": Setting("number of weight updates"),
    "micro_batch": Setting("rows in memory at a time"),
    "length": Setting("tokens per row", "the model's context length"),
    "tokens_per_step": Setting(
        "tokens per update, read in as many micro batches as needed", "one micro batch"
    ),
    "accumulation": Setting("micro batches per update", "1, or as many as --tokens-per-step needs"),
    "learning_rate": Setting("peak learning rate"),
    "min_learning_rate": Setting("learning rate at the last step", "a tenth of the peak"),
    "warmup_steps": Setting("steps over which the learning rate rises", "a twentieth of the run"),
    "schedule": Setting("how the learning rate falls after its peak"),
    "decay_share": Setting("final share of the run, over which a constant learning rate falls"),
    "optimizer": Setting("muon updates the matrices of the blocks, and adamw the rest"),
    "weight_decay": Setting("weight decay of matrices and embeddings"),
    "beta1": Setting("adamw's decay rate for the running mean of gradients"),
    "beta2": Setting("adamw's decay rate for the running mean of squared gradients"),
    "clip": Setting("largest norm of all gradients taken together (none: no limit)"),
    "compile": Setting("compile the model: a slow start, then faster steps"),
    "checkpoint_blocks": Setting(
        "compute every N-th block again in the backward pass instead of keeping its activations: "
        "less memory, more time (0: none)"
    ),
    "loss_chunk": Setting("tokens whose logits are in memory at a time"),
    "seed": Setting("determines initial weights, order of the data, and dropout"),
    "eval_every": Setting("steps between evaluations"),
    "eval_batches": Setting("micro batches per evaluation (none: all)", "all"),
    "patience": Setting("end the run after N evaluations without a lower loss", "never"),
    "save_every": Setting("steps between checkpoints"),
    "keep_last": Setting("number of checkpoints to keep"),
    "sample_every": Setting("steps between samples of text (0: never)"),
    "sample_prompt": Setting("text that samples begin with", "a line break"),
    "sample_tokens": Setting("tokens per sample"),
    "log_every": Setting("steps between lines of the log (0: never)"),
    "log_memory": Setting("write the memory of each stage of a step into the run's log"),
    "tune_allocator": Setting("keep freed memory for the next step (Linux, on a CPU)"),
}


def add_settings(
    group: Any, kind: type, settings: Mapping[str, Setting], defaults: Mapping[str, str]
) -> None:
    """Add an option for each setting of a dataclass; one that is not given is not in the result.

    Args:
        group: the parser or group to add them to.
        kind: the dataclass, whose types the options have.
        settings: the help of each.
        defaults: the default of each, as shown.
    """
    types = {field.name: str(field.type) for field in fields(kind)}
    for name, setting in settings.items():
        about = f"{setting.about}; default: {defaults[name]}"
        group.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS,
                           help=about.replace("%", "%%"), **_taken(types[name]))  # fmt: skip


def _taken(type_name: str) -> dict[str, Any]:
    """Return the arguments that let argparse read a value of this type."""
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
    """Return each setting's default as shown: that of most presets, then the exceptions.

    Args:
        configs: by the preset's name; "250 (tiny 50)" is one default and the exception to it.
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
