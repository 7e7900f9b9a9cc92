"""Optimizers for real runs: AdamW in one fused kernel, or Muon for the matrices of the blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from llm_scratch.tensor_files.stored import is_dense
from llm_scratch.training.config import OPTIMIZERS, OptimizerName
from llm_scratch.training.sharding import local

FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


def parameter_groups(model: nn.Module, weight_decay: float = 0.1) -> list[dict[str, Any]]:
    """Return two groups for an optimizer: parameters with weight decay, and those without.

    Matrices and embeddings decay; biases and the scales and shifts of layer norms do not. A tied
    parameter is listed once, a frozen one not at all; an empty group is left out.

    Raises:
        ValueError: if nothing is left to train, or a parameter's numbers have gaps in memory,
            for which the fused kernels would silently compute wrong updates.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise ValueError("no parameter of the model is trainable; requires_grad is False for all")
    for name, parameter in trained.items():
        if not is_dense(local(parameter)):
            raise ValueError(
                f"{name} of shape {tuple(parameter.shape)} has strides {parameter.stride()}, which "
                "leave gaps in memory; replace it by its clone() in contiguous form"
            )
    decayed = [p for p in trained.values() if p.dim() >= 2]
    others = [p for p in trained.values() if p.dim() < 2]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def describe_groups(groups: Sequence[dict[str, Any]]) -> str:
    """Return a line with each group's number of tensors and of parameters, and its weight decay."""
    return "; ".join(
        f"{len(group['params'])} tensors, {sum(p.numel() for p in group['params']):,} numbers, "
        f"weight decay {group['weight_decay']:g}"
        for group in groups
    )


def build_optimizers(
    model: nn.Module,
    learning_rate: float,
    *,
    name: OptimizerName = "adamw",
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    divided: bool = False,
) -> list[torch.optim.Optimizer]:
    """Return the optimizers that together train every trainable parameter once.

    "adamw" is one AdamW, fused where the device supports that. "muon" adds Muon for the weight
    matrices of the blocks, with AdamW for everything else (embeddings, head, biases, norms). With
    `divided`, each process of a run updates a share of the parameters and holds only the optimizer
    state of that share (ZeRO-1).

    Raises:
        ValueError: as `parameter_groups`, if the name is not known, or if "muon" finds no matrices.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer={name!r} is not known; there are {', '.join(OPTIMIZERS)}")
    groups = parameter_groups(model, weight_decay)
    fused = all(p.device.type in FUSED_DEVICES for group in groups for p in group["params"])
    options: dict[str, Any] = {"lr": learning_rate, "betas": betas, "eps": eps, "fused": fused}
    make = _divided if divided else _whole
    if name == "adamw":
        return [make(torch.optim.AdamW, groups, **options)]
    from llm_scratch.training.muon import Muon

    blocks: Any = getattr(model, "trf_blocks", nn.Module())
    matrices = [p for p in blocks.parameters() if p.dim() == 2 and p.requires_grad]
    if not matrices:
        raise ValueError('the model has no matrices in blocks for "muon"; take "adamw"')
    inside = {id(p) for p in matrices}
    for group in groups:
        group["params"] = [p for p in group["params"] if id(p) not in inside]
    muon = make(Muon, matrices, lr=learning_rate, weight_decay=weight_decay)
    return [muon, make(torch.optim.AdamW, [g for g in groups if g["params"]], **options)]


def _whole(kind: Any, parameters: Any, **options: Any) -> torch.optim.Optimizer:
    return kind(parameters, **options)


def _divided(kind: Any, parameters: Any, **options: Any) -> torch.optim.Optimizer:
    """Return an optimizer that updates this process's share of the parameters and broadcasts it."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(parameters, optimizer_class=kind, **options)


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], rate: float) -> None:
    """Set the learning rate of every group."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
