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

import gguf
import numpy as np
import pytest
import torch
from gguf_models import build, write
from llama_models import random_config

from llm_scratch.model.config import GPTConfig
from llm_scratch.model.gpt import GPTModel
from llm_scratch.model.llama import LlamaModel
from llm_scratch.opening import open_model
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.gguf import read_gguf
from llm_scratch.tensor_files.table_file import read_table
from llm_scratch.tensor_files.tensor_bundle import TensorBundle
from llm_scratch.weights.export import export_huggingface
from llm_scratch.weights.folder import load_model, save_model
from llm_scratch.weights.gpt2 import load_gpt2

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "tensorflow"
WRITER = runpy.run_path(str(FIXTURES / "bundle_writer.py"))
# What torch and pickletools say about damaged pickles before they give up on them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Detected pickle protocol"),
    pytest.mark.filterwarnings("ignore:invalid escape sequence"),
    pytest.mark.filterwarnings("ignore:.* has unknown settings, all switched off"),
]

CFG = GPTConfig(20, 6, 4, 2, 1, qkv_bias=True, tie_weights=True)
LONGEST_SECONDS = 5.0
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
        refused = ""
        try:
            load_gpt2(source, config=CFG)
        except (WeightsError, FileNotFoundError) as err:
            refused = str(err)
        # A checkpoint's state file is only a hint, its numbers are only numbers.
        harmless = name in ("checkpoint", "model.ckpt.data-00000-of-00001")
        assert str(folder) in refused or harmless
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


def good_gguf(folder):
    folder.mkdir()
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 1)
    writer.add_float32("llama.rope.freq_base", 10000.0)
    writer.add_bool("tokenizer.ggml.add_bos_token", False)
    writer.add_token_list([f"token {number}" for number in range(8)])
    writer.add_token_types([1] * 8)
    values = np.linspace(-1, 1, 256, dtype=np.float32).reshape(4, 64)
    for name in ("Q4_1", "Q8_0"):
        kind = gguf.GGMLQuantizationType[name]
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.add_tensor("F16", values.astype(np.float16))
    writer.add_tensor("F32", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, lambda: [stored.tensor.sum() for stored in read_gguf(path).tensors.values()]


def good_llama_config(folder):
    export_huggingface(LlamaModel(random_config(4, qkv_bias=False)), folder)
    return folder / "config.json", lambda: open_model(folder, need_tokenizer=False)


def good_gguf_model(folder):
    folder.mkdir()
    path = write(folder / "model.gguf", build("llama"), "llama")
    return path, lambda: open_model(path, need_tokenizer=False)


FORMATS = [
    *(good_bundle, good_safetensors, good_pth, good_old_pth, good_config, good_own, good_gguf),
    *(good_llama_config, good_gguf_model),
]


def attempt(path, load):
    """Whether it loads; everything but the one error class goes through."""
    start, refused = time.monotonic(), None
    try:
        load()
    except WeightsError as err:
        refused = err
    assert time.monotonic() - start < LONGEST_SECONDS
    if refused is not None:
        assert refused.hint
        assert refused.path.startswith(str(path.parent))
        assert "\n" not in str(refused)
    return refused is None


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
    assert attempt(path, load) <= (make in (good_config, good_llama_config))


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
        if attempt(path, load) and make in (good_bundle, good_own):
            assert_same_but_for_the_mark(path.read_bytes(), content)


def assert_same_but_for_the_mark(damaged, content):
    """Checksums cover all of these files, but for one word that is written for others."""
    start = content.find(b'"format":"pt"')
    mark = range(start, start + len(b'"format":"pt"') if start >= 0 else start)
    assert all(n in mark for n in range(len(content)) if damaged[n] != content[n])


BLOB_STARTS = {
    good_bundle: [b""],
    good_safetensors: [b"", b"\x40\0\0\0\0\0\0\0{", b'\x20\0\0\0\0\0\0\0{"a":'],
    good_own: [b"", b'\x20\0\0\0\0\0\0\0{"__metadata__":{'],
    good_pth: [b"", b"PK\x03\x04", b"\x80\x02"],
    good_old_pth: [b"", b"\x80\x02", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."],
    good_config: [b"", b"{", b'{"n_head": '],
    good_llama_config: [b"", b"{", b'{"model_type": "llama", "hidden_size": '],
    good_gguf_model: [b"", b"GGUF\3\0\0\0"],
    good_gguf: [
        b"",
        b"GGUF\3\0\0\0",
        b"GGUF\3\0\0\0" + (2).to_bytes(8, "little") + (1).to_bytes(8, "little"),
        b"GGUF\3\0\0\0" + (1).to_bytes(8, "little") + bytes(8) + b"\1\0\0\0\0\0\0\0a\1\0\0\0",
        b"GGUF\3\0\0\0" + bytes(8) + b"\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0a\t\0\0\0\4\0\0\0",
    ],
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
    good = WRITER["block"](read_table(index))
    source = random.Random(5)
    outcomes = set()
    for number in range(400):
        block = (flip, replaced)[number % 2](good, source)
        if number % 5 == 0:
            block = block[: source.randrange(len(block))]
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
