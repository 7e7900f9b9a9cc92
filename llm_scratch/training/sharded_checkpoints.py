"""Checkpoints of several processes: each writes its part, any number of processes reads them.

The tensors are in safetensors files, one for each process, written and read by PyTorch's
distributed checkpoints: no file of a checkpoint is a pickle, and none can hold code. What else is
in the folder is as `checkpoints` says.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Mapping
from itertools import combinations, starmap
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from llm_scratch.files import part_beside, write_json
from llm_scratch.training.checkpoints import (
    STATE_FILE,
    CheckpointError,
    entry_of,
    finish,
    is_plain,
    learning_of,
)
from llm_scratch.training.distributed import Ranks
from llm_scratch.training.optimizer_state import begin_optimizers, optimizer_tensors
from llm_scratch.weights.tokenizer_files import save_tokenizer

Sizes = tuple[int, ...]
SHARDS = "shard-*.safetensors"  # as PyTorch names them


def is_sharded_checkpoint(checkpoint: Path) -> bool:
    """Return whether a checkpoint was written by several processes, each its part."""
    return any(checkpoint.glob(SHARDS))


def save_sharded(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    ranks: Ranks,
    tokenizer: Any = None,
) -> Path:
    """Write a checkpoint together: the path of the finished one, the same everywhere.

    Args:
        folder: where the checkpoints of the run are.
        step: becomes its name.
        tensors: what this process holds, by name: parts, or what it alone has.
        state: as in `checkpoints.save_run`.
        ranks: the processes.
        tokenizer: is written beside the tensors.

    Raises:
        OSError: if it can't be written; nothing that looks like a checkpoint stays.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    target = folder / f"step-{step:08d}"
    part = Path(ranks.gather(str(part_beside(target)))[0])
    part.mkdir(parents=True, exist_ok=True)
    try:
        writer = HuggingFaceStorageWriter(str(part), save_distributed=True)
        try:
            dcp.save(dict(tensors), storage_writer=writer)
        except dcp.api.CheckpointException as err:  # which no `except Exception` would see
            raise OSError(f"{target} could not be written: {_reason(err)}") from err
        own = part.glob(f"shard-{ranks.rank + 1:05d}-*.safetensors")
        files: dict[str, Any] = {}
        for entries in ranks.gather({path.name: entry_of(path) for path in own}):
            files |= entries
        if ranks.first:
            if tokenizer is not None:
                save_tokenizer(tokenizer, part)
            write_json(part / STATE_FILE, state)
            others = (path for path in part.iterdir() if path.name not in files)
            finish(part, target, files | {path.name: entry_of(path) for path in others})
        ranks.wait()
    finally:
        if ranks.first:
            shutil.rmtree(part, ignore_errors=True)
    return target


def tensors_of_run(model: nn.Module, optimizers: Any) -> dict[str, Tensor]:
    """Return what a checkpoint holds of a model and its optimizers; of divided ones, the parts."""
    parameters = dict(model.named_parameters()) if is_plain(model) else learning_of(model)
    return {
        **{name: parameter.detach() for name, parameter in parameters.items()},
        **optimizer_tensors(model, optimizers),
    }


def load_tensors(checkpoint: Path, model: nn.Module, optimizers: Any, ranks: Ranks) -> None:
    """Fill a model and its new optimizers from a checkpoint of any number of processes.

    Raises:
        CheckpointError: if a tensor is missing, of another shape or type, or not whole.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    begin_optimizers(model, optimizers)
    tensors = tensors_of_run(model, optimizers)
    reader = HuggingFaceStorageReader(str(checkpoint))
    try:
        _check_parts(checkpoint, reader.read_metadata(), tensors)
        with warnings.catch_warnings():  # one process is meant to load alone
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp.load(tensors, storage_reader=reader, no_dist=ranks.count == 1)
    except dcp.api.CheckpointException as err:
        raise CheckpointError(checkpoint, f"can't be read: {_reason(err)}") from err
    except CheckpointError:
        raise
    except Exception as err:  # a foreign format: damage shows as many types of error
        raise CheckpointError(checkpoint, f"can't be read: {err}") from err


def _check_parts(checkpoint: Path, saved: Any, tensors: Mapping[str, Tensor]) -> None:
    """Refuse parts that leave numbers of a tensor out, or give them twice, or in other types."""
    kinds = {(index.fqn, info.dtype) for index, info in saved.storage_data.items()}
    for name, tensor in tensors.items():
        if (found := saved.state_dict_metadata.get(name)) is None:
            raise CheckpointError(checkpoint, f"holds no {name}")
        parts = [(tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in found.chunks]
        whole = tuple(tensor.shape)
        filled = sum(math.prod(sizes) for _, sizes in parts)
        inside = all(_is_inside(places, sizes, whole) for places, sizes in parts)
        if (
            not inside
            or filled != math.prod(whole)
            or any(starmap(_overlap, combinations(parts, 2)))
        ):
            raise CheckpointError(checkpoint, f"the parts of {name} do not make {whole}")
        if wrong := {kind for part, kind in kinds if part == name} - {tensor.dtype}:
            raise CheckpointError(checkpoint, f"{name} is of {wrong.pop()}, not {tensor.dtype}")


def _is_inside(places: Sizes, sizes: Sizes, whole: Sizes) -> bool:
    """Return whether a part lies in its tensor."""
    return len(places) == len(sizes) == len(whole) and all(
        0 <= place <= place + size <= length
        for place, size, length in zip(places, sizes, whole, strict=True)
    )


def _overlap(one: tuple[Sizes, Sizes], other: tuple[Sizes, Sizes]) -> bool:
    """Return whether two parts, places and sizes, share a number."""
    return all(max(a, b) < min(a + n, b + m) for a, n, b, m in zip(*one, *other, strict=True))


def _reason(error: Any) -> str:
    """Return the first line that a failed process gave."""
    for rank, (failure, _) in sorted(error.failures.items()):
        return f"rank {rank}: {str(failure).splitlines()[0] if str(failure) else failure!r}"
    return str(error)
