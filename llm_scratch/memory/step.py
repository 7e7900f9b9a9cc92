"""The settings of a training step on which its memory depends, in one frozen object.

PyTorch is not imported here: an estimate takes no longer than Python takes to start.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from llm_scratch.checks import check_count
from llm_scratch.training.config import CHUNK, OPTIMIZERS, OptimizerName
from llm_scratch.training.division import WHOLE, Division

Numbers = Literal["float32", "bfloat16", "float16"]
NUMBERS: tuple[str, ...] = get_args(Numbers)
Engine = Literal["ours", "deepspeed"]
ENGINES: tuple[str, ...] = get_args(Engine)
Attention = Literal["fused", "by-hand"]
ATTENTIONS: tuple[str, ...] = get_args(Attention)
DEVICES = ("cpu", "cuda")
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class TrainingStep:
    """The settings that determine the memory of one step.

    Args:
        cfg: the model's configuration, of any family.
        rows: rows of a micro batch, on each process.
        length: tokens of a row; None is the model's context length.
        precision: the type of products; below float32, autocast with float32 weights.
        weights: the type of the parameters, of their gradients and of the optimizer's state.
        optimizer: "adamw" or "muon".
        lora_rank: the rank of LoRA on every linear layer, with all else frozen; None trains
            without LoRA.
        last_blocks: how many blocks at the end learn, with the final norm and the head; None: all.
        accumulation: micro batches per step.
        checkpoint_blocks: 1 keeps only the input of every block, k that of every k-th; 0: off.
        attention: "fused" keeps no T x T matrix, "by-hand" all of them.
        loss_chunk: tokens whose logits exist at a time; None: all tokens.
        ranks: the number of processes.
        division: what each process holds.
        device: "cpu" or "cuda".
        engine: "ours", or "deepspeed" for DeepSpeed's ZeRO.

    Raises:
        ValueError: if a number is out of range, or two options contradict each other.
    """

    cfg: Any
    rows: int = 1
    length: int | None = None
    precision: Numbers = "float32"
    weights: Numbers = "float32"
    optimizer: OptimizerName = "adamw"
    lora_rank: int | None = None
    last_blocks: int | None = None
    accumulation: int = 1
    checkpoint_blocks: int = 0
    attention: Attention = "fused"
    loss_chunk: int | None = CHUNK
    ranks: int = 1
    division: Division = field(default=WHOLE)
    device: str = "cuda"
    engine: Engine = "ours"

    def __post_init__(self) -> None:
        for name in ("rows", "accumulation", "ranks"):
            check_count(name, getattr(self, name))
        for name in ("length", "lora_rank", "last_blocks", "loss_chunk"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        check_count("checkpoint_blocks", self.checkpoint_blocks, 0)
        for name, known in (("precision", NUMBERS), ("weights", NUMBERS), ("engine", ENGINES),
                            ("optimizer", OPTIMIZERS), ("attention", ATTENTIONS),
                            ("device", DEVICES)):  # fmt: skip
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}; there are {', '.join(known)}")
        if self.tokens_a_row > self.cfg.context_length:
            raise ValueError(
                f"length={self.length} is above the model's context length of "
                f"{self.cfg.context_length}; shorten it"
            )
        self._check_pairs()
        self.division.check(self.ranks)
        parts = self.ranks if self.division.mesh is None else self.division.mesh[1]
        if self.division.shard == "full" and parts > self.cfg.emb_dim:
            raise ValueError(
                f"{parts} are more processes than the model's width of {self.cfg.emb_dim} can be "
                "divided among; take fewer, or copies of it (--mesh)"
            )

    def _check_pairs(self) -> None:
        if self.lora_rank is not None and self.last_blocks is not None:
            raise ValueError("lora_rank and last_blocks both say what learns; give one of them")
        for name, limit in (("last_blocks", self.cfg.n_layers),
                            ("checkpoint_blocks", self.cfg.n_layers)):  # fmt: skip
            if (getattr(self, name) or 0) > limit:
                raise ValueError(f"{name}={getattr(self, name)}, the model has {limit} blocks")
        if self.weights != "float32" and self.precision not in ("float32", self.weights):
            raise ValueError(
                f"weights of {self.weights} compute in {self.weights}, not in {self.precision}"
            )

    @property
    def tokens_a_row(self) -> int:
        """T, the tokens per row."""
        return self.length or self.cfg.context_length

    @property
    def tokens(self) -> int:
        """The tokens of a micro batch of one process."""
        return self.rows * self.tokens_a_row

    @property
    def compute_type(self) -> str:
        """The type of the products."""
        return self.precision if self.weights == "float32" else self.weights
