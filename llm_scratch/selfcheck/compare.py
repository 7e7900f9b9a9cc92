"""Comparison of a reader's results with the right ones, in numbers a learner can read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.outcome import MistakeError

Mistakes = Mapping[str, Tensor | Iterable[Tensor]]
"""The results of usual mistakes: hint -> the result, or results."""

RTOL, ATOL = 1e-4, 1e-5


def call(name: str, function: Callable[..., Any], args: tuple, signature: str) -> Any:
    """Call a reader's function or class as the book does, positionally.

    Args:
        name: its name in the book.
        function: the reader's.
        args: the arguments.
        signature: the book's, for the message if the reader's differs.
    """
    try:
        own = inspect.signature(function)
    except (TypeError, ValueError):  # perhaps a builtin; the call will show
        return function(*args)
    try:
        own.bind(*args)
    except TypeError as error:
        raise MistakeError(
            f"{name}{signature}", f"{name}{_plain(own)}: {error}", hints.SIGNATURE
        ) from None
    return function(*args)


def _plain(signature: inspect.Signature) -> str:
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    return str(inspect.Signature(parameters))


def must(condition: bool, expected: str, came: str, hint: str = "") -> None:
    """Report a mistake unless the condition holds."""
    if not condition:
        raise MistakeError(expected, came, hint)


def must_be_tensor(
    came: object, shape: Iterable[int], hint: str = hints.SHAPE, nan_allowed: bool = False
) -> Tensor:
    """Return `came` if it is a tensor of this shape, without NaN."""
    shape = tuple(shape)
    if not isinstance(came, Tensor):
        raise MistakeError(f"a tensor of shape {shape}", f"{type(came).__name__}", hints.NOT_TENSOR)
    if tuple(came.shape) != shape:
        raise MistakeError(f"the shape {shape}", f"{tuple(came.shape)}", hint)
    if not nan_allowed and came.is_floating_point() and bool(came.isnan().any()):
        raise MistakeError("numbers", "NaN (not a number) among them", hints.NAN)
    return came


def must_equal(
    came: object,
    expected: Tensor,
    mistakes: Mistakes | None = None,
    hint: str = "",
    atol: float = ATOL,
) -> None:
    """Compare a result with the right values, and with the results of usual mistakes.

    Args:
        came: the reader's result.
        expected: the right one.
        mistakes: hint -> the result (or results) of a usual mistake.
        hint: where to look if no usual mistake explains the result.
        atol: absolute tolerance.
    """
    if isinstance(came, Tensor) and came.shape == expected.shape:
        came = came.detach().to(expected.dtype)
        if is_close(came, expected, atol):
            return
        for explanation, results in (mistakes or {}).items():
            for result in [results] if isinstance(results, Tensor) else results:
                if is_close(came, result, atol):
                    raise MistakeError(*show(expected, came), explanation)
    came = must_be_tensor(came, expected.shape)
    raise MistakeError(*show(expected, came), hint)


def number(came: object) -> Tensor:
    """Return a number as a tensor, if it is not one already."""
    must(isinstance(came, (int, float, Tensor)), "a number", type(came).__name__, hints.NOT_TENSOR)
    return torch.as_tensor(came, dtype=torch.float32).detach()


def is_close(a: Tensor, b: Tensor, atol: float = ATOL) -> bool:
    """Return whether two tensors are equal up to rounding (NaN equals NaN)."""
    return a.shape == b.shape and torch.allclose(
        a.detach().to(torch.float64), b.detach().to(torch.float64), RTOL, atol, equal_nan=True
    )


def show(expected: Tensor, came: Tensor) -> tuple[str, str]:
    """Return both tensors as text: the row with the largest difference, and its place."""
    expected, came = torch.atleast_1d(expected.detach()), torch.atleast_1d(came.detach())
    width = expected.shape[-1]
    rows = [t.reshape(-1, width) for t in (expected, came)]
    distance = (rows[0].double() - rows[1].double()).abs().amax(dim=-1)
    worst = int(distance.argmax())
    place = ""
    if expected.dim() > 1:
        index = torch.unravel_index(torch.tensor(worst), expected.shape[:-1])
        place = f" at [{', '.join(str(int(i)) for i in index)}]"
    texts = [_numbers(row[worst]) for row in rows]
    return texts[0] + place, texts[1]


def _numbers(row: Tensor, most: int = 5) -> str:
    form = "{:.4f}" if row.is_floating_point() else "{:d}"
    texts = [form.format(value) for value in row[:most].tolist()]
    return "[" + ", ".join(texts) + (", ..." if len(row) > most else "") + "]"


def randn(*shape: int, seed: int = 1) -> Tensor:
    """Return standard normal numbers that are the same in every run."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randint(high: int, *shape: int, seed: int = 1) -> Tensor:
    """Return random ids that are the same in every run."""
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def randomize(module: nn.Module, spread: float = 0.4, seed: int = 2) -> nn.Module:
    """Give every parameter random values, so that no symmetry hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return module


@torch.no_grad()
def fill(module: nn.Module, value: float) -> nn.Module:
    """Set every parameter to one number, so that the result depends on no name and no layout."""
    for parameter in module.parameters():
        parameter.fill_(value)
    return module


def must_be_module(came: object, name: str) -> nn.Module:
    """Return `came` if it is an `nn.Module`."""
    if isinstance(came, nn.Module):
        return came
    raise MistakeError(
        f"{name} to be an nn.Module",
        f"an object of type {type(came).__name__}",
        "See what the class inherits from, and what its __init__ calls first.",
    )


def must_have_parameters(module: nn.Module, count: int, mistakes: Mapping[str, int] | None) -> None:
    """Compare the number of parameters with the book's."""
    came = sum(parameter.numel() for parameter in module.parameters())
    if came == count:
        return
    for explanation, other in (mistakes or {}).items():
        if came == other:
            raise MistakeError(f"{count:,} parameters", f"{came:,}", explanation)
    hint = hints.PARAMETERS if came else hints.UNREGISTERED
    raise MistakeError(f"{count:,} parameters", f"{came:,}", hint)


def must_reach_all(module: nn.Module, result: Tensor) -> None:
    """Check that the gradient of a result reaches every parameter."""
    weights = randn(*result.shape, seed=9)
    must(
        result.requires_grad,
        "a result that gradients flow back from",
        "one without",
        hints.GRADIENT,
    )
    (result * weights).sum().backward()
    missed = [
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    must(
        not missed,
        "a gradient for every parameter",
        f"none for {', '.join(missed[:3])}{' ...' if len(missed) > 3 else ''}",
        hints.GRADIENT,
    )


def must_drop_in_training_only(module: nn.Module, x: Tensor) -> None:
    """Check that dropout is at work in training mode, and off in evaluation mode."""
    module.eval()
    torch.manual_seed(0)
    first, second = module(x), module(x)
    must(
        is_close(first, second),
        "the same result twice in evaluation mode",
        "two different ones",
        hints.DROPOUT_IN_EVAL,
    )
    module.train()
    first, second = module(x), module(x)
    must(
        not is_close(first, second),
        "different results in training mode with dropout 0.5",
        "the same result twice",
        hints.NO_DROPOUT,
    )
    module.eval()


def must_not_look_ahead(module: Callable[[Tensor], Tensor], x: Tensor, other: Tensor) -> None:
    """Check that the tokens after a place change no result before it."""
    length = x.shape[1]
    whole = module(x)
    for place in (1, length - 1):
        changed = torch.cat([x[:, :place], other[:, place:]], dim=1)
        result = module(changed)
        must(
            is_close(whole[:, :place], result[:, :place]),
            f"results before token {place} that don't depend on it",
            "results that change with it",
            f"{hints.NO_MASK} A mask after the softmax also comes too late.",
        )


def must_keep_rows_apart(module: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Check that a sequence gives the same result alone and in a batch."""
    together = module(x)
    for row in range(len(x)):
        alone = module(x[row : row + 1])
        must(
            is_close(together[row : row + 1], alone, 1e-4),
            "the same result for a sequence alone and in a batch",
            "different results",
            hints.BATCH_MIXED,
        )


def must_match_book(came: object, printed: Tensor, what: str) -> None:
    """Compare with the book's printed numbers; a difference is a note, never a fault."""
    if isinstance(came, Tensor) and came.shape == printed.shape and is_close(came, printed, 1e-4):
        return
    other = (
        show(printed, came)[1]
        if isinstance(came, Tensor) and (came.shape == printed.shape)
        else "something else"
    )
    raise MistakeError(
        f"{what}: {_numbers(printed.reshape(-1, printed.shape[-1])[0])}",
        other,
        hints.ORDER_OF_CREATION,
        counts=False,
    )
