from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm_scratch.text.windows import GPTDatasetV1, TokenWindows, split_text, split_tokens


class Numbers:
    """A tokenizer for a text of numbers: "3 1 4" -> [3, 1, 4]."""

    n_vocab = 10

    def encode(self, text):
        return [int(number) for number in text.split()]

    def decode(self, ids):
        return " ".join(map(str, ids))


def book_windows(ids, max_length, stride):
    """The book's windows, each a list of its own."""
    starts = range(0, len(ids) - max_length, stride)
    return [(ids[i : i + max_length], ids[i + 1 : i + 1 + max_length]) for i in starts]


def as_lists(windows):
    return [(inputs.tolist(), targets.tolist()) for inputs, targets in windows]


# --- the book's figures


def test_token_windows_on_plain_numbers_end_as_in_the_book():
    inputs, targets = TokenWindows(range(1001), max_length=4, stride=1)[-1]
    assert inputs.tolist() == [996, 997, 998, 999]
    assert targets.tolist() == [997, 998, 999, 1000]


# --- invariants


@pytest.mark.parametrize(
    ("stride", "starts"), [(1, [0, 1, 2, 3, 4, 5]), (4, [0, 4]), (5, [0, 5]), (7, [0])]
)
@pytest.mark.filterwarnings("ignore:stride")
def test_token_windows_start_where_the_book_says(stride, starts):
    windows = TokenWindows(list(range(10)), max_length=4, stride=stride)
    assert [inputs[0].item() for inputs, _ in windows] == starts
    assert len(windows) == len(starts)


@given(n=st.integers(2, 40), max_length=st.integers(1, 39), stride=st.integers(1, 45))
def test_token_windows_equal_the_books(n, max_length, stride):
    max_length = min(max_length, n - 1)
    ids = [(7 * i) % 50 for i in range(n)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        windows = TokenWindows(ids, max_length, stride)
    expected = book_windows(ids, max_length, stride)
    assert as_lists(windows) == expected
    assert len(windows) == len(expected)
    inputs, targets = windows.batch(range(len(windows)))
    assert inputs.tolist() == [x for x, _ in expected]
    assert targets.tolist() == [y for _, y in expected]


@pytest.fixture(params=["list", "tuple", "int64", "int32", "uint16", "tensor", "strided", "memmap"])
def any_ids(request, tmp_path):
    numbers = np.arange(300, 340)
    if request.param == "memmap":
        numbers.astype(np.uint16).tofile(tmp_path / "ids.bin")
        return np.memmap(tmp_path / "ids.bin", dtype=np.uint16, mode="r")
    if request.param == "strided":
        return np.repeat(numbers, 2)[::2]
    kinds = {"list": np.ndarray.tolist, "tuple": tuple, "tensor": torch.from_numpy}
    return (
        kinds[request.param](numbers) if request.param in kinds else numbers.astype(request.param)
    )


def test_token_windows_take_any_row_of_ids(any_ids):
    windows = TokenWindows(any_ids, max_length=8, stride=3)
    assert as_lists(windows) == book_windows(list(range(300, 340)), 8, 3)
    assert windows.batch([2, 0])[1].tolist() == [list(range(307, 315)), list(range(301, 309))]
    again = pickle.loads(pickle.dumps(windows))
    assert as_lists(again) == as_lists(windows)


def test_token_windows_items_are_int64_and_contiguous(any_ids):
    windows = TokenWindows(any_ids, max_length=8, stride=3)
    for tensor in (*windows[1], *windows.batch([1, 2])):
        assert tensor.dtype == torch.int64
        assert tensor.is_contiguous()


def test_token_windows_count_from_the_end_and_stop():
    windows = TokenWindows(range(10), max_length=4, stride=2)
    assert as_lists([windows[-1], windows[-3]]) == as_lists([windows[2], windows[0]])
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"window {index} is not one of 3 windows"):
            windows[index]


@pytest.mark.parametrize("kind", [np.int64, torch.tensor])
def test_token_windows_take_numbers_of_numpy_and_torch(kind):
    windows = TokenWindows(range(10), max_length=4, stride=2)
    assert windows[kind(1)][0].tolist() == [2, 3, 4, 5]


def test_token_windows_take_one_index_at_a_time():
    windows = TokenWindows(range(10), max_length=4, stride=2)
    assert not hasattr(windows, "__getitems__")
    with pytest.raises(TypeError):
        windows[0:2]


@pytest.mark.parametrize("dtype", [np.int64, np.uint16])
def test_token_windows_do_not_copy_an_array(dtype):
    ids = np.arange(1000, dtype=dtype)
    windows = TokenWindows(ids, max_length=10, stride=1)
    windows.batch([0])
    assert windows.token_ids is ids
    assert np.shares_memory(windows._rows, ids)


def test_token_windows_do_not_copy_a_tensor():
    ids = torch.arange(1000)
    windows = TokenWindows(ids, max_length=10, stride=1)
    assert windows.token_ids.ctypes.data == ids.data_ptr()


@pytest.mark.parametrize(
    ("largest", "dtype"), [(65535, np.uint16), (65536, np.int32), (2**31, np.int64)]
)
def test_token_windows_pack_a_list_into_the_smallest_integers(largest, dtype):
    windows = TokenWindows([0, largest, 1], max_length=2, stride=1)
    assert windows.token_ids.dtype == dtype
    assert windows[0][0].tolist() == [0, largest]


def test_token_windows_items_can_be_changed_without_harm():
    windows = TokenWindows(np.arange(10), max_length=4, stride=1)
    for inputs, targets in (windows[0], windows.batch([0, 1])):
        before = targets.clone()
        inputs.fill_(99)
        assert torch.equal(targets, before)
    assert windows.token_ids.tolist() == list(range(10))


def test_token_windows_pickle_is_no_larger_than_the_ids():
    ids = np.arange(10_000, dtype=np.int64)
    windows = TokenWindows(ids[:9000], max_length=256, stride=1)
    windows.batch([0])
    assert len(pickle.dumps(windows)) < 1.1 * windows.token_ids.nbytes


def test_token_windows_pickle_of_a_mapped_file_is_only_its_place(tmp_path):
    path = tmp_path / "ids.bin"
    np.arange(50_000, dtype=np.uint16).tofile(path)
    whole = np.memmap(path, dtype=np.uint16, mode="r", offset=20)
    windows = TokenWindows(whole[5000:45_000], max_length=4, stride=1)
    pickled = pickle.dumps(windows)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert isinstance(again.token_ids, np.memmap)
    assert len(again) == len(windows)
    assert again[0][0].tolist() == windows[0][0].tolist() == [5010, 5011, 5012, 5013]
    assert torch.equal(again[-1][1], windows[-1][1])


def test_gpt_dataset_v1_has_the_books_windows_and_lists():
    text = "3 1 4 1 5 9 2 6 5 3"
    dataset = GPTDatasetV1(text, Numbers(), max_length=4, stride=3)
    expected = book_windows([3, 1, 4, 1, 5, 9, 2, 6, 5, 3], 4, 3)
    assert as_lists(dataset) == expected
    assert [row.tolist() for row in dataset.input_ids] == [x for x, _ in expected]
    assert [row.tolist() for row in dataset.target_ids] == [y for _, y in expected]
    assert dataset.target_ids[-1].tolist() == expected[-1][1]
    assert [row.tolist() for row in dataset.input_ids[:1]] == [expected[0][0]]
    assert len(dataset) == len(dataset.input_ids) == len(dataset.target_ids) == 2
    assert not hasattr(dataset, "__getitems__")


def test_gpt_dataset_v1_makes_one_id_of_the_end_of_text(tokenizer):
    dataset = GPTDatasetV1("tail<|endoftext|>head", tokenizer, max_length=2, stride=1)
    assert dataset[0][1].tolist() == [50256, 2256]


def test_gpt_dataset_v1_does_not_keep_the_tokenizer(tokenizer):
    dataset = GPTDatasetV1("Hello, world. " * 100, tokenizer, max_length=4, stride=1)
    assert len(pickle.dumps(dataset)) < 2000


# --- errors and warnings


@pytest.mark.parametrize("n", [0, 3, 4])
def test_token_windows_want_one_whole_window(n):
    with pytest.raises(ValueError, match=rf"got {n} tokens, need at least max_length \+ 1 = 5; "):
        TokenWindows(list(range(n)), max_length=4, stride=1)
    assert len(TokenWindows(range(5), max_length=4, stride=1)) == 1


@pytest.mark.parametrize(
    ("max_length", "stride", "message"),
    [
        (0, 1, "max_length=0 must be 1"),
        (-1, 1, "max_length=-1"),
        (4, 0, "stride=0"),
        (4, -2, "=-2"),
    ],
)
def test_windows_refuse_lengths_and_strides_below_one(max_length, stride, message):
    with pytest.raises(ValueError, match=message):
        TokenWindows(range(10), max_length, stride)
    with pytest.raises(ValueError, match=message):
        GPTDatasetV1("1 2 3", Numbers(), max_length, stride)


def test_gpt_dataset_v1_says_that_a_text_is_empty():
    with pytest.raises(ValueError, match=r"the text is empty: got 0 tokens, need .* 5"):
        GPTDatasetV1("", Numbers(), max_length=4, stride=1)


def test_gpt_dataset_v1_says_how_much_text_is_missing():
    with pytest.raises(ValueError, match=r"got 4 tokens, need at least max_length \+ 1 = 5"):
        GPTDatasetV1("1 2 3 4", Numbers(), max_length=4, stride=1)


def test_windows_warn_of_skipped_tokens():
    with pytest.warns(UserWarning, match="stride=7 above max_length=4 leaves out 3 tokens"):
        TokenWindows(range(20), max_length=4, stride=7)


@pytest.mark.parametrize("stride", [1, 3, 4])
def test_windows_that_skip_nothing_do_not_warn(stride):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TokenWindows(range(20), max_length=4, stride=stride)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_token_windows_refuse_negative_ids(kind):
    with pytest.raises(ValueError, match="must be 0 or more, got -3"):
        TokenWindows(kind([1, 2, -3, 4]), max_length=2, stride=1)


def test_token_windows_refuse_ids_outside_the_vocabulary():
    TokenWindows([1, 9, 2], max_length=2, stride=1, vocab_size=10)
    with pytest.raises(ValueError, match=r"id 10 is outside a vocabulary of 10 \(0 to 9\)"):
        TokenWindows([1, 10, 2], max_length=2, stride=1, vocab_size=10)
    with pytest.raises(ValueError, match="id 12 is outside a vocabulary of 10"):
        GPTDatasetV1("1 12 3", Numbers(), max_length=2, stride=1)


@pytest.mark.parametrize("ids", [[0.5, 1.0, 2.0], np.ones(5), torch.ones(5), [2**70, 1, 1]])
def test_token_windows_refuse_what_is_no_integer(ids):
    with pytest.raises(TypeError, match="must be integers, got"):
        TokenWindows(ids, max_length=2, stride=1)


def test_token_windows_refuse_rows_of_rows():
    with pytest.raises(ValueError, match=r"one flat row, got shape \(2, 5\); flatten"):
        TokenWindows(np.ones((2, 5), dtype=int), max_length=2, stride=1)


# --- training and validation parts


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_split_tokens_cuts_where_the_book_does(kind):
    ids = kind(list(range(99)))
    train, val = split_tokens(ids)
    assert len(train) == int(0.9 * 99)
    assert [*train, *val] == [*ids]
    assert type(train) is type(ids)


def test_split_tokens_gives_views_of_an_array():
    ids = np.arange(100)
    assert all(np.shares_memory(part, ids) for part in split_tokens(ids))


def test_split_tokens_wants_a_window_in_each_part():
    ids = list(range(60))
    train, val = split_tokens(ids, 0.9, max_length=5)
    assert len(val) == 6
    with pytest.raises(
        ValueError,
        match=r"the validation part has 6 of 60 tokens, needs max_length \+ 1 = 9; "
        r"lower train_frac=0.9 or use a smaller max_length=8",
    ):
        split_tokens(ids, 0.9, max_length=8)
    with pytest.raises(ValueError, match="the training part has 6 of 60 tokens, .* raise train_fr"):
        split_tokens(ids, 0.1, max_length=8)


def test_split_tokens_wants_something_in_each_part():
    with pytest.raises(
        ValueError, match="training part has 0 of 1 tokens, needs at least 1; .* mor"
    ):
        split_tokens([5])


def test_split_text_cuts_where_the_book_does(verdict):
    train, val = split_text(verdict)
    assert len(train) == int(0.90 * 20479)
    assert train + val == verdict


@pytest.mark.parametrize(("text", "frac"), [("", 0.9), ("a", 0.9), ("abc", 0.1)])
def test_split_text_wants_something_in_each_part(text, frac):
    with pytest.raises(ValueError, match=f"part of a text of {len(text)} characters is empty"):
        split_text(text, frac)


@pytest.mark.parametrize("frac", [0.0, 1.0, -0.1, 1.5])
@pytest.mark.parametrize("split", [split_text, split_tokens])
def test_splits_want_a_fraction(split, frac):
    with pytest.raises(ValueError, match=rf"train_frac={frac} must be between 0 and 1"):
        split("a text", frac)
