"""Files that are damaged or mean harm: each loads or raises `WeightsError`, and runs nothing."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import runpy
import shutil
import sys
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from llm_scratch.model.config import GPTConfig
from llm_scratch.model.gpt import GPTModel
from llm_scratch.weights.errors import WeightsError
from llm_scratch.weights.folder import load_model, save_model
from llm_scratch.weights.gpt2 import load_gpt2
from llm_scratch.weights.huggingface import export_huggingface
from llm_scratch.weights.tensor_bundle import TensorBundle

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "tensorflow"
WRITER = runpy.run_path(str(FIXTURES / "bundle_writer.py"))
CFG = GPTConfig(20, 6, 4, 2, 1, qkv_bias=True, tie_weights=True)
LONGEST_SECONDS = 5.0
MOST_MEMORY = 64 << 20  # the files here have some kB: what a process needs for itself


def peak_memory():
    """Bytes that this process has held at the most; 0 where nobody counts them."""
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


class Payload:
    """Makes a folder when it is unpickled the careless way."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def pickles(marker):
    zipped, old = io.BytesIO(), io.BytesIO()
    state = OrderedDict([("tok_emb.weight", torch.ones(2, 2)), ("x", Payload(marker))])
    torch.save(state, zipped)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    plain = [pickle.dumps(Payload(marker), protocol) for protocol in (0, 2, 4)]
    return [zipped.getvalue(), old.getvalue(), *plain]


ACCEPTED_NAMES = [
    "pytorch_model.bin",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "config.json",
    "hparams.json",
    "model.ckpt.index",
    "model.ckpt.data-00000-of-00001",
    "checkpoint",
    "pytorch_model-00001-of-00001.bin",
    "weights.pth",
    "weights.pt",
    "weights.bin",
    "weights.safetensors",
    "weights",
]


@pytest.mark.parametrize("forced", ["0", "1"])
@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("name", ACCEPTED_NAMES)
def test_code_in_a_file_is_never_run(tmp_path, monkeypatch, name, number, forced):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", forced)
    marker, folder = tmp_path / "marker", tmp_path / "model"
    if name.startswith(("model.ckpt", "hparams", "checkpoint")):
        shutil.copytree(FIXTURES / "gpt2_tiny", folder)
    else:
        folder.mkdir()
        if name == "config.json":
            export_huggingface(GPTModel(CFG), folder)
        if name == "pytorch_model-00001-of-00001.bin":
            index = json.dumps({"weight_map": {"wte.weight": name}})
            (folder / "pytorch_model.bin.index.json").write_text(index, encoding="utf-8")
    path = folder / name
    path.write_bytes(pickles(marker)[number])
    for source in (folder, path):
        try:
            load_gpt2(source, config=CFG)
        except (WeightsError, FileNotFoundError) as err:
            assert str(folder) in str(err)
        else:  # a checkpoint's state file is only a hint, its numbers are only numbers
            assert name in ("checkpoint", "model.ckpt.data-00000-of-00001")
    assert not marker.exists()
    pickle.loads(pickles(marker)[2])
    assert marker.exists()  # so the payload does what it should


@pytest.mark.parametrize("number", [0, 1])
def test_refusal_says_that_it_holds_code(tmp_path, number):
    path = tmp_path / "weights.pth"
    path.write_bytes(pickles(tmp_path / "marker")[number])
    with pytest.raises(WeightsError, match=r"refused: it holds code or objects other than") as err:
        load_gpt2(path)
    assert err.value.path == str(path)


# damaged files


def good_bundle(folder):
    shutil.copytree(FIXTURES / "gpt2_tiny", folder)
    return folder / "model.ckpt.index", lambda: TensorBundle(folder).verify()


def good_safetensors(folder):
    export_huggingface(GPTModel(CFG), folder)
    return folder / "model.safetensors", lambda: load_gpt2(folder)


def good_config(folder):
    export_huggingface(GPTModel(CFG), folder)
    return folder / "config.json", lambda: load_gpt2(folder)


def good_own(folder):
    save_model(GPTModel(CFG), folder)
    return folder / "model.safetensors", lambda: load_model(folder)


def good_pth(folder, zipped=True):
    folder.mkdir()
    path = folder / "model.pth"
    state = GPTModel(CFG).state_dict()
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    return path, lambda: load_gpt2(path, config=CFG)


def good_old_pth(folder):
    return good_pth(folder, zipped=False)


FORMATS = [good_bundle, good_safetensors, good_pth, good_old_pth, good_config, good_own]


def attempt(path, load):
    """Whether it loads; everything but the one error class goes through."""
    start = time.monotonic()
    try:
        load()
        loaded = True
    except WeightsError as err:
        assert err.path
        assert err.hint
        assert str(path.parent) in err.path
        assert "\n" not in str(err)
        loaded = False
    assert time.monotonic() - start < LONGEST_SECONDS
    return loaded


@pytest.mark.parametrize("make", FORMATS)
def test_file_cut_off_at_any_length_is_refused(tmp_path, make, memory_limit):
    path, load = make(tmp_path / "m")
    assert attempt(path, load)
    content = path.read_bytes()
    for number in range(20):
        path.write_bytes(content[: len(content) * number // 20])
        assert not attempt(path, load)
    path.write_bytes(content[:-1])
    # the end of a configuration is a line break, that of a zip archive a comment's length
    assert attempt(path, load) <= (make is good_config)


def flip(content, source):
    damaged = bytearray(content)
    for _ in range(source.choice((1, 1, 1, 2, 8))):
        damaged[source.randrange(len(damaged))] ^= 1 << source.randrange(8)
    return bytes(damaged)


def replaced(content, source):
    """A few bytes overwritten by extreme ones, which lengths and offsets are made of."""
    damaged = bytearray(content)
    start = source.randrange(len(damaged))
    chunk = source.choice((b"\xff", b"\0", b"9", b"\x7f")) * source.choice((1, 2, 4, 8))
    damaged[start : start + len(chunk)] = chunk
    return bytes(damaged)


def fuzz(make, folder, count, seed):
    path, load = make(folder)
    content = path.read_bytes()
    source = random.Random(seed)
    for number in range(count):
        path.write_bytes((flip, replaced)[number % 4 == 3](content, source))
        loaded = attempt(path, load)
        if loaded and make in (good_bundle, good_own):  # these have checksums for all that counts
            assert path.read_bytes() == content or b'"format"' in content
    return path, load


BLOB_STARTS = {
    good_bundle: [b""],
    good_safetensors: [b"", b"\x40\0\0\0\0\0\0\0{", b'\x20\0\0\0\0\0\0\0{"a":'],
    good_own: [b"", b'\x20\0\0\0\0\0\0\0{"__metadata__":{'],
    good_pth: [b"", b"PK\x03\x04", b"\x80\x02"],
    good_old_pth: [b"", b"\x80\x02", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."],
    good_config: [b"", b"{", b'{"n_head": '],
}


def blobs(make, folder, count, seed):
    path, load = make(folder)
    source = random.Random(seed)
    for _ in range(count):
        blob = source.choice(BLOB_STARTS[make]) + source.randbytes(source.randrange(3000))
        if make is good_bundle and source.random() < 0.7:
            blob += WRITER["MAGIC"].to_bytes(8, "little")
        path.write_bytes(blob)
        assert not attempt(path, load)


@pytest.mark.parametrize("make", FORMATS)
def test_fuzzed_file_loads_or_raises_the_one_error(tmp_path, make, memory_limit):
    fuzz(make, tmp_path / "m", 250, seed=1)
    blobs(make, tmp_path / "b", 50, seed=2)


@pytest.mark.slow
@pytest.mark.parametrize("make", FORMATS)
def test_fuzzed_file_loads_or_raises_the_one_error_in_full(tmp_path, make, memory_limit):
    fuzz(make, tmp_path / "m", 10_000, seed=3)
    blobs(make, tmp_path / "b", 2_000, seed=4)


def test_fuzzed_index_with_right_checksums(tmp_path, memory_limit):
    """Somebody who means harm computes the checksums too: the parser itself must hold."""
    folder = shutil.copytree(FIXTURES / "gpt2_tiny", tmp_path / "m")
    index = folder / "model.ckpt.index"
    content = index.read_bytes()
    size = content.rindex(b"\0\0\0\0\1\0\0\0", 0, len(content) - 80) + 8
    source = random.Random(5)
    outcomes = set()
    for _ in range(400):
        block = flip(content[: len(content) - 48], source)[: source.randrange(8, size)]
        index.write_bytes(as_table(block))
        start = time.monotonic()
        try:
            TensorBundle(folder).verify()
            outcomes.add("loaded")
        except (WeightsError, FileNotFoundError) as err:  # another number of shards
            outcomes.add(str(err).partition(": ")[2][:18])
        assert time.monotonic() - start < LONGEST_SECONDS
    assert len(outcomes) > 3


def as_table(block):
    """One data block, whatever it holds, in a table that is otherwise right."""
    varint, masked = WRITER["varint"], WRITER["masked"]
    out = bytearray(block + b"\0" + masked(block + b"\0"))
    handles = []
    for content in (
        WRITER["block"]([]),
        WRITER["block"]([(b"z", varint(0) + varint(len(block)))], restart_every=1),
    ):
        handles.append(varint(len(out)) + varint(len(content)))
        out += content + b"\0" + masked(content + b"\0")
    footer = b"".join(handles)
    return bytes(out) + footer + bytes(40 - len(footer)) + WRITER["MAGIC"].to_bytes(8, "little")


# claims


def write_safetensors(path, header, data=b""):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"wte.weight": entry([10**12], 0, 4 * 10**12)}, "speaks of 4000000000000 bytes"),
        ({"wte.weight": entry([10**6, 10**6], 0, 16)}, "has 16 bytes"),
        ({"wte.weight": entry([0, 2**60], 0, 0)}, "holds wrong numbers"),
        ({"wte.weight": entry([0, 2**58, 4], 0, 0)}, "has 0 bytes"),
        ({"wte.weight": entry([-4], 0, 16)}, "holds wrong numbers"),
        ({"wte.weight": entry([True], 0, 4)}, "holds wrong numbers"),
        ({"wte.weight": entry([4.0], 0, 16)}, "holds wrong numbers"),
        ({"wte.weight": entry([1] * 40, 0, 4)}, "holds wrong numbers"),
        ({"wte.weight": entry([4], 0, 16, "F33")}, "of type 'F33'"),
        ({"wte.weight": entry([4], 0, 16, ["F32"])}, "of type"),
        ({"a": entry([4], 0, 16), "b": entry([4], 0, 16)}, "overlap or leave a hole"),
        ({"a": entry([2], 0, 8), "b": entry([1], 12, 16)}, "overlap or leave a hole"),
        ({"a": entry([2], 0, 8)}, "speaks of 8 bytes, the file holds 16"),
        ({"a": {"dtype": "F32"}}, "incomplete"),
        ({"a": 3}, "incomplete"),
        ({"__metadata__": {"a": 1}}, "no texts"),
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
    with pytest.raises(WeightsError):
        load_gpt2(path)


def test_pth_that_unpacks_to_more_is_refused(tmp_path, memory_limit):
    path, packed = tmp_path / "model.pth", tmp_path / "packed.pth"
    torch.save({"tok_emb.weight": torch.zeros(3_000_000)}, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    assert packed.stat().st_size < path.stat().st_size / 100
    with pytest.raises(WeightsError, match="its records are packed"):
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


def test_pth_from_a_gpu_loads_on_the_cpu(tmp_path):
    """The file remembers its device: made here by writing the name into the pickle."""
    path, _ = good_pth(tmp_path / "m")
    moved = tmp_path / "moved.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(moved, "w") as new:
        for record in old.infolist():
            data = old.read(record)
            if record.filename.endswith("data.pkl"):
                assert b"X\x03\0\0\0cpu" in data
                data = data.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0")
            new.writestr(record.filename, data)
    assert load_gpt2(moved, config=CFG).tok_emb.weight.device.type == "cpu"


@pytest.mark.parametrize("file", ["../outside.bin", "/outside.bin", "a/b.bin", "..", ""])
def test_index_that_points_outside_is_refused(tmp_path, file):
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"wte.weight": file}}), encoding="utf-8")
    with pytest.raises((WeightsError, FileNotFoundError)) as caught:
        load_gpt2(tmp_path)
    assert isinstance(caught.value, WeightsError) or file == ".."


@pytest.mark.parametrize(
    "content", [b"[]", b"{", b"\xff", b"[" * 100_000, b"null", b" " * (2 << 20)]
)
def test_configuration_that_is_none_is_refused(tmp_path, memory_limit, content):
    path, load = good_config(tmp_path / "m")
    path.write_bytes(content)
    assert not attempt(path, load)


@pytest.mark.parametrize("sizes", [{"n_layer": 10**18}, {"n_embd": 10**12}, {"vocab_size": 2**80}])
def test_configuration_that_claims_too_much_is_refused(tmp_path, memory_limit, sizes):
    path, load = good_config(tmp_path / "m")
    config = {**json.loads(path.read_text(encoding="utf-8")), **sizes}
    path.write_text(json.dumps(config), encoding="utf-8")
    assert not attempt(path, load)
