"""The checks of chapter 4: the parts of a transformer block, and the shortcuts.

The checks of the model and of generation are in `chapter4_model`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.chapter4_model import CONFIG, MODEL_CHECKS, config
from llm_scratch.selfcheck.compare import (
    Mistakes,
    call,
    fill,
    is_close,
    must,
    must_be_module,
    must_be_tensor,
    must_drop_in_training_only,
    must_equal,
    must_have_parameters,
    must_keep_rows_apart,
    must_not_look_ahead,
    must_reach_all,
    randn,
    randomize,
)
from llm_scratch.selfcheck.outcome import Check

E = CONFIG["emb_dim"]
FILL = 0.1


def _norm(x: Tensor, unbiased: bool = False, eps: float = 1e-5, dim: int = -1) -> Tensor:
    var = x.var(dim, keepdim=True, correction=int(unbiased))
    return (x - x.mean(dim, keepdim=True)) / (var + eps).sqrt()


def _normalises(cls: Any) -> None:
    module = must_be_module(call("LayerNorm", cls, (E,), "(emb_dim)"), "LayerNorm")
    x = 3 * randn(2, 5, E) + 1
    must_equal(module(x), _norm(x), norm_mistakes(x), hints.NORM_DIM)


def norm_mistakes(x: Tensor) -> Mistakes:
    """Return the results of usual mistakes in a layer norm: hint -> results."""
    centred = x - x.mean(-1, keepdim=True)
    std = [x.std(-1, keepdim=True, correction=n) for n in (0, 1)]
    return {
        hints.BIASED_VARIANCE: [_norm(x, unbiased=True), centred / (std[1] + 1e-5)],
        hints.NORM_DIM: [_norm(x, dim=d) for d in range(x.dim() - 1)]
        + [(x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()],
        hints.EPS: [centred / std[0], centred / (std[0] + 1e-5)],
    }


def _divides_by_more_than_zero(cls: Any) -> None:
    module = cls(E)
    equal = torch.full((1, 2, E), 3.0)
    came = module(equal)
    must(bool(came.isfinite().all()), "zeros for a row of equal numbers", "NaN", hints.EPS)
    small = 3e-3 * randn(1, 2, E)
    mistakes: Mistakes = {**norm_mistakes(small), hints.EPS: _eps_mistakes(small)}
    must_equal(module(small), _norm(small), mistakes, hints.EPS)


def _eps_mistakes(x: Tensor) -> list[Tensor]:
    centred = x - x.mean(-1, keepdim=True)
    std = x.std(-1, keepdim=True, correction=0)
    return [centred / std, centred / (std + 1e-5), _norm(x, eps=1e-6), _norm(x, eps=1e-8)]


def _scales_and_shifts(cls: Any) -> None:
    module = cls(E)
    must_have_parameters(module, 2 * E, {hints.SCALE_AND_SHIFT: 0})
    x = randn(2, 3, E)
    vectors = dict(module.named_parameters())
    by_start = sorted(vectors.values(), key=lambda vector: float(vector.detach().mean()))
    scale, shift = vectors.get("scale", by_start[-1]), vectors.get("shift", by_start[0])
    must(
        bool((scale == 1).all() and (shift == 0).all()),
        "a scale that starts as ones and a shift as zeros",
        f"means {float(scale.mean()):.2f} and {float(shift.mean()):.2f}",
        hints.SCALE_AND_SHIFT,
    )
    with torch.no_grad():
        scale.copy_(randn(*scale.shape, seed=3))
        shift.copy_(randn(*shift.shape, seed=4))
    must_equal(module(x), scale * _norm(x) + shift, hint=hints.SCALE_AND_SHIFT)


def _bends(cls: Any) -> None:
    module = call("GELU", cls, (), "()")
    x = torch.linspace(-4, 4, 81)
    expected = F.gelu(x, approximate="tanh")
    mistakes: Mistakes = {
        hints.GELU_EXACT: F.gelu(x),
        hints.GELU_OTHER: [
            F.relu(x),
            F.silu(x),
            x * torch.sigmoid(1.702 * x),
            0.5 * x * (1 + torch.tanh((2 / torch.pi) * (x + 0.044715 * x**3))),
            0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * x + 0.044715 * x**3)),
        ],
    }
    must_equal(module(x), expected, mistakes, hints.GELU_OTHER, atol=2e-5)


def _feed_forward(cls: Any) -> nn.Module:
    return must_be_module(call("FeedForward", cls, (config(),), "(cfg)"), "FeedForward").eval()


def _gives_its_shape(cls: Any) -> None:
    must_be_tensor(_feed_forward(cls)(randn(2, 3, E)), (2, 3, E))


def _expands_four_times(cls: Any) -> None:
    count = 8 * E * E + 5 * E
    module = _feed_forward(cls)
    came = sum(parameter.numel() for parameter in module.parameters())
    other_widths = [2 * k * E * E + (k + 1) * E for k in (1, 2, 3, 8)]
    mistakes = {hints.EXPANSION: came} if came in other_widths else {}
    must_have_parameters(module, count, mistakes)


def _is_two_layers_and_gelu(cls: Any) -> None:
    module = fill(_feed_forward(cls), FILL)
    x = 2 * randn(2, 3, E)
    hidden = FILL * x.sum(-1, keepdim=True) + FILL

    def out(activated: Tensor) -> Tensor:
        return (FILL * 4 * E * activated + FILL).expand_as(x)

    mistakes: Mistakes = {
        hints.GELU_EXACT: out(F.gelu(hidden)),
        hints.NO_ACTIVATION: out(hidden),
        hints.GELU_OTHER: [out(F.relu(hidden)), out(F.silu(hidden)), out(torch.tanh(hidden))],
    }
    must_equal(module(x), out(F.gelu(hidden, approximate="tanh")), mistakes, hints.GELU_OTHER)


SIZES = [3, 3, 3, 3, 3, 1]


def _deep_network(shortcut: bool, cls: Any) -> None:
    signature = "(layer_sizes, use_shortcut)"
    name = "ExampleDeepNeuralNetwork"
    module = fill(must_be_module(call(name, cls, (SIZES, shortcut), signature), name), 0.3)
    x = torch.tensor([[1.0, 0.5, -1.0]])
    must_equal(module(x), _deep(x, shortcut), {hints.NO_SHORTCUT: _deep(x, not shortcut)})


def _deep(x: Tensor, shortcut: bool) -> Tensor:
    for width in SIZES[1:]:
        step = F.gelu(0.3 * x.sum(-1, keepdim=True) + 0.3, approximate="tanh").expand(-1, width)
        x = x + step if shortcut and x.shape == step.shape else step
    return x


def _block(cls: Any, **changes: Any) -> nn.Module:
    module = call("TransformerBlock", cls, (config(**changes),), "(cfg)")
    return must_be_module(module, "TransformerBlock").eval()


def _block_gives_its_shape(cls: Any) -> None:
    must_be_tensor(_block(cls)(randn(2, 5, E)), (2, 5, E))


def _block_adds_and_normalises(cls: Any) -> None:
    module = randomize(_block(cls), 0.2)
    x = randn(2, 5, E)
    parts = [getattr(module, name, None) for name in ("norm1", "att", "norm2", "ff")]
    if all(isinstance(part, nn.Module) for part in parts):
        results = _orders(x, *parts)  # type: ignore[arg-type]
    else:
        module = fill(module, FILL)
        results = _filled_orders(x)
    mistakes = {hint: value for hint, value in results.items() if hint != "right"}
    must_equal(module(x), results["right"][0], mistakes, hints.NO_SHORTCUT)


Step = Callable[[Tensor], Tensor]


@torch.no_grad()
def _orders(x: Tensor, n1: Step, att: Step, n2: Step, ff: Step) -> dict[str, list[Tensor]]:
    """Return the results of a block, assembled correctly and with usual mistakes."""
    y = x + att(n1(x))
    h = n1(x)
    z = h + att(h)
    p = n1(x + att(x))
    return {
        "right": [y + ff(n2(y))],
        hints.NO_SHORTCUT: [ff(n2(att(n1(x)))), ff(n2(y)), (w := att(n1(x))) + ff(n2(w))],
        hints.POST_NORM: [n2(p + ff(p)), x + n1(att(x)) + n2(ff(x + n1(att(x))))],
        hints.NORM_ON_SHORTCUT: [n2(z) + ff(n2(z)), z + ff(n2(z)), (g := n2(y)) + ff(g)],
        hints.WRONG_NORM: [y + ff(n1(y)), y + ff(y), (w := x + att(x)) + ff(n2(w))],
        hints.NO_SHORTCUT + " ": [x + att(n1(x)) + ff(n2(x)), x + ff(n2(y))],
    }


def _filled_orders(x: Tensor) -> dict[str, list[Tensor]]:
    """Return the same if every parameter is `FILL`, whatever the parts are called."""

    def norm(t: Tensor) -> Tensor:
        return FILL * _norm(t) + FILL

    def att(t: Tensor) -> Tensor:
        # Equal parameters give each token one number; after a norm it is the same for all.
        head = FILL * t.sum(-1, keepdim=True)
        length = t.shape[1]
        scores = head @ head.transpose(1, 2) * (E // CONFIG["n_heads"]) ** 0.5
        mask = torch.ones(length, length, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(mask, -torch.inf).softmax(-1) @ head
        return (FILL * E * mixed + FILL).expand_as(t)

    def ff(t: Tensor) -> Tensor:
        hidden = F.gelu(FILL * t.sum(-1, keepdim=True) + FILL, approximate="tanh")
        return (FILL * 4 * E * hidden + FILL).expand_as(t)

    return _orders(x, norm, att, norm, ff)


def _block_keeps_its_input(cls: Any) -> None:
    module = fill(_block(cls), 0.0)
    x = randn(2, 5, E)
    must_equal(module(x), x, {hints.NO_SHORTCUT: torch.zeros_like(x)}, hints.POST_NORM)


def _block_sees_no_future(cls: Any) -> None:
    module = randomize(_block(cls), 0.2)
    must_not_look_ahead(module, randn(2, 5, E), randn(2, 5, E, seed=5))


def _block_lets_tokens_meet(cls: Any) -> None:
    module = randomize(_block(cls), 0.4)
    x = randn(1, 5, E)
    changed = torch.cat([randn(1, 1, E, seed=7), x[:, 1:]], dim=1)
    must(
        not is_close(module(x)[:, -1], module(changed)[:, -1]),
        "a last token that changes with the first one",
        "one that does not",
        "Look at attention inside the block: does it reach the result?",
    )


def _block_keeps_rows_apart(cls: Any) -> None:
    must_keep_rows_apart(randomize(_block(cls), 0.2), randn(2, 5, E))


def _block_drops_in_training_only(cls: Any) -> None:
    must_drop_in_training_only(_block(cls, drop_rate=0.5), randn(2, 5, E))


def _block_has_the_parameters(cls: Any) -> None:
    plain = 12 * E * E + 10 * E
    must_have_parameters(_block(cls), plain, {hints.QKV_BIAS: plain + 3 * E})
    must_have_parameters(_block(cls, qkv_bias=True), plain + 3 * E, {hints.QKV_BIAS: plain})


def _learns_with_every_parameter(make: Callable[[Any], nn.Module], cls: Any) -> None:
    module = randomize(make(cls), 0.2)
    must_reach_all(module, module(randn(2, 5, E)))


CHECKS = (
    Check("4.2", "LayerNorm", "gives mean 0 and variance 1", _normalises),
    Check("4.2", "LayerNorm", "survives a row of equal numbers", _divides_by_more_than_zero),
    Check("4.2", "LayerNorm", "has a trainable scale and shift", _scales_and_shifts),
    Check("4.3", "GELU", "is the tanh approximation of GELU", _bends),
    Check("4.3", "FeedForward", "takes (B, T, emb_dim) and gives the same shape", _gives_its_shape),
    Check("4.3", "FeedForward", "widens four times and back", _expands_four_times),
    Check("4.3", "FeedForward", "is linear, GELU, linear", _is_two_layers_and_gelu),
    Check(
        "4.3",
        "FeedForward",
        "learns with every parameter",
        partial(_learns_with_every_parameter, _feed_forward),
    ),
    Check(
        "4.4", "ExampleDeepNeuralNetwork", "runs its layers in turn", partial(_deep_network, False)
    ),
    Check(
        "4.4",
        "ExampleDeepNeuralNetwork",
        "adds a layer's input where the shapes agree",
        partial(_deep_network, True),
    ),
    Check("4.5", "TransformerBlock", "takes (B, T, emb_dim), same shape", _block_gives_its_shape),
    Check(
        "4.5",
        "TransformerBlock",
        "normalises before, and adds after, each half",
        _block_adds_and_normalises,
    ),
    Check(
        "4.5", "TransformerBlock", "with all weights 0 it changes nothing", _block_keeps_its_input
    ),
    Check("4.5", "TransformerBlock", "a token sees nothing that follows it", _block_sees_no_future),
    Check("4.5", "TransformerBlock", "a token sees those before it", _block_lets_tokens_meet),
    Check("4.5", "TransformerBlock", "sequences of a batch don't mix", _block_keeps_rows_apart),
    Check("4.5", "TransformerBlock", "drops in training only", _block_drops_in_training_only),
    Check(
        "4.5", "TransformerBlock", "has the book's number of parameters", _block_has_the_parameters
    ),
    Check(
        "4.5",
        "TransformerBlock",
        "learns with every parameter",
        partial(_learns_with_every_parameter, _block),
    ),
    *MODEL_CHECKS,
)
