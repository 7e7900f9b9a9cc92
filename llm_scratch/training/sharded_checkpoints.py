"""Checkpoints written by several processes, each its part, and read by any number of them.

The tensors are in safetensors files, one per process, in the format of PyTorch's distributed
checkpoints, which can read them too: the header gives the offsets of each part in its tensor. No
file of a checkpoint is a pickle, and none can hold code. The module `checkpoints` describes the
other files.
"""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, starmap
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from llm_scratch.files import first_line, part_beside, write_text
from llm_scratch.training.checkpoints import (
    STATE_FILE,
    CheckpointError,
    finish,
    is_plain,
    learning_of,
    write_tensors,
)
from llm_scratch.training.distributed import Ranks
from llm_scratch.training.optimizer_state import begin_optimizers, optimizer_tensors
from llm_scratch.training.sharding import is_sharded, local
from llm_scratch.weights.tokenizer_files import save_tokenizer

Sizes = tuple[int, ...]
Place = tuple[str, Sizes]  # the name of a tensor, and the offsets of a part in it
SHARD = "shard-{:05d}-model-00001-of-00001.safetensors"  # as PyTorch names them
SHARDS = "shard-*.safetensors"


def is_sharded_checkpoint(checkpoint: Path) -> bool:
    """Return whether a checkpoint was written in parts by several processes."""
    return any(checkpoint.glob(SHARDS))


def save_sharded(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    ranks: Ranks,
    tokenizer: Any = None,
) -> Path:
    """Write a checkpoint jointly; return its path, the same in every process.

    Args:
        folder: the folder of the run's checkpoints.
        step: the step, which names the checkpoint.
        tensors: the tensors of this process by name: parts, or tensors that it alone holds.
        state: as in `checkpoints.save_run`.
        ranks: the processes.
        tokenizer: written beside the tensors.

    Raises:
        TypeError: if `state` holds something that JSON can't represent.
        OSError: in all processes, naming one that can't write its part; nothing that looks like a
            checkpoint stays.
    """
    text = json.dumps(state, indent=1, ensure_ascii=False)
    target = folder / f"step-{step:08d}"
    part = Path(ranks.gather(str(part_beside(target)))[0])
    parts = parts_of(tensors)
    writers = writers_of(ranks.gather({place: held.nbytes for place, held in parts.items()}))
    own = {place: held for place, held in parts.items() if writers[place] == ranks.rank}
    files: dict[str, Any] = {}

    def write() -> dict[str, Any]:
        part.mkdir(parents=True, exist_ok=True)
        return _write_shard(part / SHARD.format(ranks.rank + 1), own)

    def complete() -> None:
        if ranks.first:
            if tokenizer is not None:
                save_tokenizer(tokenizer, part)
            write_text(part / STATE_FILE, text + "\n")
            finish(part, target, files)

    try:
        for entries in _by_all(ranks, target, write):
            files |= entries
        _by_all(ranks, target, complete)
    finally:
        if ranks.first:
            shutil.rmtree(part, ignore_errors=True)
    return target


def parts_of(tensors: Mapping[str, Tensor]) -> dict[Place, Tensor]:
    """Return the parts that this process holds, by tensor name and offsets."""
    parts = {}
    for name, tensor in tensors.items():
        held = local(tensor)
        if held.numel() or not tensor.numel():  # a tensor may have fewer rows than processes
            parts[name, _offsets(tensor)] = held
    return parts


def _offsets(tensor: Any) -> Sizes:
    if not is_sharded(tensor):
        return (0,) * tensor.dim()
    (chunk,) = tensor.__create_chunk_list__()  # the hook that PyTorch's own checkpoints use
    return tuple(chunk.offsets)


def writers_of(held: Sequence[Mapping[Place, int]]) -> dict[Place, int]:
    """Return the rank that writes each part: one that holds it, with the load balanced.

    Args:
        held: for each process, the parts that it holds, with their bytes.
    """
    holders: dict[Place, list[int]] = {}
    sizes: dict[Place, int] = {}
    for rank, parts in enumerate(held):
        for place, size in parts.items():
            holders.setdefault(place, []).append(rank)
            sizes[place] = size
    loads, writers = [0] * len(held), {}
    # Parts with the fewest holders first, then the largest.
    for place in sorted(holders, key=lambda p: (len(holders[p]), -sizes[p], p)):
        writers[place] = min(holders[place], key=lambda rank: loads[rank])
        loads[writers[place]] += sizes[place]
    return writers


def _write_shard(path: Path, own: Mapping[Place, Tensor]) -> dict[str, Any]:
    """Write the parts of one process; return the file's entry in the manifest."""
    if not own:
        return {}
    places = {name: {"saved_offsets": offsets} for name, offsets in own}
    metadata = {"DCP_SHARDING_INFO": json.dumps(places), "DCP_VERSION": "1.0"}
    return write_tensors(path, {name: held for (name, _), held in own.items()}, metadata)


def _by_all(ranks: Ranks, target: Path, work: Callable[[], Any]) -> list[Any]:
    """Run `work` in each process; return the results of all.

    Raises:
        OSError: in all processes if one could not write, naming its rank.
    """
    result, failure = None, None
    try:
        result = work()
    except OSError as err:
        failure = err
    found = ranks.gather((result, failure and first_line(failure)))
    for rank, (_, reason) in enumerate(found):
        if reason:
            raise OSError(f"{target} could not be written: rank {rank}: {reason}") from failure
    return [result for result, _ in found]


def tensors_of_run(model: nn.Module, optimizers: Any) -> dict[str, Tensor]:
    """Return the tensors of a model and its optimizers to save; of divided ones, the parts."""
    parameters = dict(model.named_parameters()) if is_plain(model) else learning_of(model)
    return {
        **{name: parameter.detach() for name, parameter in parameters.items()},
        **optimizer_tensors(model, optimizers),
    }


def load_tensors(checkpoint: Path, model: nn.Module, optimizers: Any, ranks: Ranks) -> None:
    """Fill a model and its new optimizers from a checkpoint of any number of processes.

    Raises:
        CheckpointError: if a tensor is missing, incomplete, or of another shape or type.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    begin_optimizers(model, optimizers)
    tensors = tensors_of_run(model, optimizers)
    reader = HuggingFaceStorageReader(str(checkpoint))
    try:
        _check_parts(checkpoint, reader.read_metadata(), tensors)
        with warnings.catch_warnings():  # a single process loads alone on purpose
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp.load(tensors, storage_reader=reader, no_dist=ranks.count == 1)
    except dcp.api.CheckpointException as err:
        raise CheckpointError(checkpoint, f"can't be read: {_reason(err)}") from err
    except CheckpointError:
        raise
    except Exception as err:  # PyTorch's reader raises many types of error on damage
        raise CheckpointError(checkpoint, f"can't be read: {err}") from err


def _check_parts(checkpoint: Path, saved: Any, tensors: Mapping[str, Tensor]) -> None:
    """Check that the parts of each tensor cover it exactly once, in its type."""
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
    """Return whether two parts, as (places, sizes), overlap."""
    return all(max(a, b) < min(a + n, b + m) for a, n, b, m in zip(*one, *other, strict=True))


def _reason(error: Any) -> str:
    """Return the first line of the error of the first failed process."""
    for rank, (failure, _) in sorted(error.failures.items()):
        return f"rank {rank}: {str(failure).splitlines()[0] if str(failure) else failure!r}"
    return str(error)
