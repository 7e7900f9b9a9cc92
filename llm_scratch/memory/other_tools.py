"""The figures of other tools, by version: DeepSpeed's estimators, `accelerate estimate-memory`.

Both count a model as transformers' `AutoModel` builds it, without its output head.

Source:
    DeepSpeed 0.14.2 and 0.19.2, `runtime/zero/stage3.py` and `stage_1_and_2.py`, functions
    `estimate_zero3_model_states_mem_needs` and `estimate_zero2_model_states_mem_needs`;
    accelerate 1.15.0, `commands/estimate.py` and `utils/modeling.calculate_maximum_sizes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from llm_scratch.memory.terms import Letters
from llm_scratch.model.config import GPTConfig
from llm_scratch.model.families import parameter_shapes
from llm_scratch.model.llama_config import LlamaConfig

GIB = 2**30
HOST_FACTOR = 1.5  # DeepSpeed's additional_buffer_factor
LEFT_OUT = {
    "deepspeed": (
        "activations and logits, whatever the batch and the length",
        "buckets, gathered weights beyond the largest layer, and fragmented memory",
        "the output head, which AutoModel does not have",
    ),
    "accelerate": (
        "activations, logits, batch and length",
        "dividing among processes, checkpointing, LoRA",
        "the output head, which AutoModel does not have",
        "for training, the sum: it is the largest of weights, gradients, optimizer and step",
    ),
}
"""The items that each tool leaves out."""

VERSIONS = {"deepspeed": ("0.14.2", "0.19.2"), "accelerate": ("1.15.0",)}
"""The versions whose formulas are known; DeepSpeed's for ZeRO-2 changed between the two."""


@dataclass(frozen=True)
class Counted:
    """A model as other tools count it.

    Args:
        total: the number of parameters.
        largest: the number of parameters in the largest layer.
    """

    total: int
    largest: int


@dataclass(frozen=True)
class OtherRow:
    """A row of another tool's table.

    Args:
        what: the setting.
        host: bytes of the host's memory; None if the tool does not say.
        device: bytes of each GPU.
        formula: the formula of `device`.
    """

    what: str
    host: float | None
    device: float
    formula: str


def without_head(cfg: Any) -> Counted:
    """Return the parameters of a model without its output head, and of its largest layer."""
    shapes = parameter_shapes(cfg)
    shapes.pop("out_head.weight")
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        layer = name.rpartition(".")[0]
        if isinstance(cfg, GPTConfig) and ".att.W_" in name:  # one layer in transformers
            layer = f"{name.partition('.W_')[0]}.c_attn"
        sizes[layer] = sizes.get(layer, 0) + prod(shape)
    if isinstance(cfg, GPTConfig) and not cfg.qkv_bias:  # transformers' GPT-2 always has these
        for number in range(cfg.n_layers):
            sizes[f"trf_blocks.{number}.att.c_attn"] += 3 * cfg.emb_dim
    return Counted(sum(sizes.values()), max(sizes.values()))


def deepspeed_table(
    model: Any, gpus: int = 1, nodes: int = 1, version: str = "0.14.2", stage: int = 3
) -> list[OtherRow]:
    """Return what DeepSpeed's estimators print for a stage of ZeRO.

    Args:
        model: a configuration, or the result of `without_head`.
        gpus: GPUs of each node.
        nodes: the number of nodes.
        version: DeepSpeed's version.
        stage: 2 or 3.

    Raises:
        ValueError: if version or stage is not known.
    """
    if version not in VERSIONS["deepspeed"]:
        raise ValueError(f"DeepSpeed {version!r}: {' and '.join(VERSIONS['deepspeed'])} are known")
    if stage not in (2, 3):
        raise ValueError(f"{stage=}: DeepSpeed estimates ZeRO-2 and ZeRO-3")
    counted = model if isinstance(model, Counted) else without_head(model)
    letters = Letters({"P": counted.total, "X": counted.largest, "R": gpus * nodes})
    if stage == 2:
        return list(_zero2(counted.total, letters, gpus, nodes, version))
    return list(_zero3(counted, letters, gpus, nodes))


def _zero3(counted: Counted, letters: Letters, gpus: int, nodes: int) -> Iterator[OtherRow]:
    """Yield the six rows of ZeRO-3; "init" is zero.Init, which divides a model as it is built."""
    total, largest = counted.total, counted.largest
    share = 1 / nodes  # one node's share
    for params, optimizer, formula in (
        ("cpu", "cpu", "4 X"), ("none", "cpu", "4 X + 2 P / R"), ("none", "none", "4 X + 18 P / R"),
    ):  # fmt: skip
        for init in (1, 0):
            if params == "cpu":
                needed = 18 * share if init else max(4 * gpus, 18 * share)
                host = total * needed * HOST_FACTOR
            elif optimizer == "cpu":
                needed = 16 * share if init else max(4 * gpus, 16 * share)
                host = total * needed * HOST_FACTOR
            else:
                host = (largest if init else total) * 4 * gpus * HOST_FACTOR
            what = f"offload_param={params}, offload_optimizer={optimizer}, zero_init={init}"
            yield OtherRow(what, host, letters.value(formula), formula)


def _zero2(total: int, letters: Letters, gpus: int, nodes: int, version: str) -> Iterator[OtherRow]:
    """Yield the two rows of ZeRO-2."""
    offloaded = "2 P"
    host = total * max(4 * gpus * nodes, 16) * HOST_FACTOR
    yield OtherRow("offload_optimizer=cpu", host, letters.value(offloaded), offloaded)
    whole = "4 P + 16 P / R" if version == "0.14.2" else "2 P + 18 P / R"
    host = total * 4 * gpus * HOST_FACTOR
    yield OtherRow("offload_optimizer=none", host, letters.value(whole), whole)


def accelerate_table(model: Any) -> list[dict[str, Any]]:
    """Return what `accelerate estimate-memory` prints, in bytes.

    Training is the largest of weights, gradients, states and step, as in version 1.15.0; None
    where the tool prints "N/A".

    Args:
        model: a configuration, or the result of `without_head`.
    """
    total, largest = _of_accelerate(model)
    rows = []
    for dtype, parts in (("float32", 1), ("float16", 2), ("int8", 4), ("int4", 8)):
        training: float | None = None
        if dtype == "float32":
            training = max(total, total, 2 * total, 4 * total)
        elif dtype == "float16":
            training = max(total, total + total // 2, 2 * total)
        rows.append({"dtype": dtype, "largest": largest / parts, "total": total / parts,
                     "training": training})  # fmt: skip
    return rows


def _of_accelerate(model: Any) -> tuple[int, int]:
    """Return the float32 bytes of a model, and of its largest layer as accelerate finds it."""
    if isinstance(model, Counted):
        return 4 * model.total, 4 * model.largest
    counted = without_head(model)
    turns = 4 * model.head_dim if isinstance(model, LlamaConfig) else 0  # RoPE's, kept twice
    return 4 * counted.total + turns, 4 * counted.largest


def accelerate_size(size: float) -> str:
    """Return a size as accelerate writes it, "12.5 KB" for 12,800 bytes (units of 1,024)."""
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if size < 1024.0:
            return f"{round(size, 2)} {unit}"
        size /= 1024.0
    return f"{round(size, 2)} PB"


@dataclass(frozen=True)
class Like:
    """Another tool's figures.

    Args:
        tool: its name.
        version: its version.
        counted: what the tool counts as the model, in words.
        tables: heading and rows of each table; the first row names the columns.
        left_out: what the tool does not count, one item each.
    """

    tool: str
    version: str
    counted: str
    tables: tuple[tuple[str, list[list[str]]], ...]
    left_out: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        tables = {heading: [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
                  for heading, rows in self.tables}  # fmt: skip
        return {"tool": self.tool, "version": self.version, "counted": self.counted,
                "tables": tables, "left_out": list(self.left_out)}  # fmt: skip


def like(tool: str, model: Any, gpus: int = 1, version: str | None = None) -> Like:
    """Return the figures that another tool gives for a model.

    Args:
        tool: "deepspeed" or "accelerate".
        model: a configuration.
        gpus: GPUs of one machine.
        version: the tool's version; None is the oldest known one.

    Raises:
        ValueError: if tool or version is not known.
    """
    if tool not in VERSIONS:
        raise ValueError(f"{tool=} is not known; there are {', '.join(VERSIONS)}")
    version = VERSIONS[tool][0] if version is None else version
    if version not in VERSIONS[tool]:
        raise ValueError(f"of {tool}, {' and '.join(VERSIONS[tool])} are known, not {version!r}")
    counted = without_head(model)
    words = (f"{counted.total / 1e6:,.0f}M parameters without the output head, "
             f"{counted.largest / 1e6:,.0f}M in the largest layer")  # fmt: skip
    if tool == "deepspeed":
        tables = tuple(_deepspeed_tables(counted, gpus, version))
    else:
        tables = (("loading and training", _accelerate_rows(model)),)
    return Like(tool, version, words, tables, LEFT_OUT[tool])


def _deepspeed_tables(
    counted: Counted, gpus: int, version: str
) -> Iterator[tuple[str, list[list[str]]]]:
    for stage in (3, 2):
        rows = [["setting", "each host, GiB", "each GPU, GiB", "bytes of a GPU"]]
        for row in deepspeed_table(counted, gpus, version=version, stage=stage):
            host = "" if row.host is None else f"{row.host / GIB:.2f}"
            rows.append([row.what, host, f"{row.device / GIB:.2f}", row.formula])
        yield f"ZeRO-{stage}, {gpus} GPUs of one node", rows


def _accelerate_rows(model: Any) -> list[list[str]]:
    rows = [["dtype", "Largest Layer", "Total Size", "Training using Adam"]]
    for row in accelerate_table(model):
        training = row["training"]
        trained = "N/A" if training is None else accelerate_size(training)
        sizes = (accelerate_size(row["largest"]), accelerate_size(row["total"]))
        rows.append([row["dtype"], *sizes, trained])
    return rows
