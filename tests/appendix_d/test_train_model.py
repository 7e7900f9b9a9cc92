"""Book D.4: the loop with warm-up, cosine decay and clipping, and what it promises beside them."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from llm_scratch.model.gpt import GPTModel
from llm_scratch.training.appendix_d import (
    book_learning_rate,
    find_highest_gradient,
    train_model,
)

V, T = 40, 6
CONFIG = {
    "vocab_size": V,
    "context_length": T,
    "emb_dim": 16,
    "n_heads": 2,
    "n_layers": 2,
    "drop_rate": 0.2,
    "qkv_bias": False,
}
LOG_LINE = re.compile(r"Ep \d+ \(Iter \d{6}\): Train loss \d+\.\d{3}, Val loss \d+\.\d{3}")
PEAK, FIRST, LAST = 1e-2, 1e-4, 1e-5


class LetterTokenizer:
    """Letters from "@" on."""

    def encode(self, text):
        return [ord(letter) - ord("@") for letter in text]

    def decode(self, ids):
        return "".join(chr(i + ord("@")) for i in ids)


def new_model():
    torch.manual_seed(3)
    return GPTModel(CONFIG)


def new_loader(rows, shuffle):
    data = torch.randint(V, (rows, T + 1), generator=torch.Generator().manual_seed(rows))
    return DataLoader(TensorDataset(data[:, :-1], data[:, 1:]), batch_size=2, shuffle=shuffle)


def train(model, *, optimizer=None, loaders=None, log=None, **options):
    """Two epochs of four steps, three of them warm-up, unless told otherwise."""
    lines = []
    settings = {"n_epochs": 2, "eval_freq": 3, "eval_iter": 2, "start_context": "AB"}
    settings |= {"warmup_steps": 3, "initial_lr": FIRST, "min_lr": LAST}
    results = train_model(
        model,
        *(loaders or (new_loader(7, True), new_loader(3, False))),
        optimizer or torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.1),
        "cpu",
        tokenizer=LetterTokenizer(),
        log=log or lines.append,
        **(settings | options),
    )
    return lines, results


@pytest.fixture
def clipped(monkeypatch):
    """The norm that each call of torch's clipping was told to keep, as a list that fills up."""
    calls = []
    original = torch.nn.utils.clip_grad_norm_

    def spy(parameters, max_norm):
        calls.append(max_norm)
        return original(parameters, max_norm=max_norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    return calls


def train_by_hand(model, steps, warmup):
    """The training steps of the book in plain PyTorch, without evaluation."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.1)
    inputs, targets = next(iter(new_loader(2, False)))
    model.train()
    for step in range(steps):
        optimizer.zero_grad()
        if step < warmup:
            rate = FIRST + step * (PEAK - FIRST) / warmup
        else:
            cosine = math.cos(math.pi * (step - warmup) / (steps - warmup))
            rate = LAST + (PEAK - LAST) * 0.5 * (1 + cosine)
        optimizer.param_groups[0]["lr"] = rate
        F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
        if step >= warmup:
            squares = sum(p.grad.square().sum() for p in model.parameters())
            factor = min(1.0, 1.0 / (squares.sqrt().item() + 1e-6))
            for p in model.parameters():
                p.grad *= factor
        optimizer.step()


def test_train_model_equals_a_loop_by_hand():
    models = [GPTModel({**CONFIG, "drop_rate": 0.0}) for _ in range(2)]
    for model in models:
        for p in model.parameters():  # the same weights, large enough to have something to clip
            torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(p.numel()))
    train_by_hand(models[0], steps=8, warmup=3)
    loader = new_loader(2, False)
    train(models[1], loaders=(loader, loader), n_epochs=8)
    for expected, value in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(value, expected)


def test_train_model_returns_losses_tokens_and_every_rate():
    lines, (train_losses, val_losses, tokens_seen, rates) = train(new_model())
    assert len(train_losses) == len(val_losses) == len(tokens_seen) == 3
    assert tokens_seen == [2 * T, 7 * T, 13 * T]
    schedule = {"total_steps": 8, "warmup_steps": 3, "peak_lr": PEAK}
    schedule |= {"initial_lr": FIRST, "min_lr": LAST}
    assert rates == [book_learning_rate(step, **schedule) for step in range(8)]
    logged = [line for line in lines if LOG_LINE.fullmatch(line)]
    assert logged == [
        f"Ep {epoch} (Iter {step:06d}): Train loss {a:.3f}, Val loss {b:.3f}"
        for (epoch, step), a, b in zip(
            [(1, 0), (1, 3), (2, 6)], train_losses, val_losses, strict=True
        )
    ]
    assert [LOG_LINE.fullmatch(line) is None for line in lines] == [False, False, True, False, True]


def test_train_model_prints_unless_told_otherwise(capsys):
    train(new_model(), log=print)
    assert capsys.readouterr().out.startswith("Ep 1 (Iter 000000): Train loss ")


def test_train_model_gives_every_group_the_rate_and_leaves_the_last_one():
    model = new_model()
    first, *others = model.parameters()
    groups = [{"params": [first]}, {"params": others, "lr": 5.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK)
    _, (*_, rates) = train(model, optimizer=optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [rates[-1]] * 2
    assert max(rates) == PEAK


def test_second_call_takes_its_peak_from_where_the_first_one_ended():
    model = new_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK)
    _, (*_, rates) = train(model, optimizer=optimizer)
    _, (*_, again) = train(model, optimizer=optimizer)
    assert again[3] == rates[-1]


@pytest.mark.parametrize(
    ("first_edition", "warmup_steps", "calls"), [(False, 3, 5), (True, 3, 4), (False, 0, 8)]
)
def test_train_model_clips_to_1_from_the_end_of_warmup(clipped, first_edition, warmup_steps, calls):
    train(new_model(), orig_book_version=first_edition, warmup_steps=warmup_steps)
    assert clipped == [1.0] * calls


def test_train_model_without_warmup_starts_at_the_peak():
    _, (*_, rates) = train(new_model(), warmup_steps=0)
    assert rates[0] == PEAK
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("training", [False, True])
def test_train_model_leaves_modes_as_found(training):
    model = new_model().train(training)
    model.trf_blocks[1].eval()
    before = [part.training for part in model.modules()]
    train(model)
    assert [part.training for part in model.modules()] == before


def test_train_model_restores_modes_after_an_error():
    model = new_model().eval()

    def fail(line):
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        train(model, log=fail)
    assert not any(part.training for part in model.modules())


class Stream(IterableDataset):
    """Rows of unknown number, as they come from a file."""

    def __iter__(self):
        row = torch.arange(T + 1)
        yield row[:-1], row[1:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_epochs": 0}, "n_epochs=0 must be 1 or more"),
        ({"eval_freq": 0}, "eval_freq=0 must be 1 or more"),
        ({"eval_iter": 0}, "eval_iter=0 must be 1 or more; None is all batches"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"warmup_steps": 8}, "warmup_steps=8 must be below the 8 steps of the run: 4 batches"),
        ({"warmup_steps": 15}, "warmup_steps=15 must be below the 8 steps"),
        ({"initial_lr": -1e-5}, "initial_lr=-1e-05 and min_lr=1e-05 must be 0 or more"),
        ({"min_lr": -1.0}, "min_lr=-1.0 must be 0 or more"),
        ({"start_context": ""}, "start_context='' gives no token"),
        ({"loaders": ([], new_loader(3, False))}, "the training loader gives no batch; use more"),
        ({"loaders": (new_loader(3, False), [])}, "the validation loader gives no batch; use more"),
    ],
)
def test_train_model_refuses_before_the_first_step(options, message):
    model = new_model()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        train(model, **options)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("place", [0, 1])
def test_train_model_refuses_iterators(place):
    loaders = [new_loader(3, False), new_loader(3, False)]
    loaders[place] = iter(loaders[place])
    name = ("training", "validation")[place]
    with pytest.raises(TypeError, match=f"the {name} loader is an iterator, used up after"):
        train(new_model(), loaders=loaders)


def test_train_model_refuses_a_stream_since_the_cosine_needs_the_number_of_steps():
    loaders = DataLoader(Stream(), batch_size=2), new_loader(3, False)
    with pytest.raises(TypeError, match="the training loader does not know its length"):
        train(new_model(), loaders=loaders)


def test_find_highest_gradient_sees_negative_ones_unless_signed():
    model = torch.nn.Linear(2, 1)
    model.weight.grad = torch.tensor([[0.5, -3.0]])
    model.bias.grad = torch.tensor([1.0])
    assert find_highest_gradient(model) == 3.0
    assert find_highest_gradient(model, signed=True) == 1.0


def test_find_highest_gradient_leaves_out_parameters_without_one():
    model = torch.nn.Linear(2, 1)
    model.bias.grad = torch.tensor([-0.25])
    assert find_highest_gradient(model) == 0.25


def test_find_highest_gradient_refuses_a_model_without_gradients():
    with pytest.raises(ValueError, match="no parameter has a gradient; call backward"):
        find_highest_gradient(torch.nn.Linear(2, 1))
