"""The checks of chapter 3: attention, from a softmax to many heads.

Every class is compared with the formula. If the reader uses the book's parameter names, the
parameters are read by name. Otherwise all parameters are set to one number, and the result has a
closed form that depends on no name and no layout. The other checks test what attention must not do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
    must_drop_in_training_only,
    must_equal,
    must_have_parameters,
    must_keep_rows_apart,
    must_match_book,
    must_not_look_ahead,
    must_reach_all,
    randn,
    randomize,
)
from llm_scratch.selfcheck.foreign import attempt
from llm_scratch.selfcheck.formulas import mistaken, multi_head
from llm_scratch.selfcheck.outcome import Check, MistakeError

D_IN, WIDTH, CONTEXT, HEADS = 6, 8, 7, 2
FILL = 0.3

# "Your journey starts with one step", as the book embeds it.
JOURNEY = torch.tensor(
    [
        [0.43, 0.15, 0.89],
        [0.55, 0.87, 0.66],
        [0.57, 0.85, 0.64],
        [0.22, 0.58, 0.33],
        [0.77, 0.25, 0.10],
        [0.05, 0.80, 0.55],
    ]
)


@dataclass(frozen=True)
class Kind:
    """One attention class of the book, and its properties."""

    name: str
    section: str
    signature: str
    heads: int = 1
    causal: bool = True
    bias: bool = True  # takes qkv_bias
    wrapper: bool = False  # heads side by side, each with modules of its own
    projected: bool = False  # ends in out_proj

    def make(self, cls: Any, dropout: float = 0.0, bias: bool = False) -> nn.Module:
        """Build the reader's class in the sizes of these checks, in evaluation mode."""
        args: tuple = (D_IN, WIDTH // self.heads if self.wrapper else WIDTH)
        if self.causal:
            args += (CONTEXT, dropout)
        if self.heads > 1:
            args += (self.heads,)
        if self.bias and bias:
            args += (True,)
        return must_be_module(call(self.name, cls, args, self.signature), self.name).eval()

    def inputs(self, length: int = CONTEXT, seed: int = 1) -> Tensor:
        """Return inputs: (2, T, d_in), or (T, d_in) for the classes without a batch."""
        return randn(2, length, D_IN, seed=seed) if self.causal else randn(length, D_IN, seed=seed)

    def parameters(self, bias: bool) -> int:
        """Return the number of parameters of the book's class."""
        count = 3 * WIDTH * D_IN + (3 * WIDTH if bias else 0)
        return count + (WIDTH * WIDTH + WIDTH if self.projected else 0)


KINDS = (
    Kind("SelfAttention_v1", "3.4.2", "(d_in, d_out)", causal=False, bias=False),
    Kind("SelfAttention_v2", "3.4.2", "(d_in, d_out, qkv_bias=False)", causal=False),
    Kind("CausalAttention", "3.5.3", "(d_in, d_out, context_length, dropout, qkv_bias=False)"),
    Kind(
        "MultiHeadAttentionWrapper",
        "3.6.1",
        "(d_in, d_out, context_length, dropout, num_heads, qkv_bias=False)",
        heads=HEADS,
        wrapper=True,
    ),
    Kind(
        "MultiHeadAttention",
        "3.6.2",
        "(d_in, d_out, context_length, dropout, num_heads, qkv_bias=False)",
        heads=HEADS,
        projected=True,
    ),
)

# The first row that the book prints: name -> (seed, arguments, row). The inputs are JOURNEY.
PRINTED: dict[str, tuple[int, tuple, list[float]]] = {
    "SelfAttention_v1": (123, (3, 2), [0.2996, 0.8053]),
    "SelfAttention_v2": (789, (3, 2), [-0.0739, 0.0713]),
    "CausalAttention": (123, (3, 2, 6, 0.0), [-0.4519, 0.2216]),
    "MultiHeadAttentionWrapper": (123, (3, 2, 6, 0.0, 2), [-0.4519, 0.2216, 0.4772, 0.1063]),
    "MultiHeadAttention": (123, (3, 2, 6, 0.0, 2), [0.3190, 0.4858]),
}


def _gives_the_shape(kind: Kind, cls: Any) -> None:
    x = kind.inputs()
    result = kind.make(cls)(x)
    # Other mistakes have checks of their own, with better hints.
    must_be_tensor(result, (*x.shape[:-1], WIDTH), nan_allowed=True)


def _follows_the_formula(kind: Kind, cls: Any) -> None:
    x = kind.inputs()
    module = randomize(kind.make(cls))
    parts = named_parts(kind, module, x)
    if parts is None:
        module = fill(module, FILL)
        parts = filled_parts(kind, x)
    q, k, v, project = parts
    with torch.no_grad():
        expected = project(multi_head(q, k, v, kind.heads, kind.causal))
        mistakes = mistaken(q, k, v, kind.heads, kind.causal, project)
    general = hints.SCALE if kind.heads == 1 else hints.VIEW_WITHOUT_TRANSPOSE
    must_equal(module(x), expected, mistakes, f"Go through the formula step by step. {general}")


Parts = tuple[Tensor, Tensor, Tensor, Callable[[Tensor], Tensor]]


@torch.no_grad()
def named_parts(kind: Kind, module: nn.Module, x: Tensor) -> Parts | None:
    """Return queries, keys, values and the last projection by the book's names, or None."""
    heads = getattr(module, "heads", None) if kind.wrapper else [module]
    if not isinstance(heads, (list, nn.ModuleList)):
        return None
    found = []
    for name in ("W_query", "W_key", "W_value"):
        pieces = [_project(getattr(head, name, None), x) for head in heads]
        if any(piece is None for piece in pieces):
            return None
        found.append(torch.cat([piece for piece in pieces if piece is not None], dim=-1))
    out: Any = getattr(module, "out_proj", None) if kind.projected else nn.Identity()
    if any(part.shape[-1] != WIDTH for part in found) or not isinstance(out, nn.Module):
        return None
    return found[0], found[1], found[2], out


def _project(layer: Any, x: Tensor) -> Tensor | None:
    if isinstance(layer, nn.Linear):
        return layer(x)
    if isinstance(layer, Tensor) and layer.dim() == 2 and layer.shape[0] == x.shape[-1]:
        return x @ layer
    return None


def filled_parts(kind: Kind, x: Tensor) -> Parts:
    """Return the same if every parameter is `FILL`, whatever the parameters are called."""
    same = (FILL * x.sum(dim=-1, keepdim=True)).expand(*x.shape[:-1], WIDTH)

    def project(joined: Tensor) -> Tensor:
        if not kind.projected:
            return joined
        return (FILL * joined.sum(dim=-1, keepdim=True) + FILL).expand_as(joined)

    return same, same, same, project


def _sees_no_future(kind: Kind, cls: Any) -> None:
    module = randomize(kind.make(cls))
    must_not_look_ahead(module, kind.inputs(), kind.inputs(seed=5))


def _sees_everything(kind: Kind, cls: Any) -> None:
    module = randomize(kind.make(cls))
    x = kind.inputs()
    changed = torch.cat([x[:-1], kind.inputs(seed=5)[-1:]])
    must(
        not is_close(module(x)[0], module(changed)[0]),
        "a first result that changes with the last token",
        "one that does not",
        hints.NOT_CAUSAL_HERE,
    )


def _weighs_with_a_sum_of_one(kind: Kind, cls: Any) -> None:
    module = randomize(kind.make(cls))
    token = kind.inputs(length=1)
    repeated = token.repeat_interleave(5, dim=-2)
    expected = module(token).expand(*repeated.shape[:-1], WIDTH)
    must_equal(module(repeated), expected, hint=hints.SUM_TO_ONE)


def _keeps_rows_apart(kind: Kind, cls: Any) -> None:
    must_keep_rows_apart(randomize(kind.make(cls)), kind.inputs())


def _takes_shorter_texts(kind: Kind, cls: Any) -> None:
    module = randomize(kind.make(cls))
    for length in (1, CONTEXT - 1):
        x = kind.inputs(length=CONTEXT)[:, :length]
        results: list[Tensor] = []
        error = attempt(partial(_append, results, module, x))
        must(
            error is None,
            f"{length} tokens to fit a context_length of {CONTEXT}",
            f"{type(error).__name__}: {error}",
            hints.MASK_LENGTH,
        )
        must_be_tensor(results[0], (2, length, WIDTH), hints.MASK_LENGTH, nan_allowed=True)


def _append(results: list[Tensor], module: nn.Module, x: Tensor) -> None:
    results.append(module(x))


def _drops_in_training_only(kind: Kind, cls: Any) -> None:
    module = randomize(kind.make(cls, dropout=0.5))
    must_drop_in_training_only(module, kind.inputs())


def _has_the_parameters(kind: Kind, cls: Any) -> None:
    plain = kind.parameters(bias=False)
    mistakes = {hints.QKV_BIAS: kind.parameters(bias=True)}
    if kind.projected:
        mistakes[hints.NO_OUT_PROJ] = plain - WIDTH * WIDTH - WIDTH
    must_have_parameters(kind.make(cls), plain, mistakes)
    if kind.bias:
        with_bias = kind.make(cls, bias=True)
        must_have_parameters(with_bias, kind.parameters(True), {hints.QKV_BIAS: plain})


def _learns_with_every_parameter(kind: Kind, cls: Any) -> None:
    module = randomize(kind.make(cls))
    must_reach_all(module, module(kind.inputs()))


def _refuses_uneven_heads(cls: Any) -> None:
    error = attempt(lambda: cls(D_IN, WIDTH + 1, CONTEXT, 0.0, HEADS))
    must(
        isinstance(error, (AssertionError, ValueError)),
        f"an error for d_out={WIDTH + 1} with {HEADS} heads",
        "none" if error is None else f"{type(error).__name__}: {error}",
        hints.DIVISIBLE,
    )


def _prints_the_books_numbers(kind: Kind, cls: Any) -> None:
    seed, args, row = PRINTED[kind.name]
    torch.manual_seed(seed)
    module = cls(*args).eval()
    came = module(torch.stack([JOURNEY, JOURNEY]))[0] if kind.causal else module(JOURNEY)
    must_match_book(came[:1], torch.tensor([row]), f"as printed, with seed {seed}")


def _softmax_is_a_softmax(function: Any) -> None:
    x = torch.tensor([0.9544, 1.4950, 1.4754, 0.8434, 0.7070, 1.0865])
    came = call("softmax_naive", function, (x.clone(),), "(x)")
    mistakes: Mistakes = {hints.SOFTMAX: [x / x.sum(), x.exp(), x.log_softmax(0), x.exp() / len(x)]}
    must_equal(came, x.softmax(0), mistakes, hints.SOFTMAX)


def _softmax_takes_columns(function: Any) -> None:
    x = randn(3, 4)
    came = function(x)
    if is_close(came, x.softmax(-1)):
        raise MistakeError(
            "columns that add up to 1 (the book sums over dim=0)",
            "rows that do",
            "That is not a fault: the book uses the function for only one row of scores.",
            counts=False,
        )
    must_equal(came, x.softmax(0), {hints.SOFTMAX: x.exp() / x.exp().sum()}, hints.SOFTMAX)


def _checks_of(kind: Kind) -> Iterator[Check]:
    T = "(B, T, d_in)" if kind.causal else "(T, d_in)"
    claims: list[tuple[str, Callable[[Kind, Any], None]]] = [
        (f"is built as in the book and takes {T}", _gives_the_shape),
        ("gives softmax(Q K^T / sqrt(d)) V", _follows_the_formula),
    ]
    if kind.causal:
        claims += [("a token sees nothing that follows it", _sees_no_future)]
    else:
        claims += [("every token sees every token", _sees_everything)]
    claims += [("the weights of a token add up to 1", _weighs_with_a_sum_of_one)]
    if kind.causal:
        claims += [
            ("the sequences of a batch don't mix", _keeps_rows_apart),
            ("texts may be shorter than context_length", _takes_shorter_texts),
            ("drops weights only in training", _drops_in_training_only),
        ]
    claims += [
        ("has the book's number of parameters", _has_the_parameters),
        ("learns with every parameter", _learns_with_every_parameter),
    ]
    for claim, run in claims:
        yield Check(kind.section, kind.name, claim, partial(run, kind))
    if kind.projected:
        claim = "refuses a width that the heads can't share"
        yield Check(kind.section, kind.name, claim, _refuses_uneven_heads)
    run_printed = partial(_prints_the_books_numbers, kind)
    yield Check(kind.section, kind.name, "prints the book's numbers", run_printed)


CHECKS = (
    Check("3.3.1", "softmax_naive", "turns scores into weights", _softmax_is_a_softmax),
    Check("3.3.1", "softmax_naive", "sums over the first dimension", _softmax_takes_columns),
    *(check for kind in KINDS for check in _checks_of(kind)),
)
