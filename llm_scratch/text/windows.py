"""Training windows: pieces of one long row of token ids, with next tokens as targets."""

from __future__ import annotations

import mmap
import operator
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any, SupportsIndex, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from llm_scratch.checks import check_count
from llm_scratch.text.token_ids import (
    as_token_array,
    check_ids,
    check_parts,
    cut_at,
    inputs_and_targets,
)
from llm_scratch.tokenizers.any_tokenizer import encode, vocab_size_of
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer

Tokens = TypeVar("Tokens", bound=Any)


class TokenWindows(Dataset[tuple[Tensor, Tensor]]):
    """Windows over one flat array of ids: item i is (input, target), each (T,) int64.

    Window i starts at token `i * stride`, and its target is its input shifted by one, so a window
    takes `max_length + 1` tokens. With a stride of `max_length`, every token is an input once; with
    a shorter one, windows overlap. The tokens after the last whole window are left out.

    The array is not copied, and nothing is stored per window. A list is packed once into the
    smallest integer type that holds it.

    Args:
        token_ids: all ids in one row: an array (also memory-mapped), a tensor or a list.
        max_length: T, the length of a window, at least 1.
        stride: the distance between the starts of two windows, at least 1.
        vocab_size: if given, every id must be below it.

    Raises:
        ValueError: if there is no whole window, or if an id is negative or too large.
    """

    def __init__(
        self, token_ids: Any, max_length: int, stride: int, *, vocab_size: int | None = None
    ) -> None:
        _check_sizes(max_length, stride)
        self.token_ids = as_token_array(token_ids)
        self.max_length = max_length
        self.stride = stride
        n_tokens = len(self.token_ids)
        if n_tokens <= max_length:
            raise ValueError(
                f"got {n_tokens} tokens, need at least max_length + 1 = {max_length + 1}; "
                "use a longer text or a smaller max_length"
            )
        check_ids(self.token_ids, vocab_size)
        _warn_of_gaps(max_length, stride)
        self.starts = range(0, n_tokens - max_length, stride)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: SupportsIndex) -> tuple[Tensor, Tensor]:
        i = operator.index(index)
        if not -len(self) <= i < len(self):
            raise IndexError(f"window {i} is not one of {len(self)} windows")
        start = self.starts[i]
        return inputs_and_targets(self._tokens[start : start + self.max_length + 1])

    def batch(self, indices: Any) -> tuple[Tensor, Tensor]:
        """Gather several windows at once: B indices -> inputs and targets, each (B, T) int64."""
        return inputs_and_targets(self._rows[np.asarray(indices, dtype=np.intp)])  # (B, T + 1)

    @cached_property
    def _tokens(self) -> np.ndarray:
        return np.asarray(self.token_ids)  # a plain array is indexed faster than a memmap

    @cached_property
    def _rows(self) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(self._tokens, self.max_length + 1)
        return windows[:: self.stride]

    def __getstate__(self) -> dict[str, Any]:
        # A view would be pickled in full; for a mapped file, only its location is passed on.
        state = {k: v for k, v in self.__dict__.items() if k not in ("_tokens", "_rows")}
        if (place := _place_in_file(self.token_ids)) is not None:
            state["token_ids"] = place
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self.token_ids, dict):
            self.token_ids = np.memmap(mode="r", **self.token_ids)


class GPTDatasetV1(Dataset[tuple[Tensor, Tensor]]):
    """The training windows of a text: item i is (input, target), each (max_length,) int64.

    The text is encoded once, with `<|endoftext|>` as one id. `input_ids` and `target_ids` behave
    like lists of tensors, but each window is made on demand.

    Args:
        txt: the text.
        tokenizer: this library's, tiktoken's, or anything with `encode(text)`; it is not kept.
        max_length: the length of a window, at least 1.
        stride: the distance between the starts of two windows, at least 1.

    Raises:
        ValueError: if the text has fewer than `max_length + 1` tokens.
    Source:
        Book 2.6 (which stores every window as two tensors).
    """

    def __init__(self, txt: str, tokenizer: Any, max_length: int, stride: int) -> None:
        _check_sizes(max_length, stride)
        if txt == "":
            raise ValueError(
                f"the text is empty: got 0 tokens, need at least max_length + 1 = {max_length + 1}"
            )
        self.windows = TokenWindows(
            encode(tokenizer, txt), max_length, stride, vocab_size=vocab_size_of(tokenizer)
        )
        self.input_ids: Sequence[Tensor] = _Column(self.windows, 0)
        self.target_ids: Sequence[Tensor] = _Column(self.windows, 1)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, idx: SupportsIndex) -> tuple[Tensor, Tensor]:
        return self.windows[idx]


def create_dataloader_v1(
    txt: str,
    batch_size: int = 4,
    max_length: int = 256,
    stride: int = 128,
    shuffle: bool = True,
    drop_last: bool = True,
    num_workers: int = 0,
    *,
    tokenizer: Any = None,
    generator: torch.Generator | None = None,
    pin_memory: bool = False,
    persistent_workers: bool = False,
) -> DataLoader:
    """Return a loader of a text's training windows: batches [inputs, targets], each (B, T) int64.

    The order of a shuffled epoch and the draws from the random generator are the book's.

    Args:
        txt: the text.
        batch_size: B, windows per batch.
        max_length: T, tokens per window.
        stride: tokens between the starts of two windows.
        shuffle: whether each epoch has a new random order.
        drop_last: whether a last batch of fewer than `batch_size` windows is left out.
        num_workers: number of processes that prepare batches; 0 uses this process.
        tokenizer: GPT-2's by default.
        generator: the random generator for the order; by default torch's global one.
        pin_memory: whether batches go to pinned memory, which a GPU reads faster.
        persistent_workers: whether the processes stay alive between epochs.

    Raises:
        ValueError: if the text is too short for a window or the windows are too few for a batch.
    Source:
        Book 2.6.
    """
    check_count("batch_size", batch_size)
    if tokenizer is None:
        tokenizer = GPT2Tokenizer()
    dataset = _GatheringDataset(txt, tokenizer, max_length, stride)
    if drop_last and len(dataset) < batch_size:
        raise ValueError(
            f"{len(dataset)} windows do not fill a batch of {batch_size} with drop_last=True; "
            "pass drop_last=False or a smaller batch_size, or make more windows from the text with "
            "a smaller max_length or stride"
        )
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        drop_last=drop_last,
        num_workers=num_workers,
        collate_fn=_whole_batch,
        generator=generator,
        pin_memory=pin_memory,
        persistent_workers=persistent_workers,
    )


def split_tokens(
    token_ids: Tokens, train_frac: float = 0.9, *, max_length: int | None = None
) -> tuple[Tokens, Tokens]:
    """Split ids into a training and a validation part: (n,) -> (int(train_frac * n),), the rest.

    Args:
        token_ids: an array, a tensor or a list of ids; the parts of an array are views.
        train_frac: the training part's share, between 0 and 1.
        max_length: if given, each part must hold at least one window of this length.

    Raises:
        ValueError: if a part is too short.
    """
    n_tokens = len(token_ids)
    cut = cut_at(n_tokens, train_frac)
    if max_length is None:
        least, needs, way_out = 1, "at least 1", " or use more tokens"
    else:
        least = max_length + 1
        needs, way_out = f"max_length + 1 = {least}", f" or use a smaller {max_length=}"
    check_parts(cut, n_tokens, train_frac, least, needs, way_out)
    return token_ids[:cut], token_ids[cut:]


def split_text(text: str, train_frac: float = 0.9) -> tuple[str, str]:
    """Split a text into a training part of `int(train_frac * len(text))` characters and the rest.

    Raises:
        ValueError: if a part is empty.
    Source:
        Book 5.1.3.
    """
    cut = cut_at(len(text), train_frac)
    if not 0 < cut < len(text):
        part = "training" if cut == 0 else "validation"
        raise ValueError(
            f"the {part} part of a text of {len(text)} characters is empty with {train_frac=}; "
            "change train_frac or use a longer text"
        )
    return text[:cut], text[cut:]


class _Column(Sequence[Tensor]):
    """The inputs (0) or the targets (1) of all windows, each made on demand."""

    def __init__(self, windows: TokenWindows, side: int) -> None:
        self._windows = windows
        self._side = side

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._windows[index][self._side]


class _Batch(Sequence[tuple[Tensor, Tensor]]):
    """A batch gathered at once that behaves like a list of items, as a loader expects."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs = inputs  # (B, T)
        self.targets = targets  # (B, T)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: Any) -> Any:
        return self.inputs[index], self.targets[index]


class _GatheringDataset(GPTDatasetV1):
    """A `GPTDatasetV1` whose loader asks for a whole batch at once.

    It is a subclass because `loader.dataset` must be a `GPTDatasetV1`. The batches still work with
    the default collate function, for example in a `Subset` of it.
    """

    def __getitems__(self, indices: list[int]) -> _Batch:
        return _Batch(*self.windows.batch(indices))


def _whole_batch(batch: Any) -> list[Tensor]:
    return [batch.inputs, batch.targets]  # a list, as PyTorch's own collate function returns


def _check_sizes(max_length: int, stride: int) -> None:
    check_count("max_length", max_length, note="the number of tokens in a window")
    check_count("stride", stride, note="the number of tokens from one window to the next")


def _warn_of_gaps(max_length: int, stride: int) -> None:
    if stride > max_length:
        warnings.warn(
            f"{stride=} above {max_length=} leaves out {stride - max_length} tokens between two "
            f"windows; a stride of {max_length} uses each token once",
            stacklevel=3,
        )


def _place_in_file(array: np.ndarray) -> dict[str, Any] | None:
    """Return the arguments that reopen a mapped array or a slice of one; None if in memory."""
    if not isinstance(array, np.memmap) or array.filename is None or not array.flags.c_contiguous:
        return None
    # A slice has its parent's offset, so the position is counted from the start of the mapping.
    mapping = np.frombuffer(array._mmap, dtype=np.uint8)  # type: ignore[attr-defined]
    begin = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    offset = begin + array.ctypes.data - mapping.ctypes.data
    return dict(filename=array.filename, dtype=array.dtype, offset=offset, shape=array.shape)
