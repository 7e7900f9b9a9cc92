"""The numbers in parameters, gradients and the optimizers' state, and which process holds them.

Source:
    Rajbhandari et al. 2020, arXiv:1910.02054, section 5, for what each stage divides.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from llm_scratch.memory.step import TrainingStep
from llm_scratch.model.families import parameter_shapes

HEAD, EMBEDDING = "out_head.weight", "tok_emb.weight"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Parameters:
    """The parameters of a model in training, by name.

    Args:
        shapes: the shapes of all; a tied head is the embedding.
        learning: the names of those that learn.
        blocks: the number of blocks.
        tied: whether the head is the embedding.
    """

    shapes: dict[str, Shape]
    learning: frozenset[str]
    blocks: int
    tied: bool

    @property
    def count(self) -> int:
        """The number of parameters."""
        return sum(map(prod, self.shapes.values()))

    @property
    def learned(self) -> int:
        """The number of parameters that learn."""
        return self.learned_of("")

    def learned_of(self, prefix: str) -> int:
        """Return how many of the parameters whose names begin with a prefix learn."""
        return sum(prod(self.shapes[name]) for name in self.learning if name.startswith(prefix))

    def of_block(self, number: int) -> int:
        """Return how many parameters learn in a block."""
        return self.learned_of(f"trf_blocks.{number}.")

    @property
    def head_learns(self) -> bool:
        """Whether the head's own matrix learns."""
        return (EMBEDDING if self.tied else HEAD) in self.learning

    @property
    def first_block(self) -> int:
        """The first block that gradients pass through; the number of blocks if there is none."""
        if EMBEDDING in self.learning or "pos_emb.weight" in self.learning:
            return 0
        numbers = [int(name.split(".")[1]) for name in self.learning if name.startswith("trf_")]
        return min(numbers, default=self.blocks)


def parameters_of(step: TrainingStep) -> Parameters:
    """Return a model's parameters, with LoRA's, and which of them learn."""
    cfg: Any = step.cfg
    shapes = dict(parameter_shapes(cfg))
    if cfg.tie_weights:
        del shapes[HEAD]
    if step.lora_rank is not None:
        thin = _lora_shapes(shapes, step.lora_rank)
        return Parameters(shapes | thin, frozenset(thin), cfg.n_layers, cfg.tie_weights)
    learning = set(shapes)
    if step.last_blocks is not None:
        first = cfg.n_layers - step.last_blocks
        ends = ("final_norm.", EMBEDDING if cfg.tie_weights else HEAD)
        parts = tuple(f"trf_blocks.{n}." for n in range(first, cfg.n_layers)) + ends
        learning = {name for name in shapes if name.startswith(parts)}
    return Parameters(shapes, frozenset(learning), cfg.n_layers, cfg.tie_weights)


def is_matrix(name: str, shape: Shape) -> bool:
    """Return whether a parameter is the matrix of a linear layer."""
    return len(shape) == 2 and "_emb." not in name and ".lora" not in name


def _lora_shapes(shapes: dict[str, Shape], rank: int) -> dict[str, Shape]:
    """Return the shapes of LoRA's matrices for every linear layer, by name."""
    found: dict[str, Shape] = {}
    for name, shape in shapes.items():
        if is_matrix(name, shape):
            layer = name.removesuffix(".weight")
            found |= {f"{layer}.lora.A": (shape[1], rank), f"{layer}.lora.B": (rank, shape[0])}
    return found


def matrices_of_block(parameters: Parameters) -> int:
    """Return how many numbers the matrices of a block have, without LoRA's."""
    return sum(
        prod(shape)
        for name, shape in parameters.shapes.items()
        if name.startswith("trf_blocks.0.") and is_matrix(name, shape)
    )


def numbers_in(parameters: Parameters, prefix: str) -> int:
    """Return the number of parameters whose names begin with a prefix."""
    return sum(prod(shape) for name, shape in parameters.shapes.items() if name.startswith(prefix))


def muon_groups(parameters: Parameters) -> dict[Shape, int]:
    """Return how many matrices of each shape Muon works on together."""
    found: dict[Shape, int] = {}
    for name, shape in parameters.shapes.items():
        if name in parameters.learning and name.startswith("trf_blocks.") and len(shape) == 2:
            found[shape] = found.get(shape, 0) + 1
    return found


def rows_of_a_part(shape: Shape, parts: int) -> int:
    """Return how many numbers of a parameter the first of several processes holds (FSDP2)."""
    return -(-shape[0] // parts) * prod(shape[1:])


def largest_share(sizes: list[int], ranks: int) -> int:
    """Return the most numbers a process updates if each parameter goes to the least loaded one.

    Source:
        `torch.distributed.optim.ZeroRedundancyOptimizer`, which takes the largest first.
    """
    loads = [0] * ranks
    for size in sorted(sizes, reverse=True):
        place = loads.index(min(loads))
        loads[place] += size
    return max(loads)
