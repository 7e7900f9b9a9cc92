"""The book's classifier: its data, losses, accuracy, loop and use."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from llm_scratch.finetuning.labelled_texts import ClassificationDataset
from llm_scratch.finetuning.spam_classifier import (
    SpamDataset,
    calc_accuracy_loader,
    classification_loss,
    classify_review,
    last_position_loss,
    train_classifier_simple,
)
from llm_scratch.finetuning.text_classifier import replace_head
from llm_scratch.model.gpt import GPTModel
from llm_scratch.training.losses import calc_loss_batch, calc_loss_loader

TEXTS = ["free prize now", "see you at noon", "win", "are we still on for dinner tonight?"]
ROWS = [("spam" if i % 2 == 0 else "ham", TEXTS[i % 4]) for i in range(8)]
CONFIG = {
    **{"vocab_size": 50257, "context_length": 24, "emb_dim": 12, "n_heads": 2, "n_layers": 2},
    **{"drop_rate": 0.1, "qkv_bias": False},
}


@pytest.fixture
def model():
    torch.manual_seed(123)
    return replace_head(GPTModel(CONFIG), 2)


@pytest.fixture(scope="module")
def dataset(tokenizer):
    return SpamDataset(ROWS, tokenizer)


class FirstBit(torch.nn.Module):
    """Says of every position whether its id is odd."""

    def forward(self, ids):
        return F.one_hot(ids % 2, 2).float()


def batches(*rows):
    """A loader of one batch per row: lists of ids, and a label for each."""
    return [(torch.tensor(ids), torch.tensor(labels)) for ids, labels in rows]


def test_spam_dataset_pads_to_the_longest_message(dataset, tokenizer):
    lengths = [len(tokenizer.encode(text)) for _, text in ROWS]
    assert dataset.max_length == max(lengths)
    for (ids, label), length, (name, text) in zip(dataset, lengths, ROWS, strict=False):
        assert ids.shape == (dataset.max_length,)
        assert ids.dtype == label.dtype == torch.int64
        assert label.shape == ()
        assert label == (name == "spam")
        assert tokenizer.decode(ids[:length].tolist()) == text
        assert set(ids[length:].tolist()) <= {50256}
    assert len(dataset) == 8
    assert dataset.data["Text"][1] == "see you at noon"
    assert dataset.data["Label"][:2] == [1, 0]


def test_spam_dataset_cuts_to_max_length_and_says_so(tokenizer):
    with pytest.warns(UserWarning, match="4 of 8 texts are cut to 3 tokens; the longest has 8"):
        dataset = SpamDataset(ROWS, tokenizer, max_length=3, pad_token_id=7)
    assert dataset.encoded_texts[1] == tokenizer.encode("see you at")
    assert dataset.encoded_texts[2] == [*tokenizer.encode("win"), 7, 7]


def test_spam_dataset_takes_files_and_frames_alike(tokenizer, tmp_path, dataset):
    path = tmp_path / "train.csv"
    lines = [f'{int(label == "spam")},"{text}"' for label, text in ROWS]
    path.write_text("\n".join(["Label,Text", *lines, ""]), encoding="utf-8")
    assert SpamDataset(path, tokenizer).data == dataset.data
    pandas = pytest.importorskip("pandas", reason="pip install pandas brings it")
    df = pandas.DataFrame(ROWS, columns=["Label", "Text"])
    assert SpamDataset(df, tokenizer).data == dataset.data


def test_spam_dataset_reads_special_tokens_in_messages_as_text(tokenizer):
    dataset = SpamDataset([(1, "<|endoftext|> free")], tokenizer)
    assert 50256 not in dataset.encoded_texts[0]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "no messages"),
        ([("ham", "a"), ("eggs", "b")], {}, r"rows\[1\] has the label 'eggs'"),
        ([(2, "a")], {}, r"rows\[0\] has the label 2"),
        ([(1, "a")], {"max_length": 0}, "max_length=0 must be 1 or more"),
    ],
)
def test_spam_dataset_refuses(tokenizer, rows, options, message):
    with pytest.raises(ValueError, match=message):
        SpamDataset(rows, tokenizer, **options)


def test_spam_dataset_needs_its_file(tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError):
        SpamDataset(tmp_path / "train.csv", tokenizer)


def test_last_position_loss_reads_the_end_of_the_padded_row(model):
    inputs, labels = torch.randint(0, 99, (3, 7)), torch.tensor([0, 1, 1])
    model.eval()
    expected = F.cross_entropy(model(inputs)[:, -1, :], labels)
    got = calc_loss_batch(inputs, labels, model, "cpu", loss_fn=last_position_loss)
    torch.testing.assert_close(got, expected)
    total, count = classification_loss(model, inputs, labels)
    torch.testing.assert_close(total / count, expected)
    first, _ = classification_loss(model, inputs, labels, position=0)
    torch.testing.assert_close(first / 3, F.cross_entropy(model(inputs)[:, 0, :], labels))


def test_last_position_loss_refuses_targets_that_mark_their_place(model):
    inputs = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="one per row is needed"):
        last_position_loss(model, inputs, inputs)
    with pytest.raises(ValueError, match="position=0 has no effect"):
        classification_loss(model, inputs, inputs, position=0)


def test_calc_accuracy_loader_counts_rows_and_not_batches():
    loader = batches(([[2, 3], [4, 5], [6, 7]], [1, 1, 0]), ([[1, 2]], [0]))
    assert calc_accuracy_loader(loader, FirstBit(), "cpu") == 0.75
    assert calc_accuracy_loader(loader, FirstBit(), "cpu", num_batches=1) == pytest.approx(2 / 3)
    assert calc_accuracy_loader(loader, FirstBit(), "cpu", position=0) == 0.25


def test_calc_accuracy_loader_reads_where_targets_mark():
    loader = batches(([[2, 3, 0, 0], [1, 1, 1, 2]], [[-100, 1, -100, -100], [-100] * 3 + [1]]))
    assert calc_accuracy_loader(loader, FirstBit(), "cpu") == 0.5


def test_calc_accuracy_loader_reads_no_batch_too_many():
    def three():
        for number in range(3):
            assert number < 2
            yield torch.tensor([[1, 2]]), torch.tensor([0])

    assert calc_accuracy_loader(three(), FirstBit(), "cpu", num_batches=2) == 1.0


@pytest.mark.parametrize("training", [True, False])
def test_calc_accuracy_loader_leaves_the_mode(model, dataset, training):
    model.train(training)
    model.trf_blocks[0].eval()
    first, again = (
        calc_accuracy_loader(DataLoader(dataset, batch_size=4), model, "cpu") for _ in range(2)
    )
    assert first == again
    assert model.training is training
    assert model.trf_blocks[0].training is False


@pytest.mark.parametrize(("loader", "number"), [([], None), ([], 2)])
def test_calc_accuracy_loader_refuses_an_empty_loader(loader, number):
    with pytest.raises(ValueError, match="gives no batch"):
        calc_accuracy_loader(loader, FirstBit(), "cpu", number)
    with pytest.raises(ValueError, match="num_batches=0 must be 1 or more"):
        calc_accuracy_loader(loader, FirstBit(), "cpu", 0)


def loaders_of(dataset):
    torch.manual_seed(123)
    train = DataLoader(dataset, batch_size=2, shuffle=True, drop_last=True)
    return train, DataLoader(dataset, batch_size=3)


def by_hand(model, train_loader, val_loader, optimizer, epochs, every):
    """The loop as one writes it down, with its random numbers in the same order."""
    losses, accuracies, step = [], [], 0

    def measured(function):
        model.eval()
        with torch.no_grad():
            pairs = [
                [function(model(x)[:, -1, :], y) for (x, y), _ in zip(loader, (1, 2), strict=False)]
                for loader in (train_loader, val_loader)
            ]
        model.train()
        return [float(torch.stack(values).mean()) for values in pairs]

    for _ in range(epochs):
        for inputs, labels in train_loader:
            model.train()
            optimizer.zero_grad()
            F.cross_entropy(model(inputs)[:, -1, :], labels).backward()
            optimizer.step()
            if step % every == 0:
                losses.append(measured(F.cross_entropy))
            step += 1
        accuracies.append(measured(lambda z, y: (z.argmax(-1) == y).float().mean()))
    return losses, accuracies


def test_train_classifier_simple_is_the_loop_written_down(dataset):
    results = []
    for way in ("ours", "by hand"):
        loaders = loaders_of(dataset)
        torch.manual_seed(123)
        model = replace_head(GPTModel(CONFIG), 2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        if way == "ours":
            lines: list[str] = []
            ours = train_classifier_simple(
                model, *loaders, optimizer, "cpu", 3, 2, 2, log=lines.append
            )
        else:
            losses, accuracies = by_hand(model, *loaders, optimizer, 3, 2)
        results.append({name: p.detach() for name, p in model.named_parameters()})
    assert list(zip(ours[0], ours[1], strict=True)) == [pytest.approx(pair) for pair in losses]
    assert list(zip(ours[2], ours[3], strict=True)) == [pytest.approx(p) for p in accuracies]
    assert ours[4] == 3 * 8
    for name, parameter in results[0].items():
        torch.testing.assert_close(parameter, results[1][name], msg=name)
    train_loss, val_loss = losses[0]
    assert lines[0] == (f"Ep 1 (Step 000000): Train loss {train_loss:.3f}, Val loss {val_loss:.3f}")
    train_share, val_share = accuracies[0]
    assert lines[2] == (
        f"Training accuracy: {train_share:.2%} | Validation accuracy: {val_share:.2%}"
    )


def test_train_classifier_simple_changes_only_what_is_not_frozen(model, dataset):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    options = (optimizer, "cpu", 1, 5, 1)
    train_classifier_simple(model, *loaders_of(dataset), *options, log=lambda line: None)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.partition(".")[0] for name in changed} == {"trf_blocks", "final_norm", "out_head"}


def test_train_classifier_simple_learns_from_texts_read_at_their_end(model, tokenizer):
    data = ClassificationDataset(ROWS, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
    loader = data.loader(4, shuffle=True)
    model.eval()
    losses, _, accuracies, _, seen = train_classifier_simple(
        model, loader, loader, optimizer, "cpu", 8, 4, None, log=lambda line: None
    )
    assert seen == 64
    assert losses[-1] < losses[0] / 2
    assert accuracies[-1] == 1.0
    assert not model.training


@pytest.mark.parametrize(
    ("numbers", "message"),
    [((0, 5, 1), "num_epochs=0"), ((1, 0, 1), "eval_freq=0"), ((1, 5, 0), "eval_iter=0")],
)
def test_train_classifier_simple_refuses_numbers_below_1(model, dataset, numbers, message):
    with pytest.raises(ValueError, match=message):
        train_classifier_simple(model, *loaders_of(dataset), None, "cpu", *numbers)


def test_train_classifier_simple_refuses_loaders_it_can_not_use(model, dataset):
    loader = loaders_of(dataset)[0]
    with pytest.raises(TypeError, match="used up after one pass"):
        train_classifier_simple(model, iter(loader), loader, None, "cpu", 1, 5, 1)
    with pytest.raises(ValueError, match="gives no batch"):
        train_classifier_simple(model, [], loader, None, "cpu", 1, 5, 1)


def test_calc_loss_loader_does_not_hang_on_the_batch_size_of_padded_rows(model, dataset):
    model.eval()
    losses = [
        calc_loss_loader(DataLoader(dataset, size), model, "cpu", loss_fn=last_position_loss)
        for size in (1, 2, 3, 8)
    ]
    assert losses == [pytest.approx(losses[0], abs=1e-6)] * 4


def test_classify_review_reads_the_end_of_the_padding(model, tokenizer):
    text, pad = "see you at noon", 50256
    ids = tokenizer.encode(text)
    model.eval()
    for max_length in (None, len(ids), 10, 24):
        row = ids + [pad] * ((max_length or 0) - len(ids))
        says_spam = bool(model(torch.tensor([row]))[0, -1].argmax())
        for flip in (False, True):
            if flip:  # the head turned round says the opposite
                model.out_head.weight.data.neg_()
                model.out_head.bias.data.neg_()
            said = classify_review(text, model, tokenizer, "cpu", max_length)
            assert said == ("spam" if says_spam != flip else "not spam")
    assert not model.training


def test_classify_review_cuts_long_messages(model, tokenizer):
    short = "free prize " * 5
    assert classify_review(short * 20, model.train(), tokenizer, "cpu") in ("spam", "not spam")
    assert model.training
    cut = tokenizer.decode(tokenizer.encode(short * 20)[:24])
    model.eval()
    assert classify_review(short * 20, model, tokenizer, "cpu", 24) == classify_review(
        cut, model, tokenizer, "cpu"
    )


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "has no token"),
        ("hello", {"max_length": 25}, "max_length=25 must be from 1 to the model's context"),
        ("hello", {"max_length": 0}, "max_length=0 must be from 1"),
    ],
)
def test_classify_review_refuses(model, tokenizer, text, options, message):
    with pytest.raises(ValueError, match=message):
        classify_review(text, model, tokenizer, "cpu", **options)


def test_classify_review_refuses_another_number_of_classes(model, tokenizer):
    with pytest.raises(ValueError, match="has 3 classes, not two"):
        classify_review("hello", replace_head(model, 3), tokenizer, "cpu")
