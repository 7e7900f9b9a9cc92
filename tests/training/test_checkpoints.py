"""A checkpoint is whole, or it is not there; what is damaged is never loaded."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from llm_scratch.files import file_sha256
from llm_scratch.training import checkpoints
from llm_scratch.training.checkpoints import (
    MANIFEST,
    OPTIMIZER_FILE,
    STATE_FILE,
    CheckpointError,
    checkpoints_in,
    clean,
    keep_newest,
    load_run,
    newest_whole,
    read_state,
    save_run,
    verify,
)

STATE = {"step": 3, "name": "x", "nothing": None, "rate": 0.1}
MOMENTS = {"x.exp_avg": torch.arange(4.0), "x.step": torch.tensor(3.0)}
FILES = ("model.safetensors", OPTIMIZER_FILE, STATE_FILE, MANIFEST)


@pytest.fixture
def saved(build, tmp_path) -> Path:
    """Two checkpoints, of steps 1 and 2; the path of the second."""
    save_run(tmp_path, 1, build(), STATE, MOMENTS)
    return save_run(tmp_path, 2, build(), STATE, MOMENTS)


def test_save_run_comes_back(build, saved):
    tensors, moments = load_run(saved)
    for name, tensor in build().state_dict().items():
        assert torch.equal(tensors[name], tensor)
    torch.testing.assert_close(moments, MOMENTS, rtol=0, atol=0)
    assert read_state(saved) == STATE


def test_save_run_takes_the_place_of_one_of_the_same_step(build, saved):
    assert save_run(saved.parent, 2, build(), {"step": 9}, {}) == saved
    assert read_state(saved) == {"step": 9}
    assert len(list(saved.parent.iterdir())) == 2


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_file_falls_back_to_the_checkpoint_before(saved, name, share):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(len(content) * share)])
    lines: list[str] = []
    assert newest_whole(saved.parent, lines.append) == saved.parent / "step-00000001"
    assert str(saved / name) in lines[0]
    assert lines[0].endswith("the previous checkpoint is step-00000001")
    with pytest.raises(CheckpointError):
        load_run(saved)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_flipped_bit_falls_back_to_the_checkpoint_before(saved, name, share):
    content = bytearray((saved / name).read_bytes())
    content[int(len(content) * share)] ^= 4
    (saved / name).write_bytes(content)
    assert newest_whole(saved.parent, lambda line: None) == saved.parent / "step-00000001"


@pytest.mark.parametrize("name", FILES)
def test_missing_file_falls_back_to_the_checkpoint_before(saved, name):
    (saved / name).unlink()
    assert newest_whole(saved.parent, lambda line: None) == saved.parent / "step-00000001"


def test_newest_whole_without_a_whole_one_is_none(saved):
    for folder in saved.parent.iterdir():
        (folder / STATE_FILE).write_bytes(b"")
    lines: list[str] = []
    assert newest_whole(saved.parent, lines.append) is None
    assert lines[-1].endswith("the previous checkpoint is none")
    assert newest_whole(saved.parent / "nowhere") is None


@pytest.mark.parametrize(
    "change", [{"version": 7}, {"files": []}, {"step": 1}, {"files": {"../x": {}}}, {"files": {}}]
)
def test_verify_refuses_a_manifest_that_says_something_else(saved, change):
    manifest = json.loads((saved / MANIFEST).read_text(encoding="utf-8"))
    (saved / MANIFEST).write_text(json.dumps({**manifest, **change}), encoding="utf-8")
    with pytest.raises(CheckpointError):
        verify(saved)


def test_full_disk_leaves_the_checkpoint_before_and_no_rest(build, saved, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    for target, name in ((os, "fsync"), (os, "rename")):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, full)
            with pytest.raises(OSError, match="No space left"):
                save_run(saved.parent, 3, build(), STATE, MOMENTS)
        assert checkpoints_in(saved.parent) == [saved, saved.parent / "step-00000001"]
        assert len(list(saved.parent.iterdir())) == 2


@pytest.mark.parametrize("value", [Path("x"), float, torch.ones(2), {1, 2}])
def test_save_run_refuses_what_json_does_not_have(build, tmp_path, value):
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_run(tmp_path, 1, build(), {"a": [1, value]}, {})
    assert not list(tmp_path.iterdir())


def test_no_file_of_a_checkpoint_is_a_pickle(saved):
    for path in saved.iterdir():
        assert path.suffix in (".json", ".safetensors"), path.name
        assert path.read_bytes()[:2] not in (b"PK", b"\x80\x02"), path.name


def test_recorded_checksums_are_those_of_the_files_without_reading_large_ones(
    build, tmp_path, monkeypatch
):
    read: list[str] = []
    monkeypatch.setattr(
        checkpoints, "file_sha256", lambda path: (read.append(path.name), file_sha256(path))[1]
    )
    saved = save_run(tmp_path, 1, build(), STATE, MOMENTS)
    assert read == [STATE_FILE]
    files = json.loads((saved / MANIFEST).read_text(encoding="utf-8"))["files"]
    assert list(files) == ["model.safetensors", OPTIMIZER_FILE, STATE_FILE]
    for name, entry in files.items():
        assert entry["sha256"] == file_sha256(saved / name)
        assert entry["bytes"] == (saved / name).stat().st_size


def test_keep_newest_removes_the_others_and_what_was_left_behind(build, saved):
    (saved.parent / "step-00000003.abcd.part").mkdir()
    keep_newest(saved.parent, 1)
    assert [path.name for path in saved.parent.iterdir()] == ["step-00000002"]


def test_clean_leaves_finished_checkpoints(saved):
    clean(saved.parent)
    assert len(checkpoints_in(saved.parent)) == 2


def test_save_run_syncs_before_it_renames(build, tmp_path, monkeypatch):
    order: list[str] = []
    sync, rename = os.fsync, os.rename
    monkeypatch.setattr(checkpoints.os, "fsync", lambda n: (order.append("sync"), sync(n))[1])
    monkeypatch.setattr(
        checkpoints.os, "rename", lambda a, b: (order.append("rename"), rename(a, b))[1]
    )
    save_run(tmp_path, 1, build(), STATE, MOMENTS)
    assert order.index("rename") > order.index("sync")
    assert order.count("rename") == 1
