"""Checkpoints of a run: everything that the next step needs, written atomically.

A checkpoint is a folder with a model as `save_model` writes it (so every command that takes a
model takes a checkpoint), `optimizer.safetensors` with the state of the optimizers, `state.json`
with the progress of the run, and `manifest.json` with the size and SHA-256 of each file. The hash
of a large file is computed while it is written. The folder is written under a temporary name,
synced to disk, and renamed last. None of its files can hold code.

Of a model with LoRA only the trainable parameters are written, to `trained.safetensors`. A hash in
the run's state tells whether the frozen ones are still the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from llm_scratch.files import PART, file_sha256, part_beside, read_json, write_text
from llm_scratch.model.families import parameter_shapes
from llm_scratch.model.heads import head_of
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.reading import read_tensors
from llm_scratch.tensor_files.safetensors import write_safetensors
from llm_scratch.weights.folder import WEIGHTS_FILE, load_model, write_model
from llm_scratch.weights.folder_metadata import checksum

STATE_FILE, MANIFEST, TRAINED_FILE = "state.json", "manifest.json", "trained.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
VERSION = 2
NAME = re.compile(r"step-(\d{8})")


class CheckpointError(WeightsError):
    """A checkpoint that is damaged, unsafe or incomplete."""


def save_run(
    folder: Path,
    step: int,
    model: nn.Module,
    state: Mapping[str, Any],
    optimizers: Mapping[str, Tensor],
    tokenizer: Any = None,
    chat_format: Any = None,
) -> Path:
    """Write a checkpoint into `folder` and return its path.

    Args:
        folder: the folder of the run's checkpoints, created if missing.
        step: the step, which names the checkpoint.
        model: a `GPTModel`, with or without LoRA.
        state: numbers, strings, and lists and dicts of them.
        optimizers: the tensors of the optimizers' state, by name.
        tokenizer: written beside the model.
        chat_format: the chat format of the model.

    Raises:
        TypeError: if `state` holds something that JSON can't represent.
        OSError: if the checkpoint can't be written; nothing half-written stays.
    """
    text = json.dumps(state)
    target = folder / f"step-{step:08d}"
    part = part_beside(target)
    part.mkdir(parents=True)
    try:
        if is_plain(model):
            digest = hashlib.sha256()
            write_model(model, part, tokenizer, chat_format, digest.update)
            files = {WEIGHTS_FILE: entry_of(part / WEIGHTS_FILE, digest.hexdigest())}
        else:
            files = write_tensors(part / TRAINED_FILE, learning_of(model))
        files |= write_tensors(part / OPTIMIZER_FILE, optimizers)
        write_text(part / STATE_FILE, text)
        finish(part, target, files)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Write a safetensors file; return its manifest entry, keyed by file name."""
    digest = hashlib.sha256()
    write_safetensors(path, tensors, metadata or {}, digest.update)
    return {path.name: entry_of(path, digest.hexdigest())}


def finish(part: Path, target: Path, files: Mapping[str, Any]) -> None:
    """Write the manifest of a checkpoint whose files are complete, and rename it.

    Args:
        part: the temporary folder of the files.
        target: the final path of the checkpoint.
        files: the manifest entries known so far; the other files are read to compute theirs.
    """
    others = {path.name: entry_of(path) for path in part.iterdir() if path.name not in files}
    entries = dict(sorted({**files, **others}.items()))
    manifest = {"version": VERSION, "step": step_of(target), "files": entries}
    write_text(part / MANIFEST, json.dumps(manifest, indent=1))
    sync_folder(part)
    _take_place(part, target)
    sync_folder(target.parent)


def entry_of(path: Path, sha256: str | None = None) -> dict[str, Any]:
    """Return the manifest entry of a file; without `sha256`, read the file to compute it."""
    return {"bytes": path.stat().st_size, "sha256": sha256 or file_sha256(path)}


def learning_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the trainable parameters, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def is_plain(model: Any) -> bool:
    """Return whether a model has only the parameters of its family, without extras like LoRA's."""
    return model.state_dict().keys() <= parameter_shapes(model.cfg, head_of(model)).keys()


def frozen_mark(model: nn.Module) -> str:
    """Return a hash of the layers and frozen parameters, which training keeps: 16 hex digits."""
    digest = hashlib.sha256(repr(model).encode("utf-8"))
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            digest.update(f"{name} {checksum(parameter)}".encode())
    return digest.hexdigest()[:16]


def _take_place(part: Path, target: Path) -> None:
    """Rename a finished checkpoint, replacing one of the same step from an earlier attempt."""
    old = part_beside(target)
    if target.exists():
        os.rename(target, old)
    os.rename(part, target)
    shutil.rmtree(old, ignore_errors=True)


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, newest first, including damaged ones."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if NAME.fullmatch(p.name)), reverse=True)


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix("step-"))


def keep_newest(folder: Path, count: int) -> None:
    """Remove all but the newest `count` checkpoints, and leftovers of interrupted writes."""
    for old in checkpoints_in(folder)[count:]:
        # Renamed first: an interrupted removal then leaves nothing that looks like a checkpoint.
        away = part_beside(old)
        os.rename(old, away)
        shutil.rmtree(away, ignore_errors=True)
    clean(folder)


def clean(folder: Path) -> None:
    """Remove the leftovers of interrupted writes and removals from a folder."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.endswith(PART):
                shutil.rmtree(path, ignore_errors=True)


def newest_whole(
    folder: Path, log: Callable[[str], object] = print, before: int | None = None
) -> Path | None:
    """Return the newest intact checkpoint; None where there is none.

    For each damaged one, a logged line says what is wrong and names the previous checkpoint.
    With `before`, only checkpoints of earlier steps are considered.
    """
    paths = [path for path in checkpoints_in(folder) if before is None or step_of(path) < before]
    for index, path in enumerate(paths):
        try:
            verify(path)
        except CheckpointError as err:
            fallback = paths[index + 1].name if index + 1 < len(paths) else "none"
            log(f"{err}; the previous checkpoint is {fallback}")
        else:
            return path
    return None


def verify(checkpoint: Path) -> None:
    """Compare the files of a checkpoint with its manifest.

    Raises:
        CheckpointError: naming the first file that is missing, of another size or changed.
    """
    path = checkpoint / MANIFEST
    try:
        manifest = read_json(path)
        files, version = dict(manifest["files"]), manifest["version"]
        expected = {
            str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()
        }
        same_step = manifest["step"] == step_of(checkpoint)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as err:
        raise CheckpointError(path, "is missing or damaged") from err
    if version != VERSION:
        raise CheckpointError(path, f"is of version {version!r}, this library reads {VERSION}")
    if not same_step or STATE_FILE not in expected:
        raise CheckpointError(path, "does not belong to this checkpoint")
    for name, (size, digest) in expected.items():
        file = checkpoint / name
        if Path(name).name != name or not file.is_file():
            raise CheckpointError(file, "is missing")
        if file.stat().st_size != size:
            found = file.stat().st_size
            raise CheckpointError(file, f"is damaged: {found} bytes long, {size} were written")
        if file_sha256(file) != digest:
            raise CheckpointError(file, "is damaged: its checksum does not agree")


def load_run(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the parameters and the optimizers' tensors that `save_run` wrote.

    Raises:
        CheckpointError: if a file is damaged or missing.
    """
    verify(checkpoint)
    optimizers = _tensors_in(checkpoint / OPTIMIZER_FILE)
    if (checkpoint / TRAINED_FILE).is_file():
        return _tensors_in(checkpoint / TRAINED_FILE), optimizers
    model, _ = load_model(checkpoint)
    return dict(model.state_dict()), optimizers


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return the saved state of a run.

    Raises:
        CheckpointError: if the file is damaged or missing.
    """
    try:
        return read_json(checkpoint / STATE_FILE, error=CheckpointError)
    except OSError as err:
        raise CheckpointError(checkpoint / STATE_FILE, "can't be read") from err


def _tensors_in(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(path, "is missing")
    found = read_tensors(path, mapped=False).tensors
    return {name: stored.tensor for name, stored in found.items()}


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk, on POSIX systems only."""
    if os.name != "posix":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
