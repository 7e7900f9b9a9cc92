"""GGUF files: keys and tensors equal what llama.cpp's own package reads; what is wrong is named."""

from __future__ import annotations

import struct
import sys
import tracemalloc

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFValueType as Value
from gguf_bytes import (
    ARRAY,
    BOOL,
    F16,
    Q8_0,
    STRING,
    UINT8,
    UINT32,
    array,
    key,
    tensor,
    text,
    u32,
)
from gguf_bytes import gguf as gguf_bytes

from llm_scratch.tensor_files import gguf as ours
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.gguf import QUANTISED, read_gguf
from llm_scratch.tensor_files.gguf_header import is_gguf
from llm_scratch.tensor_files.stored import thirds_of

PLAIN = {
    "F32": torch.float32,
    "F16": torch.float16,
    "F64": torch.float64,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
}
QUANTISED_BY_GGUF = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
K_QUANTS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


def write(path, tensors=(), keys=(), **options):
    """Write a file by llama.cpp's package: tensors as (name, array, kind or None)."""
    writer = gguf.GGUFWriter(path, "llama", **options)
    for name, value, *kinds in keys:
        writer.add_key_value(name, value, *kinds)
    for name, values, kind in tensors:
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_bytes(folder, *args, **options):
    path = folder / "model.gguf"
    path.write_bytes(gguf_bytes(*args, **options))
    return path


def packed(kind, shape, seed=0):
    """Numbers of a quantised type: of a normal distribution, or any bytes for the K-quants."""
    source = np.random.default_rng(seed)
    if kind in QUANTISED_BY_GGUF:
        return gguf.quantize(source.standard_normal(shape, dtype=np.float32), Kind[kind])
    block, block_bytes = gguf.GGML_QUANT_SIZES[Kind[kind]]
    rows, width = shape
    return source.integers(0, 256, (rows, width // block * block_bytes), dtype=np.uint8)


def assert_same_as_gguf(path):
    """Names, order, shapes and numbers are those of llama.cpp's own reader."""
    found, reader = read_gguf(path), gguf.GGUFReader(path)
    assert list(found.tensors) == [one.name for one in reader.tensors]
    for one in reader.tensors:
        values = found.tensors[one.name].tensor
        with np.errstate(all="ignore"):
            expected = gguf.dequantize(one.data, one.tensor_type)
        assert found.types[one.name] == one.tensor_type.name
        assert values.shape == tuple(reversed(one.shape.tolist())) == expected.shape
        np.testing.assert_array_equal(values.float().numpy(), expected)  # NaN equals NaN
    return found


# tensors


@pytest.mark.parametrize("kind", QUANTISED_BY_GGUF + K_QUANTS)
def test_quantised_numbers_equal_gguf(tmp_path, kind):
    """More numbers than are computed at a time, and a matrix of a few blocks."""
    large, small = packed(kind, (300, 256)), packed(kind, (3, 512), seed=1)
    tensors = [("a", large, Kind[kind]), ("b", small, Kind[kind])]
    found = assert_same_as_gguf(write(tmp_path / "m.gguf", tensors))
    assert 300 * 256 > ours.CHUNK_NUMBERS
    assert found.tensors["a"].dtype == found.tensors["a"].tensor.dtype == torch.float32


def test_sizes_of_blocks_are_those_of_gguf():
    for number, (name, *sizes) in QUANTISED.items():
        assert Kind(number).name == name
        assert gguf.GGML_QUANT_SIZES[Kind(number)] == tuple(sizes)
    names = {number: name for number, (name, _) in ours.PLAIN.items()} | ours.OTHERS
    assert all(Kind(number).name == name for number, name in names.items())


def test_q8_0_and_q4_1_are_what_the_format_says(tmp_path):
    """A block of Q8_0 is a scale and 32 bytes; of Q4_1 scale, minimum and 32 halves of bytes."""
    halves = np.arange(16) * 7 % 16, np.arange(16) * 3 % 16
    bytes_8 = np.arange(-16, 16, dtype=np.int8)
    q8 = np.float16([0.5]).tobytes() + bytes_8.tobytes()
    q4 = np.float16([0.25, -2]).tobytes() + (halves[0] | halves[1] << 4).astype(np.uint8).tobytes()
    blocks = [
        (n, np.frombuffer(q, np.uint8)[None], Kind[n]) for n, q in (("Q8_0", q8), ("Q4_1", q4))
    ]
    found = read_gguf(write(tmp_path / "m.gguf", blocks)).tensors
    assert found["Q8_0"].tensor.tolist() == [(bytes_8 * 0.5).tolist()]
    assert found["Q4_1"].tensor.tolist() == [(np.concatenate(halves) * 0.25 - 2).tolist()]


@pytest.mark.parametrize("name", PLAIN)
def test_plain_numbers_are_mapped(tmp_path, name):
    values = np.arange(-12, 12).reshape(2, 3, 4).astype(str(PLAIN[name]).removeprefix("torch."))
    path = write(tmp_path / "m.gguf", [("a", values, None), ("b", values[:, 0] + 1, None)])
    before, found = path.read_bytes(), read_gguf(path)
    a, b = (found.tensors[n].tensor for n in "ab")
    assert found.types["a"] == name
    assert a.dtype == PLAIN[name]
    np.testing.assert_array_equal(a.numpy(), values)
    np.testing.assert_array_equal(b.numpy(), values[:, 0] + 1)
    assert b.data_ptr() - a.data_ptr() == -(-values.nbytes // 32) * 32  # so nothing was copied
    a.zero_()
    assert path.read_bytes() == before


def test_bfloat16_is_mapped(tmp_path):
    values = torch.linspace(-3, 3, 96).view(3, 32).bfloat16()
    bits = values.view(torch.uint8).numpy()
    path = write(tmp_path / "m.gguf", [("a", bits, Kind.BF16), ("b", bits, Kind.BF16)])
    found = assert_same_as_gguf(path).tensors
    assert found["a"].dtype == torch.bfloat16
    assert torch.equal(found["a"].tensor, values)
    assert found["b"].tensor.data_ptr() - found["a"].tensor.data_ptr() == values.nbytes


def test_shapes_are_reversed_and_counted_without_the_numbers(tmp_path, monkeypatch):
    path = write_bytes(tmp_path, (), [tensor(dims=(64, 5, 2, 3), kind=Q8_0)], bytes(34 * 60))
    monkeypatch.setattr(ours, "_dequantised", None)
    stored = read_gguf(path).tensors["a"]
    assert stored.shape == (3, 2, 5, 64)
    assert stored.nbytes == 4 * 64 * 30
    assert stored.row_bytes == 256


def test_stored_rows_and_thirds_work_on_quantised_numbers(tmp_path):
    path = write(tmp_path / "m.gguf", [("a", packed("Q8_0", (5, 96)), Kind.Q8_0)])
    stored = read_gguf(path).tensors["a"]
    (start, rows), *more = stored.rows()
    assert (start, rows.shape, more) == (0, (5, 384), [])
    assert torch.equal(torch.cat(thirds_of(stored), dim=1), stored.tensor)


def test_quantised_numbers_take_little_memory_beside_the_result(tmp_path):
    path = write(tmp_path / "m.gguf", [("a", packed("Q4_1", (2048, 1024)), Kind.Q4_1)])
    stored = read_gguf(path).tensors["a"]
    tracemalloc.start()
    stored.tensor  # noqa: B018, its own 8 MB are not counted here
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 << 20 or sys.platform == "win32"


def test_numbers_that_are_not_aligned_are_copied(tmp_path):
    keys = [key("general.alignment", UINT32, u32(1))]
    values = np.arange(4, dtype=np.float32)
    for pad in range(4):  # a text whose length moves the data
        more = [*keys, key("pad", STRING, text("x" * pad))]
        path = write_bytes(tmp_path, more, [tensor(dims=(4,))], values.tobytes(), alignment=1)
        found = read_gguf(path).tensors["a"].tensor
        assert found.data_ptr() % 4 == 0
        assert found.tolist() == values.tolist()


def test_scalars_and_empty_tensors_are_read(tmp_path):
    entries = [tensor("one", ()), tensor("none", (4, 0), offset=32), tensor("two", (2,), F16, 32)]
    data = np.float32([7]).tobytes() + bytes(28) + np.float16([1, 2]).tobytes()
    found = read_gguf(write_bytes(tmp_path, (), entries, data)).tensors
    assert found["one"].tensor.item() == 7
    assert found["none"].tensor.shape == (0, 4)
    assert found["two"].tensor.tolist() == [1, 2]


@pytest.mark.parametrize("padding", [0, 1, 18])
def test_file_without_tensors_has_keys(tmp_path, padding):
    content = gguf_bytes([key("a", BOOL, b"\1")], alignment=1) + bytes(padding)
    (tmp_path / "m.gguf").write_bytes(content)
    assert read_gguf(tmp_path / "m.gguf") == ({"a": True}, {}, {}, 3)


# keys

EXTREMES = {
    Value.UINT8: (0, 2**8 - 1),
    Value.INT8: (-(2**7), 2**7 - 1),
    Value.UINT16: (0, 2**16 - 1),
    Value.INT16: (-(2**15), 2**15 - 1),
    Value.UINT32: (0, 2**32 - 1),
    Value.INT32: (-(2**31), 2**31 - 1),
    Value.UINT64: (0, 2**64 - 1),
    Value.INT64: (-(2**63), 2**63 - 1),
    Value.FLOAT32: (0.5, -1e30),
    Value.FLOAT64: (1 / 3, -1e300),
    Value.BOOL: (False, True),
    Value.STRING: ("", "ü 漢字 \n\0 🙂"),
}


def test_keys_of_every_type_equal_gguf(tmp_path):
    keys = [
        *(
            (f"{kind.name}.{n}", v, kind)
            for kind, pair in EXTREMES.items()
            for n, v in enumerate(pair)
        ),
        *((kind.name, pair * 3, Value.ARRAY, kind) for kind, pair in EXTREMES.items()),
    ]
    path = write(tmp_path / "m.gguf", keys=keys)
    found, reader = read_gguf(path).keys, gguf.GGUFReader(path)
    given = {name: list(value) if kinds[1:] else value for name, value, *kinds in keys}
    for name, value in given.items():
        theirs = reader.fields[name].contents()
        assert found[name] == theirs
        assert type(found[name]) is type(theirs) is type(value)
        if "FLOAT32" not in name:
            assert found[name] == value
    assert found["general.architecture"] == "llama"
    assert len(found) == len(keys) + 1
    assert type(found["BOOL"][1]) is bool


def test_arrays_may_be_empty(tmp_path):
    kinds = [kind for kind in range(13) if kind != ARRAY]
    keys = [key(str(kind), ARRAY, array(kind, 0)) for kind in kinds]
    path = write_bytes(tmp_path, keys)
    assert read_gguf(path).keys == {str(kind): [] for kind in kinds}


def test_large_vocabulary_is_read_in_order(tmp_path):
    tokens = [f"Ġ{number}" for number in range(20_000)]
    keys = [key("tokens", ARRAY, array(STRING, len(tokens), b"".join(map(text, tokens))))]
    path = write_bytes(tmp_path, [*keys, key("after", UINT8, b"\5")])
    assert read_gguf(path).keys == {"tokens": tokens, "after": 5}


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_are_read(tmp_path, version):
    path = write(tmp_path / "m.gguf", [("a", np.ones((2, 3), np.float32), None)])
    content = bytearray(path.read_bytes())
    content[4] = version
    path.write_bytes(content)
    assert assert_same_as_gguf(path).version == version


def test_alignment_is_the_files_own(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_custom_alignment(256)
    for name in "abc":
        writer.add_tensor(name, np.arange(5, dtype=np.float32) * ord(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = assert_same_as_gguf(tmp_path / "m.gguf").tensors
    assert [stored.offset % 256 for stored in found.values()] == [0, 0, 0]


def test_is_gguf_looks_at_the_first_bytes(tmp_path):
    assert is_gguf(write(tmp_path / "m.gguf").read_bytes()[:9])
    assert not any(map(is_gguf, (b"", b"GGU", b"GGJT....", b"PK\3\4", b"\x40\0\0\0\0\0\0\0{")))


# errors

ONE, EIGHT = [tensor()], bytes(32)  # a right file of one tensor


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty or cut off, not a GGUF file; download it again"),
        (b"GGUF", "cut off or damaged: at byte 4, a number of the header should have 4 bytes"),
        (b"PK\3\4" + bytes(60), "is not a GGUF file, which begins with the letters GGUF"),
        (gguf_bytes(version=1), r"is GGUF of version 1, and .* convert_hf_to_gguf.py"),
        (gguf_bytes(version=4), "is GGUF of version 4, and only versions 2 and 3 are read"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "gguf-convert-endian model.gguf little"),
        (gguf_bytes([key("a", 13, bytes(8))]), "'a' is of type 13, and types 0 to 12 are known"),
        (gguf_bytes([key("a", ARRAY, array(ARRAY, 1, array(UINT8, 1, b"\1")))]), "array of arrays"),
        (gguf_bytes([key("a", BOOL, b"\2")]), "'a' is 2, neither true nor false"),
        (gguf_bytes([key(b"\xff", BOOL, b"\1")]), "at byte 32, the name of a key is not UTF-8"),
        (gguf_bytes([key("a", STRING, text(b"\xff"))]), "the value of 'a' is not UTF-8"),
        (gguf_bytes([key("a", ARRAY, array(STRING, 1, text(b"\xff")))]), "'a' is not UTF-8"),
        (gguf_bytes([key("a", BOOL, b"\1")] * 2), "the key 'a' is there twice"),
        (gguf_bytes([key("general.alignment", UINT32, u32(24))]), "is 24, not a power of two"),
        (gguf_bytes([key("general.alignment", UINT32, u32(0))]), "is 0, not a power of two"),
        (gguf_bytes([key("general.alignment", STRING, text("x"))]), "is x, not a power of two"),
        (gguf_bytes([key("general.alignment", UINT32, u32(2**31))]), "not a power of two"),
        (gguf_bytes((), ONE * 2, EIGHT), "the tensor 'a' is there twice"),
        (gguf_bytes((), [tensor(dims=(1,) * 5)], EIGHT), "'a' has 5 dimensions, and 4 are allowed"),
        (gguf_bytes((), [tensor(kind=23)], EIGHT), r"of type IQ4_XS, which .* as llama-quantize"),
        (
            gguf_bytes((), [tensor(kind=99)], EIGHT),
            "type number 99, which is not supported",
        ),
        (gguf_bytes((), [tensor(dims=(48,), kind=Q8_0)], EIGHT), "whose rows are multiples of 32"),
        (gguf_bytes((), [tensor(dims=(), kind=Q8_0)], EIGHT), "whose rows are multiples of 32"),
        (gguf_bytes((), [tensor(dims=(9,))], EIGHT), "claims 100 bytes, the file holds 96"),
        (gguf_bytes((), ONE, EIGHT[:-1]), "claims 96 bytes, the file holds 95: cut off or dam"),
        (gguf_bytes((), ONE, EIGHT * 2), "claims 96 bytes, the file holds 128"),
        (
            gguf_bytes((), [tensor(dims=(7,))], EIGHT + b"\0"),
            "claims 92 bytes, the file holds 97",
        ),
        (gguf_bytes() + b"\0", "its header claims 24 bytes, the file holds 33"),
        (gguf_bytes((), [tensor(offset=32)], EIGHT * 2), "tensors overlap or leave a gap"),
        (gguf_bytes((), [*ONE, tensor("b")], EIGHT), "'b' begins at byte 96 instead of 128"),
        (gguf_bytes((), [*ONE, tensor("b", (1,), offset=30)], EIGHT), "overlap or leave a gap"),
        (gguf_bytes((), [tensor(b"\xff")], EIGHT), "the name of a tensor is not UTF-8"),
    ],
)
def test_wrong_file_is_named(tmp_path, content, message):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_gguf(path)
    assert caught.value.path == str(path)
    assert ";" in caught.value.hint  # behind it stands the way out
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.gguf"):
        read_gguf(tmp_path / "model.gguf")


def test_missing_package_is_named_and_plain_numbers_do_without(tmp_path, monkeypatch):
    values = np.ones((2, 32), np.float32)
    tensors = [("a", packed("Q8_0", (2, 32)), Kind.Q8_0), ("b", values, None)]
    path = write(tmp_path / "m.gguf", tensors)
    monkeypatch.setitem(sys.modules, "gguf", None)
    found = read_gguf(path).tensors
    assert found["a"].shape == (2, 32)
    assert torch.equal(found["b"].tensor, torch.ones(2, 32))
    with pytest.raises(WeightsError, match=r"its Q8_0 numbers need .*: pip install gguf"):
        found["a"].tensor  # noqa: B018


def test_file_that_became_shorter_is_named(tmp_path):
    path = write(tmp_path / "m.gguf", [("a", packed("Q8_0", (64, 64)), Kind.Q8_0)])
    stored = read_gguf(path).tensors["a"]
    path.write_bytes(b"GGUF")
    with pytest.raises(WeightsError, match="became shorter while it was read"):
        stored.tensor  # noqa: B018
