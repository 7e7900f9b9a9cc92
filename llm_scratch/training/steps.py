"""One step of a run: a function of the model, the optimizers, the data and the step number."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from llm_scratch.model.modes import evaluation_mode
from llm_scratch.model.wrappers import unwrapped
from llm_scratch.training.config import CHUNK
from llm_scratch.training.distributed import ONE, Ranks
from llm_scratch.training.objective import Batch, Objective, count_targets
from llm_scratch.training.optimizers import set_learning_rate
from llm_scratch.training.precision import make_scaler
from llm_scratch.training.sharding import local, sharded_norm, synchronised
from llm_scratch.training.step_loss import StepLoss

MOST_SKIPPED = 50
CPU = torch.device("cpu")


class NonFiniteError(ArithmeticError, ValueError):
    """An infinite or NaN loss or gradient, from which no run recovers."""


def unmarked(stage: str) -> None:
    """Record nothing at a stage of a step."""


class Update(NamedTuple):
    """The outcome of a step: loss in nats per target, gradient norm, and number of targets."""

    loss: float
    norm: float
    targets: int


@dataclass
class Engine:
    """The parts that compute the steps of a run.

    Args:
        model: a `GPTModel` on `device`.
        optimizers: made from the model's parameters.
        device: the device to compute on.
        dtype: the type of the matrix products.
        scaler: the gradient scaler for float16; the default does nothing.
        chunk: tokens whose logits are in memory at a time.
        objective: a loss other than that of the next token.
        ranks: the processes that compute a step together.
        module: the callable model with its loss: usually a `StepLoss`, wrapped if there are
            several processes (see `sharding.divided`).
        mark: called with the name of each stage of a step (`memory_log.STAGES`).
    """

    model: Any
    optimizers: Sequence[torch.optim.Optimizer]
    device: torch.device
    dtype: torch.dtype = torch.float32
    scaler: torch.amp.GradScaler = field(default_factory=partial(make_scaler, CPU, torch.float32))
    chunk: int = CHUNK
    objective: Objective | None = None
    ranks: Ranks = ONE
    module: Any = None
    mark: Callable[[str], object] = unmarked
    skipped: int = 0

    def __post_init__(self) -> None:
        if self.module is None:
            self.module = StepLoss(self.model, self.dtype, self.chunk, self.objective)

    @property
    def place(self) -> dict[str, Any]:
        """The device, the type of the matrix products, and the number of processes."""
        return {
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "processes": self.ranks.count,
        }

    def count(self, batch: Batch) -> int:
        """Return the count that a batch's losses are averaged over: usually that of its targets."""
        return (count_targets if self.objective is None else self.objective.count)(batch)

    def loss(self, batch: Batch, divisor: float) -> Tensor:
        """Return the sum of a batch's losses over `divisor`: a scalar."""
        batch = tuple(part.to(self.device, non_blocking=True) for part in batch)
        return self.module(batch, divisor)


def take_step(engine: Engine, batches: Sequence[Batch], rate: float, clip: float | None,
              seed: int) -> Update:  # fmt: skip
    """Update the parameters once.

    Args:
        engine: model and optimizers.
        batches: the micro batches of the step; their losses are summed and divided by their total
            number of targets, so that any partition gives the same gradient.
        rate: the learning rate.
        clip: the largest gradient norm; None means no limit.
        seed: the seed for dropout; the global generators are left as found.

    Raises:
        NonFiniteError: before any parameter changes, if the loss or norm is infinite or NaN.
        ValueError: if no target counts.
    """
    engine.model.train()
    with seeded(seed, engine.device):
        loss, count = compute_gradients(engine, batches)
    if not math.isfinite(loss):
        raise NonFiniteError(_complaint(engine.model, f"the loss is {loss}, at a {rate=:g}"))
    norm = _update(engine, rate, clip)
    for optimizer in engine.optimizers:
        optimizer.zero_grad(set_to_none=True)
    return Update(loss, norm, count)


def compute_gradients(engine: Engine, batches: Sequence[Batch]) -> tuple[float, int]:
    """Accumulate a step's gradients; return its loss in nats per target and its target count.

    Both numbers cover all processes. As the gradients are averaged over processes, each divides
    its sum of losses by the targets per process.

    Raises:
        ValueError: if no target of the step counts.
    """
    ranks = engine.ranks
    rows = sum(len(batch[0]) for batch in batches)
    count, rows = map(int, ranks.sum(sum(map(engine.count, batches)), rows))
    if not count:
        raise ValueError(f"all targets of the {rows} rows of this step are masked; it has no loss")
    total = torch.zeros((), device=engine.device)
    for number, batch in enumerate(batches, 1):
        with synchronised(engine.module, number == len(batches)):
            engine.mark("before forward")
            loss = engine.loss(batch, count / ranks.count)
            engine.mark("after forward")
            scaled = engine.scaler.scale(loss)
            engine.mark("before backward")
            scaled.backward()
            engine.mark("after backward")
        total += loss.detach()
    return ranks.sum(total.item())[0] / ranks.count, count


def _update(engine: Engine, rate: float, clip: float | None) -> float:
    """Clip, set the rate and let the optimizers step; return the norm before clipping."""
    scaler = engine.scaler
    for optimizer in engine.optimizers:
        scaler.unscale_(optimizer)
    groups = [group for optimizer in engine.optimizers for group in optimizer.param_groups]
    gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
    norm = sharded_norm(gradients)
    if not math.isfinite(norm):
        engine.skipped += 1
        if not scaler.is_enabled() or engine.skipped > MOST_SKIPPED:
            reason = f"the norm of the gradient is {norm}, at a {rate=:g}"
            raise NonFiniteError(_complaint(engine.model, reason))
    else:
        engine.skipped = 0
        if clip is not None and norm > clip:
            torch._foreach_mul_([local(g) for g in gradients], clip / (norm + 1e-6))
    set_learning_rate(engine.optimizers, rate)
    engine.mark("before step")
    for optimizer in engine.optimizers:
        scaler.step(optimizer)  # skips the update if gradients are infinite or NaN
    engine.mark("after step")
    scaler.update()
    return norm


def first_bad_tensor(model: nn.Module) -> str:
    """Return the name of the first parameter or gradient that is not finite; "" without one."""
    parameters = list(model.named_parameters())
    tensors = parameters + [(f"the gradient of {name}", p.grad) for name, p in parameters]
    for name, tensor in tensors:
        if tensor is not None and not bool(torch.isfinite(local(tensor)).all()):
            return name
    return ""


def _complaint(model: nn.Module, reason: str) -> str:
    bad = first_bad_tensor(model)
    where = f"the first bad tensor is {bad}" if bad else "all parameters are finite"
    return f"{reason}; {where}; a lower learning rate or a longer warm-up may help"


@torch.no_grad()
def evaluate(engine: Engine, batches: Iterable[Batch]) -> float:
    """Return the mean loss over batches, in nats per target, without dropout or random draws.

    Raises:
        ValueError: if there is no target.
    """
    total, count = 0.0, 0.0
    with evaluation_mode(engine.model):
        for batch, is_own in shared_out(batches, engine.ranks):
            loss = engine.loss(batch, 1.0).item()  # all processes call the model equally often
            if is_own:
                total, count = total + loss, count + engine.count(batch)
    total, count = engine.ranks.sum(total, count)
    if not count:
        raise ValueError("the validation part gives no batch; use more text or a shorter length")
    return total / count


def shared_out(batches: Iterable[Batch], ranks: Ranks) -> Iterator[tuple[Batch, bool]]:
    """Yield the batches that one process computes, and whether each counts for this process.

    If the batches do not divide evenly, several processes compute the last one, but it counts once.
    """
    if ranks.count == 1:
        yield from ((batch, True) for batch in batches)
        return
    together: list[Batch] = []
    for batch in batches:
        together.append(batch)
        if len(together) == ranks.count:
            yield together[ranks.rank], True
            together = []
    if together:
        yield together[min(ranks.rank, len(together) - 1)], ranks.rank < len(together)


def compile_model(engine: Engine, batch: Batch, log: Callable[[str], object]) -> None:
    """Compile the model for an engine's steps and try it on a batch; on failure, log and undo."""
    step_loss: Any = unwrapped(engine.module)  # it may be wrapped for data parallelism
    step_loss.hidden_states = torch.compile(engine.model.hidden_states)
    try:
        with seeded(0, engine.device):
            engine.loss(batch, 1.0).backward()
    except (RuntimeError, OSError, ImportError) as err:
        reason = str(err).partition("\n")[0][:200]
        log(f"torch.compile does not work here ({reason}); continuing without it")
        step_loss.hidden_states = None
    finally:
        engine.model.zero_grad(set_to_none=True)


def seed_of(seed: int, step: int, rank: int = 0) -> int:
    """Return a seed for one step of one process, distinct from all others."""
    digest = hashlib.blake2b(f"{seed} {step} {rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Return a context with global generators that start at `seed` and are restored after it."""
    is_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if is_cuda else []):
        torch.default_generator.manual_seed(seed)
        if is_cuda:
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        yield
