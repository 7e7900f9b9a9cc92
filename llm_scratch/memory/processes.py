"""A single process that stands for the first of many: what it sends goes nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from llm_scratch.training.distributed import ONE, Ranks


class FirstOfMany(Ranks):
    """The first of several processes, all of which have the same numbers."""

    def sum(self, *numbers: float) -> list[float]:
        """Return the sum of each number over all processes."""
        return [float(number) * self.count for number in numbers]


@contextmanager
def first_of(count: int) -> Iterator[Ranks]:
    """Return a context in which PyTorch takes this process for the first of `count`.

    Raises:
        ValueError: if this process is already one of several, or PyTorch has no fake process group.
    """
    if count == 1:
        yield ONE
        return
    import torch.distributed as dist
    from torch.nn.parallel import distributed as data_parallel

    if dist.is_initialized():
        raise ValueError("one process tracks a step of several; start it without torchrun")
    try:
        from torch.testing._internal.distributed.fake_pg import FakeStore
    except ImportError as err:
        raise ValueError(
            f"PyTorch {torch.__version__} has no fake process group, so only a step of one process "
            f"can be tracked, not of {count}"
        ) from err
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    try:
        # The check would read the numbers of tensors that have none.
        name = "_verify_param_shape_across_processes"
        with mock.patch.object(data_parallel, name, return_value=None):
            yield FirstOfMany(0, count, 0, count)
    finally:
        dist.destroy_process_group()


def send_nowhere(module: Any) -> None:
    """Make a data-parallel module take its own gradients for the average of all processes.

    Its buckets stay those of the first step. Real ones are rebuilt in the second, in the order in
    which gradients came; their total size is the same.
    """
    # Not annotated: PyTorch compares annotations, which are strings in this file.
    module.register_comm_hook(None, lambda state, bucket: _done(bucket.buffer()))
    module.reducer = _KeepsBuckets(module.reducer)


def _done(bucket: torch.Tensor) -> torch.futures.Future[torch.Tensor]:
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(bucket)
    return future


class _KeepsBuckets:
    """A wrapper of DDP's reducer, which holds gradients, that keeps the buckets."""

    def __init__(self, reducer: Any) -> None:
        self._reducer = reducer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reducer, name)

    def _rebuild_buckets(self) -> bool:
        return False
