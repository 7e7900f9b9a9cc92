"""The checks of the end of chapter 6: curves of a training run, and the classifier in use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.chapter2 import Letters
from llm_scratch.selfcheck.chapter4_model import config
from llm_scratch.selfcheck.compare import call, must
from llm_scratch.selfcheck.foreign import attempt
from llm_scratch.selfcheck.loops import CPU
from llm_scratch.selfcheck.outcome import Check, WaitsError


class Parities(nn.Module):
    """A model that scores class 1 if a number is odd: a token, or the sum of all so far.

    It records its inputs and its modes.
    """

    def __init__(self, summed: bool = False) -> None:
        super().__init__()
        self.cfg = config(context_length=16)
        self.pos_emb = nn.Embedding(16, 1)
        self.summed = summed
        self.shown: list[Tensor] = []
        self.modes: list[bool] = []

    def forward(self, ids: Tensor) -> Tensor:
        """Score both classes at every place: (B, T) -> (B, T, 2)."""
        self.shown.append(ids)
        self.modes.append(self.training)
        numbers = ids.cumsum(1) if self.summed else ids
        return F.one_hot(numbers % 2, 2) + 0.0 * self.pos_emb.weight.sum()


def must_not_train(modes: list[bool]) -> None:
    """Check that a model was in evaluation mode at every call."""
    must(not any(modes), "a model in evaluation mode", "training mode", hints.EVAL_MODE)


PLOT = '(epochs_seen, examples_seen, train_values, val_values, label="loss")'


@contextlib.contextmanager
def _drawn() -> Iterator[list[Any]]:
    """Collect the arguments of matplotlib's `plot`; no window opens, no file is written."""
    try:
        from matplotlib import pyplot
        from matplotlib.axes import Axes
        from matplotlib.figure import Figure
    except ImportError:
        raise WaitsError("not checked: this needs matplotlib, which is not installed") from None
    drawn: list[Any] = []
    open_before = set(pyplot.get_fignums())
    plot = Axes.plot

    def record(self: Any, *args: Any, **kwargs: Any) -> Any:
        drawn.extend(args)
        return plot(self, *args, **kwargs)

    patches = ((Axes, "plot", record), (Figure, "savefig", _nothing), (pyplot, "show", _nothing))
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    try:
        for owner, name, new in patches:
            setattr(owner, name, new)
        yield drawn
    finally:
        for owner, name, old in before:
            setattr(owner, name, old)
        for figure in set(pyplot.get_fignums()) - open_before:
            pyplot.close(figure)


def _nothing(*_: Any, **__: Any) -> None:
    """Stand in for functions that would open a window or write a file."""


def _numbers(values: Any) -> list[float]:
    results: list[Any] = []
    attempt(lambda: results.append(torch.as_tensor(values, dtype=torch.float64).flatten()))
    return [round(value, 4) for value in results[0].tolist()] if results else []


def _draws_both_curves(function: Any) -> None:
    epochs = torch.linspace(0, 2, 4)
    series = ([0.9, 0.6, 0.4, 0.3], [0.95, 0.7, 0.6, 0.65])
    with _drawn() as drawn:
        call("plot_values", function, (epochs, torch.linspace(0, 80, 4), *series, "accuracy"), PLOT)
    found = [_numbers(values) for values in drawn]
    for what, values in (("training", series[0]), ("validation", series[1]), ("epochs", epochs)):
        must(
            _numbers(values) in found,
            f"the {what} values drawn",
            f"{len(drawn)} other arguments of plot",
            hints.CURVES,
        )


REVIEW = "(text, model, tokenizer, device, max_length=None, pad_token_id=50256)"
REVIEWS = ("bcb", "cdc", "bbbbb", "dd", "cab", "dcba", "bdbdbdbc", "dbdbdbdd")
LENGTH, PAD = 8, 59
ANSWERS = ("not spam", "spam")


def _classify(function: Any, text: str) -> tuple[Any, Parities]:
    model = Parities(summed=True).train()
    args = (text, model, Letters(), CPU, LENGTH, PAD)
    came = call("classify_review", function, args, REVIEW)
    must(len(model.shown) > 0, "a call of the model", "none", hints.NOT_TENSOR)
    return came, model


def _names_the_class(function: Any) -> None:
    answers = [_classify(function, text) for text in REVIEWS]
    came = [answer for answer, _ in answers]
    sums = [model.shown[-1].flatten().cumsum(0) % 2 for _, model in answers]
    expected = [ANSWERS[int(odd[-1])] for odd in sums]
    hint = hints.CLASS_POSITION
    if came == [ANSWERS[1 - int(odd[-1])] for odd in sums]:
        hint = hints.CLASSES_SWAPPED
    elif came == [ANSWERS[int(odd[0])] for odd in sums]:
        hint = hints.CLASS_FIRST
    elif not set(came) <= set(ANSWERS):
        hint = hints.CLASS_NAMES
    for answer, right in zip(came, expected, strict=True):
        what = f"{right!r}, since the last place scores that class highest"
        must(answer == right, what, f"{answer!r}", hint)


def _padded(text: str) -> list[int]:
    ids = Letters().encode(text)[:LENGTH]
    return ids + [PAD] * (LENGTH - len(ids))


def _shown(function: Any, text: str) -> list[list[int]]:
    shown: list[list[int]] = torch.atleast_2d(_classify(function, text)[1].shown[-1]).tolist()
    return shown


def _pads_a_review(function: Any) -> None:
    for text in REVIEWS[:3]:
        came, expected = _shown(function, text), [_padded(text)]
        hint = hints.PADDING_IDS
        if len(came[0]) != LENGTH:
            hint = hints.PADDED_LENGTH
        elif came[0][-len(text) :] == Letters().encode(text):
            hint = hints.PADDED_LEFT
        must(came == expected, f"the model to see {expected}", f"{came}", hint)


def _cuts_a_review(function: Any) -> None:
    text = "bcdefghijklm"
    came, expected = _shown(function, text), [_padded(text)]
    hint = hints.NOT_CUT
    if came[0] == Letters().encode(text)[-LENGTH:]:
        hint = hints.CUT_WRONG_END
    must(came == expected, f"the model to see {expected}", f"{came}", hint)


def _classifies_without_dropout(function: Any) -> None:
    must_not_train(_classify(function, "bcd")[1].modes)


USE_CHECKS = (
    Check("6.7", "plot_values", "draws both curves over the epochs", _draws_both_curves),
    Check("6.8", "classify_review", "names the class at the last place", _names_the_class),
    Check("6.8", "classify_review", "pads a message to max_length", _pads_a_review),
    Check("6.8", "classify_review", "cuts a message to max_length", _cuts_a_review),
    Check("6.8", "classify_review", "switches dropout off", _classifies_without_dropout),
)
