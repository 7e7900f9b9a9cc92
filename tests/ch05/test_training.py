"""Book 5.2: evaluation, samples, and the loop that the book trains with."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from llm_scratch.generation.decoding import generate_text_simple
from llm_scratch.model.gpt import GPTModel
from llm_scratch.training.evaluation import evaluate_model, generate_and_print_sample
from llm_scratch.training.losses import calc_loss_loader
from llm_scratch.training.simple import train_model_simple

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
LOG_LINE = re.compile(r"Ep \d+ \(Step \d{6}\): Train loss \d+\.\d{3}, Val loss \d+\.\d{3}")


class LetterTokenizer:
    """Letters from "@" on, and id 0 as a line end."""

    def encode(self, text):
        return [ord(letter) - ord("@") for letter in text]

    def decode(self, ids):
        return "".join(chr(i + ord("@")) if i else "\n" for i in ids)


def new_model():
    torch.manual_seed(3)
    return GPTModel(CONFIG)


def new_loader(rows, shuffle):
    data = torch.randint(V, (rows, T + 1), generator=torch.Generator().manual_seed(rows))
    return DataLoader(TensorDataset(data[:, :-1], data[:, 1:]), batch_size=2, shuffle=shuffle)


def train(model, *, epochs=2, eval_freq=3, eval_iter=2, loaders=None, start="AB", silent=True):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    train_loader, val_loader = loaders or (new_loader(7, True), new_loader(3, False))
    lines = []
    results = train_model_simple(
        model,
        train_loader,
        val_loader,
        optimizer,
        "cpu",
        epochs,
        eval_freq,
        eval_iter,
        start,
        LetterTokenizer(),
        **({"log": lines.append} if silent else {}),
    )
    return lines, results


def modes_of(model):
    return [part.training for part in model.modules()]


def book_loss(model, loader, num_batches):
    """The book's order of draws: a new pass over the loader, then batch after batch."""
    total, count = 0.0, 0
    for i, (inputs, targets) in enumerate(loader):
        if i >= num_batches:
            break
        with torch.no_grad():
            logits = model(inputs).flatten(0, 1)
        total += F.cross_entropy(logits, targets.flatten(), reduction="sum").item()
        count += targets.numel()
    return total / count


def train_by_hand(model, epochs, eval_freq, eval_iter):
    """The loop of the book in plain PyTorch: losses at each evaluation, and the sampled ids."""
    train_loader, val_loader = new_loader(7, True), new_loader(3, False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    losses, samples, step = [], [], 0
    for _ in range(epochs):
        model.train()
        for inputs, targets in train_loader:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
            optimizer.step()
            if step % eval_freq == 0:
                model.eval()
                loaders = (train_loader, val_loader)
                losses.append([book_loss(model, loader, eval_iter) for loader in loaders])
                model.train()
            step += 1
        model.eval()
        samples.append(generate_text_simple(model, torch.tensor([[1, 2]]), 50, T))
        model.train()
    return losses, samples


def test_evaluate_model_gives_losses_without_dropout():
    model = new_model().train()
    loaders = new_loader(7, False), new_loader(3, False)
    losses = evaluate_model(model, *loaders, "cpu", 2)
    model.eval()
    assert losses == tuple(calc_loss_loader(loader, model, "cpu", 2) for loader in loaders)
    assert losses == evaluate_model(model, *loaders, "cpu", 2)


def test_evaluate_model_takes_all_batches_without_a_limit():
    model = new_model()
    loader = new_loader(7, False)
    assert evaluate_model(model, loader, loader, "cpu", None) == pytest.approx(
        evaluate_model(model, loader, loader, "cpu", 4)
    )


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_evaluation_leaves_modes_as_found(training, frozen):
    model = new_model().train(training)
    model.trf_blocks[0].train(training and not frozen)
    before = modes_of(model)
    evaluate_model(model, new_loader(3, False), new_loader(3, False), "cpu", 1)
    assert modes_of(model) == before
    generate_and_print_sample(model, LetterTokenizer(), "cpu", "AB", log=lambda line: None)
    assert modes_of(model) == before


def test_evaluate_model_restores_modes_after_an_error():
    model = new_model().train()
    with pytest.raises(ValueError, match="the loader gives no batch"):
        evaluate_model(model, new_loader(3, False), [], "cpu", 1)
    assert all(modes_of(model))


def test_evaluate_model_uses_loss_fn():
    def loss_fn(model, inputs, targets):
        return inputs.float().sum(), torch.tensor(inputs.numel())

    loader = new_loader(3, False)
    mean = torch.cat([x for x, _ in loader]).float().mean().item()
    losses = evaluate_model(new_model(), loader, loader, "cpu", None, loss_fn=loss_fn)
    assert losses == pytest.approx((mean, mean))


def test_generate_and_print_sample_logs_one_line():
    model, lines = new_model(), []
    generate_and_print_sample(model, LetterTokenizer(), "cpu", "AB", log=lines.append)
    ids = generate_text_simple(model, torch.tensor([[1, 2]]), 50)
    assert lines == [LetterTokenizer().decode(ids[0].tolist()).replace("\n", " ")]
    assert len(lines[0]) == 52
    assert "\n" not in lines[0]


def test_generate_and_print_sample_makes_line_ends_blanks():
    model, lines = new_model(), []
    torch.nn.init.zeros_(model.out_head.weight)  # every id is equally likely: greedy takes 0
    generate_and_print_sample(model, LetterTokenizer(), "cpu", "AB", log=lines.append)
    assert lines == ["AB" + 50 * " "]


def test_train_model_simple_equals_a_loop_by_hand():
    expected_model, model = new_model(), new_model()
    torch.manual_seed(9)
    expected_losses, samples = train_by_hand(expected_model, 3, 2, 2)
    expected_state = torch.get_rng_state()
    torch.manual_seed(9)
    lines, (train_losses, val_losses, _) = train(model, epochs=3, eval_freq=2)

    assert torch.equal(torch.get_rng_state(), expected_state)
    torch.testing.assert_close(torch.tensor(train_losses), torch.tensor(expected_losses)[:, 0])
    torch.testing.assert_close(torch.tensor(val_losses), torch.tensor(expected_losses)[:, 1])
    for value, expected in zip(model.parameters(), expected_model.parameters(), strict=True):
        torch.testing.assert_close(value, expected)
    texts = [LetterTokenizer().decode(ids[0].tolist()).replace("\n", " ") for ids in samples]
    assert [line for line in lines if not LOG_LINE.fullmatch(line)] == texts


def test_train_model_simple_logs_in_the_form_of_the_book():
    lines, (train_losses, val_losses, _) = train(new_model(), epochs=2, eval_freq=3)
    logged = [line for line in lines if LOG_LINE.fullmatch(line)]
    places = [(1, 0), (1, 3), (2, 6)]
    assert logged == [
        f"Ep {epoch} (Step {step:06d}): Train loss {a:.3f}, Val loss {b:.3f}"
        for (epoch, step), a, b in zip(places, train_losses, val_losses, strict=True)
    ]
    assert [LOG_LINE.fullmatch(line) is None for line in lines] == [False, False, True, False, True]


def test_train_model_simple_prints_unless_told_otherwise(capsys):
    train(new_model(), epochs=1, silent=False)
    assert capsys.readouterr().out.startswith("Ep 1 (Step 000000): Train loss ")
    train(new_model(), epochs=1)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("eval_freq", "evaluations"), [(1, 8), (3, 3), (7, 2), (100, 1)])
def test_train_model_simple_evaluates_every_so_many_steps(eval_freq, evaluations):
    _, results = train(new_model(), epochs=2, eval_freq=eval_freq)
    assert [len(series) for series in results] == [evaluations] * 3


def test_train_model_simple_counts_tokens():
    _, (_, _, tokens_seen) = train(new_model(), epochs=2, eval_freq=1)
    a_pass = [2 * T, 4 * T, 6 * T, 7 * T]
    assert tokens_seen == [*a_pass, *(7 * T + tokens for tokens in a_pass)]


def test_train_model_simple_learns():
    loader = new_loader(2, False)
    _, (train_losses, _, _) = train(new_model(), epochs=20, loaders=(loader, loader))
    assert train_losses[-1] < train_losses[0] / 2


@pytest.mark.parametrize("training", [False, True])
def test_train_model_simple_leaves_modes_as_found(training):
    model = new_model().train(training)
    model.trf_blocks[1].eval()
    before = modes_of(model)
    train(model, epochs=1)
    assert modes_of(model) == before


def test_train_model_simple_trains_with_dropout_in_a_model_in_eval_mode():
    models = [new_model().train(mode) for mode in (False, True)]
    for model in models:
        torch.manual_seed(5)
        train(model, epochs=1)
    for values in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(*values, rtol=0, atol=0)


def test_train_model_simple_masks_targets():
    inputs, targets = next(iter(new_loader(2, False)))
    targets = targets.clone()
    targets[:, 2:] = -100
    loader = [(inputs, targets)]
    _, (train_losses, _, tokens_seen) = train(new_model(), epochs=1, loaders=(loader, loader))
    assert len(train_losses) == 1
    assert tokens_seen == [2 * T]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "num_epochs=0 must be 1 or more"),
        ({"eval_freq": 0}, "eval_freq=0 must be 1 or more"),
        ({"eval_iter": 0}, "eval_iter=0 must be 1 or more; None is all batches"),
        ({"start": ""}, "start_context='' gives no token"),
        ({"loaders": ([], new_loader(3, False))}, "the training loader gives no batch; use more"),
        ({"loaders": (new_loader(3, False), [])}, "the validation loader gives no batch; use more"),
    ],
)
def test_train_model_simple_refuses_before_the_first_step(options, message):
    model = new_model()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        train(model, **options)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("place", [0, 1])
def test_train_model_simple_refuses_iterators(place):
    loaders = [new_loader(3, False), new_loader(3, False)]
    loaders[place] = iter(loaders[place])
    name = ("training", "validation")[place]
    with pytest.raises(TypeError, match=f"the {name} loader is an iterator, used up after"):
        train(new_model(), loaders=loaders)


class Stream(IterableDataset):
    """Rows of unknown number, as they come from a file."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        for row in torch.arange(self.rows * (T + 1)).view(self.rows, T + 1) % V:
            yield row[:-1], row[1:]


def test_train_model_simple_takes_a_stream():
    loader = DataLoader(Stream(3), batch_size=2)
    _, (_, _, tokens_seen) = train(
        new_model(), epochs=1, eval_freq=1, loaders=(loader, new_loader(3, False))
    )
    assert tokens_seen == [2 * T, 3 * T]


def test_train_model_simple_refuses_an_empty_stream():
    loaders = DataLoader(Stream(0), batch_size=2), new_loader(3, False)
    with pytest.raises(ValueError, match="the training loader gives no batch"):
        train(new_model(), loaders=loaders)
