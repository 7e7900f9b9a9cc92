from __future__ import annotations

import inspect

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, random_split

from llm_scratch.text.windows import GPTDatasetV1, create_dataloader_v1
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer

TEXT = " ".join(str(i) for i in range(103))


class Numbers:
    def encode(self, text):
        return [int(number) for number in text.split()]

    def decode(self, ids):
        return " ".join(map(str, ids))


class StoredWindows(Dataset):
    """The book's design: every window is a pair of tensors, made in advance."""

    def __init__(self, text, max_length, stride):
        ids = torch.tensor(Numbers().encode(text))
        starts = range(0, len(ids) - max_length, stride)
        self.pairs = [(ids[i : i + max_length], ids[i + 1 : i + 1 + max_length]) for i in starts]

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


def make_loader(**options):
    options = {"batch_size": 4, "max_length": 8, "stride": 3, "tokenizer": Numbers(), **options}
    return create_dataloader_v1(TEXT, **options)


def assert_same_batches(ours, theirs):
    for mine, expected in zip(ours, theirs, strict=True):
        assert type(mine) is type(expected) is list
        for mine_part, expected_part in zip(mine, expected, strict=True):
            assert mine_part.dtype == expected_part.dtype == torch.int64
            assert mine_part.is_contiguous()
            assert torch.equal(mine_part, expected_part)


# --- the book's figures


def book_loader(verdict, **options):
    return iter(create_dataloader_v1(verdict, shuffle=False, **options))


def test_create_dataloader_v1_gives_the_books_first_two_batches(verdict):
    batches = book_loader(verdict, batch_size=1, max_length=4, stride=1)
    assert [part.tolist() for part in next(batches)] == (
        [[[40, 367, 2885, 1464]], [[367, 2885, 1464, 1807]]]
    )
    assert [part.tolist() for part in next(batches)] == (
        [[[367, 2885, 1464, 1807]], [[2885, 1464, 1807, 3619]]]
    )


def test_create_dataloader_v1_gives_the_books_batch_of_eight(verdict):
    inputs, targets = next(book_loader(verdict, batch_size=8, max_length=4, stride=4))
    assert inputs.tolist() == [
        [40, 367, 2885, 1464],
        [1807, 3619, 402, 271],
        [10899, 2138, 257, 7026],
        [15632, 438, 2016, 257],
        [922, 5891, 1576, 438],
        [568, 340, 373, 645],
        [1049, 5975, 284, 502],
        [284, 3285, 326, 11],
    ]
    assert targets.tolist() == [
        [367, 2885, 1464, 1807],
        [3619, 402, 271, 10899],
        [2138, 257, 7026, 15632],
        [438, 2016, 257, 922],
        [5891, 1576, 438, 568],
        [340, 373, 645, 1049],
        [5975, 284, 502, 284],
        [3285, 326, 11, 287],
    ]


@pytest.mark.parametrize(
    ("max_length", "rows"),
    [
        (2, [[40, 367], [2885, 1464], [1807, 3619], [402, 271]]),
        (
            8,
            [
                [40, 367, 2885, 1464, 1807, 3619, 402, 271],
                [2885, 1464, 1807, 3619, 402, 271, 10899, 2138],
                [1807, 3619, 402, 271, 10899, 2138, 257, 7026],
                [402, 271, 10899, 2138, 257, 7026, 15632, 438],
            ],
        ),
    ],
)
def test_create_dataloader_v1_gives_the_batches_of_exercise_2_2(verdict, max_length, rows):
    inputs, _ = next(book_loader(verdict, batch_size=4, max_length=max_length, stride=2))
    assert inputs.tolist() == rows


# --- against the book's design through PyTorch's loader


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_create_dataloader_v1_keeps_the_books_random_stream(shuffle, drop_last):
    theirs = DataLoader(StoredWindows(TEXT, 8, 3), 5, shuffle=shuffle, drop_last=drop_last)
    ours = make_loader(batch_size=5, shuffle=shuffle, drop_last=drop_last)
    assert len(ours) == len(theirs)
    states = []
    for loader in (theirs, ours):
        torch.manual_seed(123)
        epochs = [batch for _ in range(2) for batch in loader]
        states.append((epochs, torch.get_rng_state()))
    assert_same_batches(states[1][0], states[0][0])
    assert torch.equal(states[0][1], states[1][1])


def test_create_dataloader_v1_with_a_generator_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    epochs = [
        [batch[0] for batch in make_loader(generator=torch.Generator().manual_seed(7))]
        for _ in range(2)
    ]
    assert torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))
    assert torch.equal(torch.get_rng_state(), before)


def test_create_dataloader_v1_works_with_processes():
    batches = make_loader(shuffle=False, num_workers=1, persistent_workers=True)
    assert_same_batches(batches, make_loader(shuffle=False))


def test_create_dataloader_v1_has_what_the_book_reads_from_a_loader():
    loader = make_loader(drop_last=False)
    assert isinstance(loader, DataLoader)
    assert isinstance(loader.dataset, GPTDatasetV1)
    assert loader.batch_size == 4
    assert len(loader.dataset) == 32
    assert len(loader) == 8
    assert loader.dataset[1][0].tolist() == list(range(3, 11))


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"num_workers": 1}])
def test_create_dataloader_v1_data_set_works_in_a_loader_of_ones_own(options):
    dataset = make_loader().dataset
    torch.manual_seed(1)
    ours = list(DataLoader(dataset, 3, **options))
    torch.manual_seed(1)
    assert_same_batches(ours, DataLoader(StoredWindows(TEXT, 8, 3), 3, **options))


def test_create_dataloader_v1_data_set_works_in_a_subset():
    dataset, stored = make_loader().dataset, StoredWindows(TEXT, 8, 3)
    picked = [5, 1, 30]
    ours = DataLoader(Subset(dataset, picked), batch_size=2)
    assert_same_batches(ours, DataLoader(Subset(stored, picked), batch_size=2))
    parts = random_split(dataset, [20, 12])
    assert [inputs.shape for inputs, _ in DataLoader(parts[1], batch_size=12)] == [(12, 8)]


def test_create_dataloader_v1_has_the_books_signature():
    parameters = inspect.signature(create_dataloader_v1).parameters
    positional = {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.kind is not parameter.KEYWORD_ONLY
    }
    assert positional == {
        "txt": inspect.Parameter.empty,
        "batch_size": 4,
        "max_length": 256,
        "stride": 128,
        "shuffle": True,
        "drop_last": True,
        "num_workers": 0,
    }


def test_create_dataloader_v1_takes_gpt2s_tokenizer_by_itself():
    text = "Hello, world. " * 10
    inputs, _ = next(iter(create_dataloader_v1(text, 1, 4, 4, shuffle=False)))
    assert inputs.tolist() == [GPT2Tokenizer().encode(text)[:4]]


# --- errors


def test_create_dataloader_v1_says_that_no_batch_is_left():
    with pytest.raises(
        ValueError, match="32 windows do not fill a batch of 33 with drop_last=True; pass"
    ):
        make_loader(batch_size=33)
    assert len(make_loader(batch_size=33, drop_last=False)) == 1
    assert len(make_loader(batch_size=32)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be 1 or more"),
        ({"max_length": 0}, "max_length=0 must be 1 or more"),
        ({"stride": 0}, "stride=0 must be 1 or more"),
        ({"max_length": 103}, "got 103 tokens, need at least max_length . 1 = 104"),
    ],
)
@pytest.mark.parametrize("shuffle", [True, False])
def test_create_dataloader_v1_refuses_bad_sizes(options, message, shuffle):
    with pytest.raises(ValueError, match=message):
        make_loader(shuffle=shuffle, **options)


def test_create_dataloader_v1_says_that_a_text_is_empty():
    with pytest.raises(ValueError, match="the text is empty: got 0 tokens"):
        create_dataloader_v1("")
