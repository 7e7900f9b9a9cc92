"""Files that claim more than they hold: refused before anything is allocated."""

from __future__ import annotations

import json
import struct
import sys
import time
import zipfile
from collections import OrderedDict

import pytest
import torch
from gguf_bytes import ARRAY, Q8_0, STRING, UINT8, UINT16, array, gguf, key, tensor, text, u64

from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.gguf import read_gguf
from llm_scratch.tensor_files.gguf_header import LONGEST_HEADER
from llm_scratch.weights.gpt2 import load_gpt2

# What torch and pickletools say about damaged pickles before they give up on them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Detected pickle protocol"),
    pytest.mark.filterwarnings("ignore:invalid escape sequence"),
]

MOST_MEMORY = 64 << 20  # the files here have some kB: what a process needs for itself


def peak_memory():
    """The most bytes that this process has held; 0 where nobody counts them."""
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@pytest.fixture
def memory_limit():
    before = peak_memory()
    yield
    assert peak_memory() - before < MOST_MEMORY


# claims


def write_safetensors(path, header, data=b""):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"wte.weight": entry([10**12], 0, 4 * 10**12)}, "claims 4000000000000 bytes"),
        ({"wte.weight": entry([10**6, 10**6], 0, 16)}, "has 16 bytes"),
        ({"wte.weight": entry([0, 2**60], 0, 0)}, "holds wrong numbers"),
        ({"wte.weight": entry([0, 2**58, 4], 0, 0)}, "has 0 bytes"),
        ({"wte.weight": entry([-4], 0, 16)}, "holds wrong numbers"),
        ({"wte.weight": entry([True], 0, 4)}, "holds wrong numbers"),
        ({"wte.weight": entry([4.0], 0, 16)}, "holds wrong numbers"),
        ({"wte.weight": entry([1] * 40, 0, 4)}, "holds wrong numbers"),
        ({"wte.weight": entry([4], 0, 16, "F33")}, "of type 'F33'"),
        ({"wte.weight": entry([4], 0, 16, ["F32"])}, "of type"),
        ({"a": entry([4], 0, 16), "b": entry([4], 0, 16)}, "overlap or leave a gap"),
        ({"a": entry([2], 0, 8), "b": entry([1], 12, 16)}, "overlap or leave a gap"),
        ({"a": entry([2], 0, 8)}, "claims 8 bytes, the file holds 16"),
        ({"a": {"dtype": "F32"}}, "incomplete"),
        ({"a": 3}, "incomplete"),
        ({"__metadata__": {"a": 1}}, "are not texts"),
        (b"{" + b'"a":[' * 60_000, "damaged"),
        (b"{" * 100, "damaged"),
        (b'{"a": ' + b"9" * 5000 + b"}", "damaged"),
        (b"\xff{", "neither safetensors nor"),
    ],
)
def test_safetensors_header_that_lies_is_refused(tmp_path, memory_limit, header, message):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, header, bytes(16))
    with pytest.raises(WeightsError, match=message):
        load_gpt2(path)


def test_safetensors_length_that_lies_is_refused(tmp_path, memory_limit):
    path = tmp_path / "model.safetensors"
    for length in (2**63, 10**12, 200):
        path.write_bytes(length.to_bytes(8, "little") + b"{}" + bytes(80))
        with pytest.raises(WeightsError, match=f"claims a header of {length} bytes"):
            load_gpt2(path)


class Claim:
    """Becomes a tensor of any shape on four numbers."""

    def __init__(self, shape, stride):
        self.shape, self.stride = shape, stride

    def __reduce__(self):
        storage = torch.ones(4).storage()
        arguments = (storage, 0, self.shape, self.stride, False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("shape", "stride"),
    [((10**12,), (1,)), ((10**12, 4), (0, 1)), ((10**6, 10**6), (0, 0)), ((1500,) * 3, (0, 0, 1))],
)
def test_pth_that_claims_too_much_is_refused(tmp_path, memory_limit, shape, stride, zipped):
    path = tmp_path / "model.pth"
    state = {"tok_emb.weight": Claim(shape, stride)}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"claims \d+ |damaged or cut off"):
        load_gpt2(path)


def test_pth_that_unpacks_to_more_is_refused(tmp_path, memory_limit):
    path, packed = tmp_path / "model.pth", tmp_path / "packed.pth"
    torch.save({"tok_emb.weight": torch.zeros(3_000_000)}, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    assert packed.stat().st_size < path.stat().st_size / 100
    with pytest.raises(WeightsError, match="its records are compressed"):
        load_gpt2(packed)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "holds a list"),
        ({"a": 1}, "'a' is a int"),
        ({3: torch.ones(1)}, "'3' is a Tensor"),
        ({"tok_emb.weight": torch.ones(2, 2).to_sparse()}, "sparse"),
        ({"tok_emb.weight": torch.ones(2, 2, dtype=torch.complex64)}, "complex64"),
        ({}, "no tensors"),
        (torch.ones(2), "holds a Tensor"),
    ],
)
def test_pth_of_something_else_is_refused(tmp_path, value, message):
    torch.save(value, tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=message):
        load_gpt2(tmp_path / "model.pth")


@pytest.mark.parametrize("file", ["../outside.bin", "/outside.bin", "a/b.bin", "..", ""])
def test_index_that_points_outside_is_refused(tmp_path, file):
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"wte.weight": file}}), encoding="utf-8")
    with pytest.raises((WeightsError, FileNotFoundError)) as caught:
        load_gpt2(tmp_path)
    assert isinstance(caught.value, WeightsError) or file == ".."


MANY = (2**60, 2**64 - 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((gguf(n_keys=n), f"claims {n} keys and 0 tensors in a file of 32 bytes") for n in MANY),
        *((gguf(n_tensors=n), f"claims 0 keys and {n} tensors in a") for n in MANY),
        *((gguf([u64(n)], n_keys=1), "a file of 32 bytes") for n in MANY),
        *((gguf([u64(n) + bytes(99)]), f"the name of a key should have {n} bytes") for n in MANY),
        *((gguf([key("a", STRING, u64(n))]), f"'a' should have {n} bytes") for n in MANY),
        *((gguf([key("a", ARRAY, array(STRING, n))]), f"should have {8 * n} bytes") for n in MANY),
        *((gguf([key("a", ARRAY, array(UINT8, n))]), f"'a' should have {n} bytes") for n in MANY),
        *((gguf([key("a", ARRAY, array(UINT16, n))]), f"have {2 * n} bytes") for n in MANY),
        *(
            (gguf([key("a", ARRAY, array(STRING, 2, text("b") + u64(n)))], data=bytes(99)), "bytes")
            for n in MANY
        ),
        *((gguf((), [u64(n) + bytes(99)]), f"of a tensor should have {n} bytes") for n in MANY),
        *((gguf((), [tensor(dims=(n,))]), "can't have the shape") for n in MANY),
        *((gguf((), [tensor(dims=(n, 0))]), "can't have the shape") for n in MANY),
        *((gguf((), [tensor(dims=(n, n, n, 0))]), "can't have the shape") for n in MANY),
        *((gguf((), [tensor(offset=n)], bytes(32)), "overlap or leave a gap") for n in MANY),
        (gguf((), [tensor(dims=(2**58,))]), "claims 1152921504606847"),
        (gguf((), [tensor(dims=(2**58,), kind=Q8_0)]), "cut off or damaged"),
        (gguf((), [tensor(dims=(2**31, 2**27), kind=Q8_0)]), "cut off or damaged"),
    ],
)
def test_gguf_that_claims_too_much_is_refused(tmp_path, memory_limit, content, message):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_gguf(path)


@pytest.mark.parametrize(("kind", "count"), [(STRING, 2**24), (UINT8, 2**26)])
def test_gguf_header_longer_than_any_is_refused(tmp_path, memory_limit, kind, count):
    """The file is as large as its header claims: a hole, which takes no disk on most systems."""
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf([key("a", ARRAY, array(kind, count))], alignment=1))
    with open(path, "r+b") as file:
        file.truncate(2**28)
    start = time.monotonic()
    with pytest.raises(WeightsError, match=f"its header has more than {LONGEST_HEADER:,} bytes"):
        read_gguf(path)
    assert time.monotonic() - start < 5


def test_gguf_with_many_tensors_of_one_name_is_refused(tmp_path, memory_limit):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf((), [tensor(str(n % 20_000), (0,)) for n in range(40_000)]))
    with pytest.raises(WeightsError, match="the tensor '0' is there twice"):
        read_gguf(path)


def test_gguf_count_of_tensors_that_is_too_small_is_refused(tmp_path):
    entries = [tensor(str(n), offset=32 * n) for n in range(5)]
    good = gguf((), entries, bytes(160))
    path = tmp_path / "model.gguf"
    for count in range(6):
        path.write_bytes(good[:8] + struct.pack("<Q", count) + good[16:])
        if count == 5:
            assert len(read_gguf(path).tensors) == 5
        else:
            with pytest.raises(WeightsError, match="the file holds"):
                read_gguf(path)
