"""Several processes write a checkpoint together: each its part, and what all have once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from run_cases import DIVISIONS
from safetensors import safe_open
from safetensors.torch import load_file
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

from llm_scratch.training.checkpoints import read_state, verify
from llm_scratch.training.sharded_checkpoints import writers_of

CASES = {
    2: ("gpt-ddp", "gpt-optimizer-tied", "gpt-full", "llama-mesh21", "gpt-full-muon", "odd"),
    4: ("gpt-mesh22", "gpt-optimizer", "odd"),
}


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def saved(request, server, tmp_path_factory) -> tuple[Path, int]:
    """A folder of checkpoints that so many processes wrote, a case each."""
    folder, count = tmp_path_factory.mktemp("saved"), request.param
    ended = server.run(count, "save", str(folder), *CASES[count])
    assert ended.codes == [0] * count, ended.outputs
    return folder, count


def known(folder: Path, case: str) -> dict[str, torch.Tensor]:
    """Return all tensors, whole, that the processes had."""
    paths = (folder / case).glob("known-*.safetensors")
    return {name: tensor for path in paths for name, tensor in load_file(path).items()}


def test_one_process_reads_the_bytes_that_several_wrote(saved):
    folder, count = saved
    for case in CASES[count]:
        wanted = known(folder, case)
        found = {name: torch.zeros_like(tensor) for name, tensor in wanted.items()}
        checkpoint = folder / case / "step-00000003"
        reader = HuggingFaceStorageReader(str(checkpoint))
        dcp.load(found, storage_reader=reader, no_dist=True)
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items()), case
        assert read_state(checkpoint) == {"case": case}


def test_recorded_checksums_are_the_files(saved):
    folder, count = saved
    for case in CASES[count]:
        verify(folder / case / "step-00000003")


def test_every_number_is_written_once_and_each_process_writes_its_share(saved):
    folder, count = saved
    for case in CASES[count]:
        wanted = known(folder, case)
        written = []
        for path in sorted((folder / case / "step-00000003").glob("shard-*")):
            with safe_open(path, "pt") as file:
                written.append(sum(file.get_tensor(name).nbytes for name in file.keys()))
        assert sum(written) == sum(tensor.nbytes for tensor in wanted.values()), case
        assert len(written) == count, case
        if case != "odd":  # whose tensors can't be shared out evenly
            assert max(written) - min(written) <= max(t.nbytes for t in wanted.values()), case


def test_full_disk_of_one_process_is_named_by_all_and_leaves_nothing(saved):
    folder, count = saved
    *said, _ = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    assert len(said) == count
    for shard, left, sync, left_again, finish, left_at_last, next_one in said:
        for message, rank in ((shard, count - 1), (sync, count - 1), (finish, 0)):
            assert message == (
                f"{folder / 'full' / 'step-00000005'} could not be written: rank {rank}: "
                "[Errno 28] No space left on device"
            )
        assert [left, left_again, left_at_last] == ["[]"] * 3
        assert next_one == "step-00000006"


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a Linux process")
def test_saving_takes_the_memory_of_a_small_part_of_a_share(saved):
    folder, _ = saved
    *_, shares = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    assert max(shares) < 0.4, shares


def test_cases_are_all_ways_to_divide():
    words = {word for cases in CASES.values() for case in cases for word in case.split("-")}
    assert {"ddp", "optimizer", "full", "mesh21", "mesh22"} <= words & DIVISIONS.keys()


A, B, C, D = (("abcd"[n], (0,)) for n in range(4))


def test_writers_of_parts_that_one_process_has_are_those():
    assert writers_of([{A: 5, B: 1}, {C: 900}]) == {A: 0, B: 0, C: 1}


def test_writers_of_parts_that_all_have_write_as_much():
    held = {A: 40, B: 30, C: 20, D: 10}
    writers = writers_of([held, dict(reversed(held.items()))])
    assert [sum(held[place] for place in held if writers[place] == rank) for rank in (0, 1)] == [
        50,
        50,
    ]


def test_writers_of_parts_make_up_for_what_one_alone_has():
    held = {A: 40, B: 30, C: 20}
    assert writers_of([held | {D: 95}, held]) == {D: 0, A: 1, B: 1, C: 1}
    assert writers_of([held | {D: 35}, held]) == {D: 0, A: 1, B: 0, C: 1}


def test_writers_of_copies_are_among_their_holders():
    writers = writers_of([{A: 9}, {B: 9}, {A: 9}, {B: 9}])
    assert writers == {A: 0, B: 1}
