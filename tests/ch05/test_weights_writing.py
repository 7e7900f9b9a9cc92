"""The writer of safetensors: what it shows of the bytes, and that it takes no memory for them."""

from __future__ import annotations

import errno
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llm_scratch.tensor_files import safetensors
from llm_scratch.tensor_files.safetensors import PIECE, pieces, write_safetensors

MANY = PIECE + 4000  # bytes, more than one piece
TURNED = torch.arange(MANY // 4, dtype=torch.int32).view(2, -1).t()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(MANY // 4, dtype=torch.float32),
        TURNED,
        torch.arange(7).bfloat16(),
        torch.tensor(3.0),
        torch.zeros(0, 4),
        torch.tensor([True, False]),
    ],
)
def test_bytes_are_seen_as_they_are_written(tmp_path, tensor):
    path, seen = tmp_path / "x.safetensors", []
    tensors = {"a": tensor, "b": torch.ones(16)}
    write_safetensors(path, tensors, {}, lambda piece: seen.append(bytes(piece)))
    assert b"".join(seen) == path.read_bytes()
    assert max(map(len, seen)) <= PIECE
    assert torch.equal(load_file(path)["a"], tensor)


def test_pieces_of_a_tensor_without_holes_are_no_copies():
    tensor = torch.zeros(MANY // 4)
    places = [np.frombuffer(piece, np.uint8).ctypes.data for piece in pieces(tensor)]
    assert places == [tensor.data_ptr(), tensor.data_ptr() + PIECE]


def test_copies_wait_for_a_slow_reader_and_do_not_pile_up(tmp_path, monkeypatch):
    given, seen, ahead = [0], [], []  # the header comes first

    def slow(piece):
        time.sleep(0.02)
        seen.append(len(piece))

    def counted(tensor):
        for piece in pieces(tensor):
            ahead.append(len(given) - len(seen))
            given.append(len(piece))
            yield piece

    monkeypatch.setattr(safetensors, "pieces", counted)
    tensors = {str(number): torch.ones(4, 8).t() for number in range(6)}
    write_safetensors(tmp_path / "x.safetensors", tensors, {}, slow)
    assert len(ahead) == 6
    assert max(ahead) <= 1


def test_nothing_more_is_read_after_an_error(tmp_path, monkeypatch):
    seen = []

    def slow(piece):
        time.sleep(0.02)
        seen.append(len(piece))

    def full(tensor):
        if tensor.numel() == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pieces(tensor)

    monkeypatch.setattr(safetensors, "pieces", full)
    tensors = {str(number): torch.ones(16) for number in range(20)} | {"last": torch.ones(1)}
    with pytest.raises(OSError, match="No space left"):
        write_safetensors(tmp_path / "x.safetensors", tensors, {}, slow)
    assert len(seen) < 20
    assert not list(tmp_path.iterdir())


def test_error_of_what_sees_the_bytes_is_raised(tmp_path):
    def broken(piece):
        raise OverflowError("no more")

    with pytest.raises(OverflowError):
        write_safetensors(tmp_path / "x.safetensors", {"a": torch.ones(3)}, {}, broken)
