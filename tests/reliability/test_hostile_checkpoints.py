"""Checkpoints of several processes that are damaged or mean harm: one error, and no code runs.

Whoever makes a checkpoint makes its manifest too, so here the manifest always agrees.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_scratch.model.config import GPTConfig
from llm_scratch.model.gpt import GPTModel
from llm_scratch.training.checkpoints import (
    MANIFEST,
    STATE_FILE,
    VERSION,
    CheckpointError,
    entry_of,
    verify,
)
from llm_scratch.training.distributed import ONE
from llm_scratch.training.optimizer_state import begin_optimizers
from llm_scratch.training.optimizers import build_optimizers
from llm_scratch.training.sharded_checkpoints import (
    is_sharded_checkpoint,
    load_tensors,
    tensors_of_run,
)

CFG = GPTConfig(20, 6, 4, 2, 1, qkv_bias=True)
INFO = "DCP_SHARDING_INFO"


class Payload:
    """Makes a folder when it is unpickled the careless way."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def model_and_optimizers():
    model = GPTModel(CFG)
    return model, build_optimizers(model, 1e-3)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A checkpoint of two processes, and its tensors."""
    torch.manual_seed(1)
    model, optimizers = model_and_optimizers()
    begin_optimizers(model, optimizers)
    tensors = tensors_of_run(model, optimizers)
    folder = tmp_path_factory.mktemp("checkpoints") / "step-00000003"
    folder.mkdir()
    for rank in (0, 1):
        parts, places = {}, {}
        for name, tensor in tensors.items():
            half = (len(tensor) + 1) // 2 if tensor.dim() else 0
            if tensor.dim():
                parts[name] = tensor[half:].clone() if rank else tensor[:half].clone()
                places[name] = {"saved_offsets": [half * rank, *[0] * (tensor.dim() - 1)]}
            elif not rank:
                parts[name], places[name] = tensor, {"saved_offsets": []}
        write_shard(
            folder / f"shard-{rank + 1:05d}-model-00001-of-00001.safetensors", parts, places
        )
    (folder / STATE_FILE).write_text("{}", encoding="utf-8")
    sign(folder)
    return folder, tensors


def write_shard(path: Path, parts: dict, places: dict) -> None:
    save_file(parts, path, {"format": "pt", "DCP_VERSION": "1.0", INFO: json.dumps(places)})


def sign(folder: Path) -> None:
    """Write a manifest that agrees with the files."""
    (folder / MANIFEST).unlink(missing_ok=True)
    files = {path.name: entry_of(path) for path in folder.iterdir() if path.is_file()}
    manifest = {"version": VERSION, "step": 3, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


@pytest.fixture
def checkpoint(kept, tmp_path):
    return Path(shutil.copytree(kept[0], tmp_path / "step-00000003"))


def opened(checkpoint: Path) -> dict:
    """Open a checkpoint as a run does that goes on: its tensors."""
    verify(checkpoint)
    assert is_sharded_checkpoint(checkpoint)
    model, optimizers = model_and_optimizers()
    load_tensors(checkpoint, model, optimizers, ONE)
    return tensors_of_run(model, optimizers)


def shards(checkpoint: Path) -> list[Path]:
    return sorted(checkpoint.glob("shard-*"))


def changed(checkpoint: Path, change: Callable, number: int = 0) -> None:
    """Write one of the shards again, after `change(parts, places)`."""
    path = shards(checkpoint)[number]
    parts = load_file(path)
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    places = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][INFO])
    change(parts, places)
    write_shard(path, parts, places)
    sign(checkpoint)


def test_parts_make_the_whole(kept, checkpoint):
    for name, tensor in opened(checkpoint).items():
        assert torch.equal(tensor, kept[1][name]), name


def test_checkpoint_needs_no_name_of_a_shard(kept, checkpoint):
    shards(checkpoint)[0].rename(checkpoint / "shard-x.safetensors")
    with pytest.raises(CheckpointError, match="is missing"):
        opened(checkpoint)
    sign(checkpoint)
    assert torch.equal(opened(checkpoint)["tok_emb.weight"], kept[1]["tok_emb.weight"])


@pytest.mark.parametrize("number", [0, 1])
def test_missing_shard_is_refused(checkpoint, number):
    shards(checkpoint)[number].unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        verify(checkpoint)
    sign(checkpoint)
    with pytest.raises(CheckpointError, match="holds no|do not make"):
        opened(checkpoint)


def moved(parts, places):
    places["tok_emb.weight"]["saved_offsets"] = [1, 0]


def moved_away(parts, places):
    places["tok_emb.weight"]["saved_offsets"] = [1 << 40, 0]


def negative(parts, places):
    places["tok_emb.weight"]["saved_offsets"] = [-1, 0]


def of_text(parts, places):
    places["tok_emb.weight"]["saved_offsets"] = "ab"


def of_more_dimensions(parts, places):
    places["tok_emb.weight"]["saved_offsets"] = [0, 0, 0]


def without_place(parts, places):
    del places["tok_emb.weight"]


def smaller(parts, places):
    parts["tok_emb.weight"] = parts["tok_emb.weight"][:3].clone()


def of_another_type(parts, places):
    parts["tok_emb.weight"] = parts["tok_emb.weight"].long()


def without_tensor(parts, places):
    del parts["trf_blocks.0.norm1.scale.exp_avg"]


CHANGES = (moved, moved_away, negative, of_text, of_more_dimensions, without_place, smaller,
           of_another_type, without_tensor)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("number", [0, 1])
def test_changed_header_is_refused(checkpoint, change, number):
    changed(checkpoint, change, number)
    with pytest.raises(CheckpointError):
        opened(checkpoint)


def test_second_copy_of_a_part_is_refused(checkpoint):
    shutil.copy(shards(checkpoint)[0], checkpoint / "more.safetensors")
    with pytest.raises(CheckpointError, match="do not make"):
        opened(checkpoint)


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "model.safetensors.index.json"])
def test_code_beside_the_shards_is_never_run(kept, checkpoint, tmp_path, name):
    marker = tmp_path / "marker"
    (checkpoint / name).write_bytes(pickle.dumps(Payload(marker)))
    sign(checkpoint)
    assert torch.equal(opened(checkpoint)["tok_emb.weight"], kept[1]["tok_emb.weight"])
    assert not marker.exists()
    pickle.loads((checkpoint / name).read_bytes())
    assert marker.exists()  # so the payload does what it should


def test_code_instead_of_a_shard_is_never_run(checkpoint, tmp_path):
    marker = tmp_path / "marker"
    shards(checkpoint)[0].write_bytes(pickle.dumps(Payload(marker)))
    sign(checkpoint)
    with pytest.raises(CheckpointError):
        opened(checkpoint)
    assert not marker.exists()


def fuzzed(content: bytes, chance: random.Random) -> bytes:
    """Return a file with some bytes changed, mostly in its header, or cut off."""
    (size,) = struct.unpack("<Q", content[:8])
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(min(len(data), 8 + size))
        data[place] = chance.choice((0, 34, 44, 48, 57, 91, 125, 255, chance.randrange(256)))
    return bytes(data[: chance.randrange(len(data))] if chance.random() < 0.2 else data)


def assert_survives(checkpoint: Path, cases: int, seed: int) -> None:
    chance = random.Random(seed)
    path = shards(checkpoint)[0]
    content, refused = path.read_bytes(), 0
    for _ in range(cases):
        path.write_bytes(fuzzed(content, chance))
        sign(checkpoint)
        try:
            opened(checkpoint)
        except CheckpointError:
            refused += 1
    assert refused > cases // 2


def test_damaged_shards_load_or_are_refused(checkpoint):
    assert_survives(checkpoint, 60, seed=1)


@pytest.mark.slow
def test_many_damaged_shards_load_or_are_refused(checkpoint):
    assert_survives(checkpoint, 1000, seed=2)
