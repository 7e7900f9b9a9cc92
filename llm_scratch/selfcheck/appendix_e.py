"""The checks of appendix E: LoRA as a layer, beside a linear layer, and in a whole model.

A reader's matrices are found by their shapes, which all differ, under any name and also if they
are transposed. If they are not found, all parameters are set to one number.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.compare import (
    Mistakes,
    call,
    fill,
    is_close,
    must,
    must_be_module,
    must_be_tensor,
    must_equal,
    must_have_parameters,
    must_reach_all,
    randint,
    randn,
    randomize,
    show,
)
from llm_scratch.selfcheck.foreign import attempt, describe
from llm_scratch.selfcheck.outcome import Check, MistakeError

IN, OUT, RANK, ALPHA = 5, 7, 2, 3
SCALES = (ALPHA / RANK, float(ALPHA))  # the book's, and its first printing's
LORA_PARAMETERS, LINEAR_PARAMETERS = RANK * (IN + OUT), IN * OUT + OUT
FILL = 0.3
V = 9


def _lora(cls: Any) -> nn.Module:
    layer = call("LoRALayer", cls, (IN, OUT, RANK, ALPHA), "(in_dim, out_dim, rank, alpha)")
    return must_be_module(layer, "LoRALayer")


def _has_two_matrices(cls: Any) -> None:
    layer = _lora(cls)
    one = dict.fromkeys((RANK * IN, RANK * OUT, IN * OUT), hints.LORA_MATRICES)
    came = sum(parameter.numel() for parameter in layer.parameters())
    must_have_parameters(layer, LORA_PARAMETERS, {one[came]: came} if came in one else None)
    for shape in ((4, IN), (2, 4, IN)):
        must_be_tensor(layer(randn(*shape)), (*shape[:-1], OUT), hints.LORA_PRODUCT)


def _adds_nothing_at_first(cls: Any) -> None:
    came = _lora(cls)(randn(4, IN))
    must_equal(came, torch.zeros(4, OUT), hint=hints.LORA_START)


def _can_leave_its_start(cls: Any) -> None:
    layer = _lora(cls)
    down, up = matrix(layer, IN, RANK), matrix(layer, RANK, OUT)
    must(
        any(bool(parameter.any()) for parameter in layer.parameters()),
        "random numbers in A",
        "zeros in both matrices",
        hints.LORA_STUCK,
    )
    if down is None or up is None:
        return
    if up.any() and not down.any():
        raise MistakeError("A random, B zero", "A zero, B random", hints.LORA_SWAPPED, counts=False)
    must(
        not is_close(down[:, :1].expand_as(down), down),
        "random numbers in A",
        show(down, down)[1],
        hints.LORA_A_START,
    )


def matrix(module: nn.Module, rows: int, columns: int) -> Tensor | None:
    """Return a parameter of this shape, or the transpose of one that is transposed; else None."""
    for parameter in module.parameters():
        if tuple(parameter.shape) in ((rows, columns), (columns, rows)):
            return (parameter if len(parameter) == rows else parameter.T).detach()
    return None


def _change(module: nn.Module, x: Tensor) -> Tensor | None:
    """Return x A B through the matrices of a module, None if they are not found."""
    down, up = matrix(module, IN, RANK), matrix(module, RANK, OUT)
    return None if down is None or up is None else x @ down @ up


def _filled_change(x: Tensor) -> Tensor:
    """Return x A B if every parameter is `FILL`."""
    return (RANK * FILL**2 * x.sum(-1, keepdim=True)).expand(*x.shape[:-1], OUT)


def _multiplies(cls: Any) -> None:
    x = randn(2, 4, IN)
    layer = randomize(_lora(cls))
    change = _change(layer, x)
    if change is None:
        layer, change = fill(layer, FILL), _filled_change(x)
    came, right = layer(x), ALPHA / RANK * change
    if isinstance(came, Tensor) and is_close(came, ALPHA * change):
        raise MistakeError(*show(right, came), hints.ALPHA_ALONE, counts=False)
    must_equal(came, right, _scale_mistakes(change), hints.LORA_PRODUCT)


def _scale_mistakes(change: Tensor, fixed: float | Tensor = 0.0) -> dict[str, list[Tensor]]:
    """Return the results of wrong factors: hint -> results."""
    factors = (RANK / ALPHA, 1 / RANK, ALPHA * RANK, float(RANK), 1 / ALPHA)
    return {
        hints.ALPHA_MISSING: [fixed + change],
        hints.ALPHA_RANK: [fixed + factor * change for factor in factors],
    }


def _learns_with_both(cls: Any) -> None:
    layer = randomize(_lora(cls))
    must_reach_all(layer, layer(randn(4, IN)))


def _draws_the_books_numbers(cls: Any) -> None:
    from llm_scratch.lora.layers import LoRALayer

    torch.manual_seed(123)
    expected = LoRALayer(IN, OUT, RANK, ALPHA).A
    torch.manual_seed(123)
    came = matrix(_lora(cls), IN, RANK)
    if came is None or not is_close(came, expected):
        text = "another number of them" if came is None else show(expected, came)[1]
        raise MistakeError(show(expected, expected)[0], text, hints.ORDER_OF_CREATION, counts=False)


def _beside(name: str, cls: Any, linear: nn.Linear) -> nn.Module:
    layer = call(name, cls, (linear, RANK, ALPHA), "(linear, rank, alpha)")
    return must_be_module(layer, name)


def _linear(bias: bool = True) -> nn.Linear:
    linear = nn.Linear(IN, OUT, bias=bias)
    randomize(linear)
    return linear


def _is_the_layer_at_first(name: str, cls: Any) -> None:
    for bias in (True, False):
        linear, x = _linear(bias), randn(2, 4, IN)
        right = linear(x).detach()
        mistakes: dict[str, list[Tensor]] = {hints.LINEAR_UNUSED: [torch.zeros_like(right)]}
        if bias:
            mistakes[hints.LINEAR_BIAS] = [right - linear.bias]
        must_equal(_beside(name, cls, linear)(x), right, mistakes, hints.LINEAR_NEW)


def _adds_lora(name: str, cls: Any) -> None:
    x = randn(2, 4, IN)
    layer = randomize(_beside(name, cls, _linear()))
    count = sum(parameter.numel() for parameter in layer.parameters())
    _must_have_lora(count, LORA_PARAMETERS + LINEAR_PARAMETERS)
    found = matrix(layer, OUT, IN), _change(layer, x)
    bias = next((p.detach() for p in layer.parameters() if p.shape == (OUT,)), None)
    if found[0] is None or found[1] is None or bias is None:
        layer, change = fill(layer, FILL), _filled_change(x)
        fixed = (FILL * x.sum(-1, keepdim=True) + FILL).expand_as(change)
        bias = torch.full((OUT,), FILL)
    else:
        fixed, change = x @ found[0].T + bias, found[1]
    came = layer(x)
    if isinstance(came, Tensor) and any(is_close(came, fixed + s * change) for s in SCALES):
        return
    mistakes: Mistakes = {
        hints.LORA_UNUSED: fixed,
        hints.LINEAR_UNUSED: [s * change for s in SCALES],
        hints.LINEAR_BIAS: [fixed - bias + s * change for s in SCALES],
        **_scale_mistakes(change, fixed),
    }
    must_equal(came, fixed + SCALES[0] * change, mistakes, hints.LORA_SUM)


def _leaves_frozen_what_is(name: str, cls: Any) -> None:
    layer = _beside(name, cls, _linear().requires_grad_(False))
    _must_have_lora(_trainable(layer), LORA_PARAMETERS)


def _must_have_lora(came: int, right: int) -> None:
    """Compare a layer's number of trainable parameters with the right one."""
    hint = hints.LINEAR_UNFROZEN if came > right else hints.LORA_MATRICES
    mistakes = {right + (ALPHA - RANK) * (IN + OUT): hints.RANK_ALPHA}
    must(came == right, f"{right} parameters to train", f"{came}", mistakes.get(came, hint))


def _trainable(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _lets_gradients_through(name: str, cls: Any) -> None:
    layer = randomize(_beside(name, cls, _linear().requires_grad_(False)))
    x = randn(4, IN).requires_grad_()
    result = layer(x)
    must_reach_all(layer, result)
    weight = layer(torch.eye(IN)) - layer(torch.zeros(1, IN))  # (in, out)
    expected = randn(*result.shape, seed=9) @ weight.T  # what must_reach_all sent back
    must_equal(x.grad, expected.detach(), hint=hints.GRADIENT)


def _has_the_books_state(name: str, cls: Any) -> None:
    own = set(_beside(name, cls, _linear()).state_dict())
    book = {"linear.weight", "linear.bias", "lora.A", "lora.B"}
    if own != book:
        other = sorted(own ^ book)
        raise MistakeError(
            f"the names {', '.join(sorted(book))}",
            f"others, such as {other[0]}",
            hints.STATE_NAMES,
            counts=False,
        )


def _replace(function: Any, model: nn.Module) -> nn.Module:
    """Let the reader put LoRA into a model whose own weights are frozen."""
    model.requires_grad_(False)
    args = (model, RANK, ALPHA)
    error = attempt(
        lambda: call("replace_linear_with_lora", function, args, "(model, rank, alpha)")
    )
    if isinstance(error, RecursionError):
        raise MistakeError("each layer replaced once", describe(error), hints.REPLACED_AGAIN)
    if error is not None:
        raise error
    return model


class Nested(nn.Module):
    """A small model with linear layers at three depths."""

    def __init__(self) -> None:
        super().__init__()
        self.tok_emb = nn.Embedding(V, IN)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(IN, 6), nn.Sequential(nn.Tanh(), nn.Linear(6, IN, bias=False)))
            for _ in range(2)
        )
        self.final_norm = nn.LayerNorm(IN)
        self.out_head = nn.Linear(IN, OUT)

    def forward(self, ids: Tensor) -> Tensor:
        """Score ids: (B, T) -> (B, T, out)."""
        x = self.tok_emb(ids)
        for block in self.blocks:
            x = x + block(x)
        return torch.as_tensor(self.out_head(self.final_norm(x)))

    def linear_layers(self) -> list[nn.Linear]:
        """Return the layers that get LoRA."""
        return [module for module in self.modules() if isinstance(module, nn.Linear)]


def _replaces_every_one(function: Any) -> None:
    model = Nested()
    layers = model.linear_layers()
    each = [layer.in_features + layer.out_features for layer in layers]
    right, head = RANK * sum(each), RANK * each[-1]
    came = _trainable(_replace(function, model))
    mistakes = {
        0: hints.REPLACED_NONE,
        head: hints.REPLACED_TOP,
        right - head: hints.REPLACED_HEAD,
        2 * right: hints.REPLACED_AGAIN,
        ALPHA * sum(each): hints.RANK_ALPHA,
    }
    must(
        came == right,
        f"{right} parameters to train beside {len(layers)} frozen linear layers",
        f"{came}",
        mistakes.get(came, hints.LINEAR_UNFROZEN if came > right else hints.REPLACED_TOP),
    )


def _changes_nothing_yet(function: Any) -> None:
    model, ids = Nested(), randint(V, 2, 6)
    before = model(ids).detach()
    must_equal(_replace(function, model)(ids), before, hint=hints.REPLACED_CHANGED)


def _passes_on_rank_and_alpha(function: Any) -> None:
    model, ids = Nested(), randint(V, 2, 6)
    right, first_printing, *wrong = (
        _with_changes(model, ids, scale) for scale in (*SCALES, 1.0, 1 / RANK)
    )
    _replace(function, model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.fill_(FILL)
    came = model(ids)
    if not is_close(came, first_printing):
        must_equal(came, right, {hints.RANK_ALPHA: wrong}, hints.RANK_ALPHA)


@torch.no_grad()
def _with_changes(model: Nested, ids: Tensor, scale: float) -> Tensor:
    """Return the output of a model with all LoRA matrices set to `FILL`."""

    def change(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + scale * RANK * FILL**2 * args[0].sum(-1, keepdim=True)

    model = copy.deepcopy(model)
    for layer in model.linear_layers():
        layer.register_forward_hook(change)
    return torch.as_tensor(model(ids))


def _checks_of(name: str) -> Iterator[Check]:
    claims: tuple[tuple[str, Callable[[str, Any], None]], ...] = (
        ("equals the linear layer at first", _is_the_layer_at_first),
        ("adds what LoRA learns", _adds_lora),
        ("leaves a frozen layer frozen, and learns beside it", _leaves_frozen_what_is),
        ("lets gradients through", _lets_gradients_through),
        ("has the book's names in its state", _has_the_books_state),
    )
    for claim, run in claims:
        yield Check("E.4", name, claim, partial(run, name))


CHECKS = (
    Check("E.4", "LoRALayer", "has two matrices and takes (..., in_dim)", _has_two_matrices),
    Check("E.4", "LoRALayer", "adds nothing at first", _adds_nothing_at_first),
    Check("E.4", "LoRALayer", "starts with random numbers in A", _can_leave_its_start),
    Check("E.4", "LoRALayer", "gives alpha / rank * x A B", _multiplies),
    Check("E.4", "LoRALayer", "learns with both matrices", _learns_with_both),
    Check("E.4", "LoRALayer", "draws the book's numbers from a seed", _draws_the_books_numbers),
    *_checks_of("LinearWithLoRA"),
    *_checks_of("LinearWithLoRAMerged"),
    Check(
        "E.4", "replace_linear_with_lora", "adds LoRA to every linear layer", _replaces_every_one
    ),
    Check(
        "E.4", "replace_linear_with_lora", "leaves the results as they were", _changes_nothing_yet
    ),
    Check("E.4", "replace_linear_with_lora", "passes on rank and alpha", _passes_on_rank_and_alpha),
)
