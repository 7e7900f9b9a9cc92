"""A training step without memory: tensors that have a shape but no numbers, on a CPU.

The step is the library's own (`take_step` and the code it calls), at full size; one process stands
for all.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from llm_scratch.memory.building import let_learn, objective_of, settings_of
from llm_scratch.memory.processes import first_of, send_nowhere
from llm_scratch.memory.step import TrainingStep
from llm_scratch.model.families import empty_model
from llm_scratch.training.distributed import ONE, Ranks
from llm_scratch.training.head_loss import without_numbers
from llm_scratch.training.objective import Batch
from llm_scratch.training.starting import build_engine
from llm_scratch.training.steps import Engine, take_step

CPU = torch.device("cpu")
RATE, CLIP = 1e-3, 1.0


@dataclass
class ImaginedStep:
    """A step that can be taken: the engine, and the micro batches it reads.

    Args:
        engine: the library's own, with a model of the step's size.
        batches: ids and targets that have only a shape.
    """

    engine: Engine
    batches: Sequence[Batch]

    def take(self) -> None:
        """Take the step as a run does: gradients, clipping, the optimizers' update."""
        take_step(self.engine, self.batches, RATE, CLIP, 0)


@contextmanager
def imagined(step: TrainingStep) -> Iterator[ImaginedStep]:
    """Return a context in which a step can be taken without memory for its tensors.

    Every target counts, and experts get equal shares of the tokens.

    Raises:
        ValueError: if the step is for another engine, or this process is already one of several.
    """
    if step.engine != "ours":
        raise ValueError(f"engine={step.engine!r} can't be tracked; this library's own steps can")
    from torch._subclasses.fake_tensor import FakeTensorMode

    with ExitStack() as stack:
        ranks = stack.enter_context(first_of(step.ranks))
        stack.enter_context(FakeTensorMode())
        stack.enter_context(_Answers(getattr(step.cfg, "num_experts", 0)))
        if step.attention == "by-hand":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        with warnings.catch_warnings():  # about a tied head without LoRA, and about waiting times
            warnings.simplefilter("ignore")
            engine = engine_of(step, ranks)
        if hasattr(engine.module, "reducer"):
            send_nowhere(engine.module)
        ids = torch.zeros(step.rows, step.tokens_a_row, dtype=torch.long)
        batches = [(ids.clone(), ids.clone()) for _ in range(step.accumulation)]
        yield ImaginedStep(engine, batches)


def engine_of(step: TrainingStep, ranks: Ranks = ONE) -> Engine:
    """Return the engine of a step, as a run on a CPU builds it; its weights are not set."""
    model, settings = _model_of(step), settings_of(step)
    return build_engine(model, settings, objective_of(step), ranks, step.division, CPU)


def _model_of(step: TrainingStep) -> Any:
    with _default_numbers(getattr(torch, step.weights)):
        model = empty_model(step.cfg)
        let_learn(model, step)
    return model


@contextmanager
def _default_numbers(dtype: torch.dtype) -> Iterator[None]:
    """Return a context that creates parameters in a type, which can't change afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class _Answers(TorchDispatchMode):
    """A mode that supplies the values that code reads from tensors without numbers.

    Integers are 1 and floats 0 (which is finite). `nonzero` finds every element not 0, and every
    expert gets the same share of the tokens.
    """

    def __init__(self, experts: int) -> None:
        super().__init__()
        self._experts = experts
        self._next = iter(range(0))  # integers to answer first: the numbers of the experts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not (args and isinstance(args[0], Tensor) and without_numbers(args[0])):
            return func(*args, **(kwargs or {}))
        asked, aten = args[0], torch.ops.aten
        if func is aten._local_scalar_dense.default:
            return 0.0 if asked.is_floating_point() else next(self._next, 1)
        if func is aten._unique2.default:  # of the experts, whose numbers are read next
            self._next, empty = iter(range(self._experts)), asked.new_empty(0)
            return asked.new_empty(self._experts), empty, empty
        if func is aten.nonzero.default:
            count = asked.numel()
            if asked.dim() == 2:  # the tokens of an expert, and which of their choices it is
                count = -(-count // self._experts)
            return asked.new_empty(count, asked.dim(), dtype=torch.long)
        return func(*args, **(kwargs or {}))
