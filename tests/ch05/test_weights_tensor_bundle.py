import json
import random
import runpy
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest

from llm_scratch.tensor_files.crc32c import crc32c, unmask
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.table_file import DamagedError, read_table, unsnappy
from llm_scratch.tensor_files.tensor_bundle import TensorBundle

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "tensorflow"
WRITER = runpy.run_path(str(FIXTURES / "bundle_writer.py"))
write_bundle, gpt2_shapes = WRITER["write_bundle"], WRITER["gpt2_shapes"]

VALUES = {
    "half_plus_two_cpu": {"a": 0.5, "b": 2.0},
    "half_plus_two_mkl": {"a": 0.5, "b": 2.0},
    "half_plus_two_tf2_cpu": {
        "a/.ATTRIBUTES/VARIABLE_VALUE": 0.5,
        "b/.ATTRIBUTES/VARIABLE_VALUE": 2.0,
    },
    "half_plus_three": {"a": 0.5, "b": 3.0},
    "counter": {"counter": 0.0},
}


def crc_bit_by_bit(data):
    state = 0xFFFFFFFF
    for octet in data:
        state ^= octet
        for _ in range(8):
            state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


@pytest.mark.parametrize("size", [0, 1, 9, 1023, 1024, 1025, 4097, 20011])
def test_crc32c_equals_the_definition(size):
    data = random.Random(size).randbytes(size)
    assert crc32c(data) == crc_bit_by_bit(data)


def test_crc32c_gives_the_published_check_value():
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720's polynomial, the usual check


def test_crc32c_reads_arrays_of_many_lanes():
    data = np.random.RandomState(0).randint(0, 256, 3_000_001).astype(np.uint8)
    assert crc32c(data) == crc32c(data.tobytes())
    changed = data.copy()
    changed[2_345_678] ^= 4
    assert crc32c(changed) != crc32c(data)
    assert zlib.crc32(data) != crc32c(data)  # another polynomial


def test_unmask_undoes_the_mask():
    assert unmask(int.from_bytes(WRITER["masked"](b"text"), "little")) == crc_bit_by_bit(b"text")


@pytest.mark.parametrize("name", VALUES)
def test_tensor_bundle_reads_what_tensorflow_wrote(name):
    bundle = TensorBundle(FIXTURES / name)
    bundle.verify()
    for variable, value in VALUES[name].items():
        array = bundle.read(variable, verify=True)
        assert array.shape == ()
        assert array.dtype == np.float32
        assert float(array) == value


def test_tensor_bundle_skips_strings_by_name():
    bundle = TensorBundle(FIXTURES / "half_plus_two_tf2_cpu")
    assert bundle.skipped == {"_CHECKPOINTABLE_OBJECT_GRAPH": "strings"}
    with pytest.raises(KeyError, match="strings"):
        bundle.read("_CHECKPOINTABLE_OBJECT_GRAPH")


def test_tensor_bundle_reads_the_tiny_gpt2_exactly():
    hparams = json.loads((FIXTURES / "gpt2_tiny" / "hparams.json").read_text(encoding="utf-8"))
    sizes = {key: value for key, value in hparams.items() if key != "n_head"}
    source = np.random.RandomState(0)
    bundle = TensorBundle(FIXTURES / "gpt2_tiny")
    expected = {
        name: source.normal(0, 0.4, shape).astype("float32") for name, shape in gpt2_shapes(**sizes)
    }
    assert bundle.names() == sorted(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(bundle.read(name, verify=True), array)


@pytest.mark.parametrize(
    "path", ["gpt2_tiny", "gpt2_tiny/model.ckpt", "gpt2_tiny/model.ckpt.index", "counter/variables"]
)
def test_tensor_bundle_takes_folder_prefix_and_index(path):
    assert len(TensorBundle(FIXTURES / path)) in (1, 28)


def test_tensor_bundle_maps_without_writing_back(tmp_path):
    write_bundle(tmp_path / "m", {"x": np.arange(4, dtype="float32")})
    array = TensorBundle(tmp_path).read("x")
    array[0] = 7
    assert TensorBundle(tmp_path).read("x")[0] == 0


def test_tensor_bundle_reads_every_type_and_shape(tmp_path):
    arrays = {
        "empty": np.zeros((0, 3), "float32"),
        "f16": np.arange(3, dtype="float16"),
        "f64": np.float64(2.5),
        "i32": np.arange(6, dtype="int32").reshape(1, 2, 3),
        "i64": np.array([-1, 2**40]),
    }
    write_bundle(tmp_path / "m", arrays)
    bundle = TensorBundle(tmp_path)
    for name, array in arrays.items():
        read = bundle.read(name, verify=True)  # i64 lies at an odd place: 6 bytes stand before
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


def test_tensor_bundle_names_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no TensorFlow checkpoint"):
        TensorBundle(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"model\.ckpt\.index does not exist"):
        TensorBundle(tmp_path / "model.ckpt")
    write_bundle(tmp_path / "m", {"x": np.zeros(2, "float32")})
    (tmp_path / "m.data-00000-of-00001").unlink()
    with pytest.raises(FileNotFoundError, match="data-00000-of-00001 is missing"):
        TensorBundle(tmp_path)


def test_tensor_bundle_asks_which_of_several(tmp_path):
    for name in "ab":
        write_bundle(tmp_path / name, {"x": np.full(2, ord(name), "float32")})
    with pytest.raises(WeightsError, match="holds 2 checkpoints"):
        TensorBundle(tmp_path)
    state = tmp_path / "checkpoint"
    state.write_text('model_checkpoint_path: "/far/away/a"\n', encoding="utf-8")
    assert TensorBundle(tmp_path).read("x")[0] == ord("a")


def test_tensor_bundle_sees_a_flip_in_the_index(tmp_path):
    for position in range(0, 919, 7):
        folder = shutil.copytree(FIXTURES / "gpt2_tiny", tmp_path / str(position))
        index = folder / "model.ckpt.index"
        content = bytearray(index.read_bytes())
        content[position] ^= 16
        index.write_bytes(content)
        with pytest.raises(WeightsError) as caught:
            TensorBundle(folder)
        assert caught.value.path == str(index)
        assert caught.value.hint


def test_tensor_bundle_sees_a_flip_in_the_numbers_on_request(tmp_path):
    folder = shutil.copytree(FIXTURES / "gpt2_tiny", tmp_path / "m")
    shard = folder / "model.ckpt.data-00000-of-00001"
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    bundle = TensorBundle(folder)
    with pytest.raises(WeightsError, match="checksum of 'model/") as caught:
        bundle.verify()
    assert caught.value.path == str(shard)


def test_tensor_bundle_refuses_a_short_shard(tmp_path):
    folder = shutil.copytree(FIXTURES / "gpt2_tiny", tmp_path / "m")
    shard = folder / "model.ckpt.data-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="8383 bytes, but model.ckpt.index needs 8384"):
        TensorBundle(folder)


@pytest.mark.parametrize(
    ("size", "sizes", "index_bytes", "data_bytes"),
    [
        ("124M", (50257, 1024, 768, 12), 5_215, 497_759_232),
        ("355M", (50257, 1024, 1024, 24), 10_399, 1_419_292_672),
    ],
)
def test_tensor_bundle_reads_an_index_of_the_published_size(
    tmp_path, size, sizes, index_bytes, data_bytes
):
    # book figure ch05.download.file_sizes: the record layout is OpenAI's when the size is
    entries = [(b"", WRITER["field"](1, 0, b"\1") + WRITER["message"](3, b"\x08\1"))]
    offset = 0
    for name, shape in sorted(gpt2_shapes(*sizes)):
        array = np.broadcast_to(np.float32(0), shape)
        entries.append((name.encode(), WRITER["entry"](array, offset, bytes(4))))
        offset += array.nbytes
    index = tmp_path / "model.ckpt.index"
    index.write_bytes(WRITER["table"](entries))
    with open(tmp_path / "model.ckpt.data-00000-of-00001", "wb") as file:
        file.truncate(offset)  # a hole: takes no room
    assert index.stat().st_size == index_bytes
    assert offset == data_bytes
    assert TensorBundle(tmp_path).entry("model/wte").shape == (sizes[0], sizes[2])


def hostile(tmp_path, key=b"x", **fields):
    """A checkpoint with right checksums and one entry that lies."""
    array = np.zeros(4, "float32")
    write_bundle(tmp_path / "m", {"x": array})
    field, varint, message = (WRITER[name] for name in ("field", "varint", "message"))
    dims = b"".join(message(2, field(1, 0, varint(n))) for n in fields.get("shape", (4,)))
    record = field(1, 0, b"\1") + message(2, dims)
    record += field(3, 0, varint(fields.get("shard", 0)))
    record += field(4, 0, varint(fields.get("offset", 0)))
    record += field(5, 0, varint(fields.get("size", 16)))
    header = field(1, 0, varint(1))
    (tmp_path / "m.index").write_bytes(WRITER["table"]([(b"", header), (key, record)]))
    return tmp_path


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ({"shape": (10**12,), "size": 4 * 10**12}, "needs 4000000000000"),
        ({"shape": (10**12,)}, "has 16 bytes, not 4000000000000"),
        ({"shape": (2**62, 0), "size": 0}, "can't be"),
        ({"shape": (2**64 - 1,)}, "can't be"),
        ({"shape": (1,) * 33}, "33 dimensions"),
        ({"offset": 1}, "16 bytes, but m.index needs 17"),
        ({"offset": 2**63}, "needs"),
        ({"size": 17}, "has 17 bytes, not 16"),
        ({"shard": 1}, "in shard 1 of 1"),
        ({"key": b"\xff\xfe"}, "not UTF-8"),
        ({"key": b"n" * 1025}, "more than 1024 bytes"),
        ({"key": b""}, "not in order"),
    ],
)
def test_tensor_bundle_refuses_an_entry_that_lies(tmp_path, lie, message):
    with pytest.raises(WeightsError, match=message):
        TensorBundle(hostile(tmp_path, **lie))


def test_read_table_refuses_blocks_that_overlap(tmp_path):
    put = bytearray()

    def add(content):
        handle = WRITER["varint"](len(put)) + WRITER["varint"](len(content))
        put.extend(content + b"\0" + WRITER["masked"](content + b"\0"))
        return handle

    data = add(WRITER["block"]([(b"", b"")]))
    index = add(WRITER["block"]([(bytes([n]), data) for n in range(200)]))
    footer = data + index
    magic = WRITER["MAGIC"].to_bytes(8, "little")
    path = tmp_path / "x.index"
    path.write_bytes(bytes(put) + footer + bytes(40 - len(footer)) + magic)
    with pytest.raises(DamagedError, match="blocks overlap"):
        read_table(path)


def test_unsnappy_reads_each_kind_of_element():
    long_literal = bytes([60 << 2, 69]) + b"0123456789" * 7
    packed = (
        bytes([87]) + b"\x08abc" + b"\x05\x03" + long_literal + b"\x16\x0a\0" + b"\x0b\x01\0\0\0"
    )
    expected = b"abc" + b"abcab" + b"0123456789" * 7 + b"012345" + b"555"
    assert unsnappy(packed) == expected


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (b"\xff\xff\xff\xff\x0f\x00a", "claim to hold"),
        (b"\x05\x00a", "give 1, not the 5"),
        (b"\x01\x04ab", "give 2, not the 1"),
        (b"\x04\x00a\x01\x02", "before the start"),
        (b"\x04\x00a\x01\x00", "before the start"),
        (b"\x04\x00a\x02\x01", "cut off"),
        (b"\x04\x0cab", "cut off"),
        (b"\x80", "without an end"),
    ],
)
def test_unsnappy_refuses_what_does_not_add_up(packed, message):
    with pytest.raises(DamagedError, match=message):
        unsnappy(packed)
