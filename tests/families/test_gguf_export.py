"""Models written for llama.cpp: read by its own package, and read back here."""

from __future__ import annotations

import tracemalloc
import warnings
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from gguf_models import SIZES, SWITCHES, build, their_tensors
from llama_models import random_config, random_llama
from torch import nn

import llm_scratch as ls
from llm_scratch.cli import main
from llm_scratch.cli.weights import GGUF_TYPES
from llm_scratch.lora.layers import replace_linear_with_lora
from llm_scratch.model.gpt import GPTModel
from llm_scratch.model.llama import LlamaModel
from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.opening import open_model
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.gguf import read_gguf
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.simple import SimpleTokenizerV2
from llm_scratch.tokenizers.wrapped import WrappedTokenizer
from llm_scratch.weights.gguf_export import FILE_TYPES, export_gguf
from llm_scratch.weights.gguf_names import ROPE_FACTORS

NAMES = ("gpt2", *SWITCHES)
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module")
def bpe():
    return BytePairTokenizer([(b"t", b"h"), (b"th", b"e"), (b" ", b"the")], ("<|endoftext|>",))


def small_llama(**options):
    torch.manual_seed(3)
    return LlamaModel(LlamaConfig(**{**SIZES, "hidden_dim": 96, **options})).eval()


def opened_quietly(path):
    """The model of a file whose numbers are of several types, which is said elsewhere."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*holds numbers of the types")
        return open_model(path)


def rounded(values, kind):
    """What a type keeps of some numbers, by llama.cpp's package."""
    kind = gguf.GGMLQuantizationType[kind]
    return gguf.dequantize(gguf.quantize(values, kind), kind)


def keys_of(path):
    """What a file says besides its tokenizer, by llama.cpp's package."""
    fields = gguf.GGUFReader(path).fields.items()
    return {
        name: field.contents()
        for name, field in fields
        if not name.startswith(("GGUF.", "tokenizer."))
    }


@pytest.mark.parametrize("name", NAMES)
def test_tensors_are_those_that_llama_cpp_reads(name, bpe, tmp_path):
    model = build(name)
    path = export_gguf(model, tmp_path / "m.gguf", bpe, tensor_type="f32")
    found = {each.name: each for each in gguf.GGUFReader(path).tensors}
    expected = their_tensors(model, name)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].tensor_type.name == "F32"
        np.testing.assert_array_equal(found[key].data, tensor.numpy())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["F16", "Q8_0"])
def test_matrices_are_rounded_and_vectors_and_positions_are_not(name, kind, bpe, tmp_path):
    model = build(name)
    path = export_gguf(model, tmp_path / "m.gguf", bpe, tensor_type=kind.lower())
    found = {each.name: each for each in gguf.GGUFReader(path).tensors}
    for key, tensor in their_tensors(model, name).items():
        kept = tensor.dim() == 1 or key == "position_embd.weight"
        assert found[key].tensor_type.name == ("F32" if kept else kind)
        values = gguf.dequantize(found[key].data, found[key].tensor_type)
        np.testing.assert_array_equal(values, rounded(tensor.numpy(), "F32" if kept else kind))


GENERAL = {
    "general.alignment": 32, "general.type": "model", "general.name": "my-model",
    "general.license": "mit", "general.file_type": 0, "general.quantization_version": 2,
}  # fmt: skip
COMMON = {
    "vocab_size": 300, "context_length": 16, "embedding_length": 64, "block_count": 2,
    "attention.head_count": 4,
}  # fmt: skip
EPSILON = float(np.float32(1e-5))
LLAMAS = {
    **COMMON, "feed_forward_length": 96, "attention.layer_norm_rms_epsilon": EPSILON,
    "rope.freq_base": 10_000.0,
}  # fmt: skip


def heads(groups, D):
    return {"attention.head_count_kv": groups, "attention.key_length": D,
            "attention.value_length": D, "rope.dimension_count": D}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("gpt2", {**COMMON, "feed_forward_length": 256,
                  "attention.layer_norm_epsilon": EPSILON}),
        ("llama", {**LLAMAS, **heads(2, 16)}),
        ("qwen2", {**LLAMAS, **heads(2, 16)}),
        ("qwen3", {**LLAMAS, **heads(1, 32)}),
    ],
)  # fmt: skip
def test_keys_are_all_that_llama_cpp_asks_for(name, keys, bpe, tmp_path):
    path = tmp_path / "my-model.gguf"
    export_gguf(build(name), path, bpe, tensor_type="f32", license="mit")
    own = {f"{name}.{key}": value for key, value in keys.items()}
    assert keys_of(path) == {**GENERAL, "general.architecture": name, **own}


@pytest.mark.parametrize(
    ("rope", "keys"),
    [
        ({"kind": "linear", "factor": 4.0}, {"type": "linear", "factor": 4.0}),
        ({"kind": "yarn", "factor": 4.0, "original_context_length": 8},
         {"type": "yarn", "factor": 4.0, "original_context_length": 8}),
        ({"kind": "yarn", "factor": 1.0, "original_context_length": 8, "attention_factor": 1.25},
         {"type": "yarn", "factor": 1.0, "original_context_length": 8, "attn_factor": 1.25}),
        ({"factor": 8.0, "original_context_length": 8192},
         {"type": "none", "llama3.factor": 8.0, "llama3.low_freq_factor": 1.0,
          "llama3.high_freq_factor": 4.0, "llama3.original_context_length": 8192.0}),
    ],
)  # fmt: skip
def test_stretched_rope_is_said(rope, keys, bpe, tmp_path):
    model = small_llama(rope_freq=rope, rope_base=5e5)
    path = export_gguf(model, tmp_path / "m.gguf", bpe)
    found = {k: v for k, v in keys_of(path).items() if ".rope.scaling." in k}
    assert found == {f"llama.rope.scaling.{key}": value for key, value in keys.items()}
    factors = read_gguf(path).tensors.get(ROPE_FACTORS)
    assert (factors is not None) == ("llama3.factor" in keys)
    if factors is not None:  # fast waves are kept, slow ones are stretched by the whole factor
        assert factors.tensor[0] == 1.0
        assert factors.tensor[-1] == 8.0


def written_configs():
    """Configurations of every switch that llama.cpp knows, three of each architecture."""
    seeds, found = iter(range(1000)), {}
    while sum(map(len, found.values())) < 9:
        seed = next(seeds)
        cfg = random_config(seed, sliding_window=None, sliding_layers=None)
        name = "qwen3" if cfg.qk_norm else "qwen2" if cfg.qkv_bias else "llama"
        llama3 = cfg.rope_freq is not None and cfg.rope_freq.kind == "llama3"
        wide = name != "qwen2" or cfg.n_heads * cfg.head_dim == cfg.emb_dim
        known = not (cfg.num_experts or (cfg.qk_norm and cfg.qkv_bias))
        known = known and wide and (name == "llama" or not llama3)
        if known and len(found.get(name, ())) < 3:
            found.setdefault(name, []).append((seed, cfg))
    return [each for configs in found.values() for each in configs]


@pytest.mark.parametrize(("seed", "cfg"), written_configs())
def test_float32_comes_back_bit_by_bit(seed, cfg, bpe, tmp_path):
    model = random_llama(seed, **{**cfg, "vocab_size": 300})
    opened = open_model(export_gguf(model, tmp_path / "m.gguf", bpe, tensor_type="f32"))
    assert opened.model.cfg == model.cfg
    for (key, tensor), other in zip(
        model.state_dict().items(), opened.model.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, other), key


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_every_gpt2_comes_back(tied, qkv_bias, bpe, tmp_path):
    torch.manual_seed(1)
    model = GPTModel({**SIZES, "qkv_bias": qkv_bias, "tie_weights": tied}).eval()
    path = export_gguf(model, tmp_path / "m.gguf", bpe, tensor_type="f32")
    assert read_gguf(path).tensors["blk.1.attn_qkv.bias"].shape == (192,)  # llama.cpp wants it
    assert ("output.weight" in read_gguf(path).tensors) == (not tied)
    again = open_model(path).model
    assert again.cfg == model.cfg
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))


@pytest.mark.parametrize("kind", FILE_TYPES)
@pytest.mark.parametrize("name", NAMES)
def test_what_was_read_is_written_again_as_the_same_file(name, kind, bpe, tmp_path):
    options = {"tensor_type": kind, "chat_template": TEMPLATE}
    first = export_gguf(build(name), tmp_path / "a" / "m.gguf", bpe, **options)
    opened = opened_quietly(first)
    assert opened.chat_template == TEMPLATE
    second = export_gguf(opened.model, tmp_path / "b" / "m.gguf", opened.tokenizer, **options)
    assert first.read_bytes() == second.read_bytes()


def test_a_scaling_of_llama3_of_any_numbers_is_written_again_as_the_same_file(bpe, tmp_path):
    rope = {"factor": 3.7, "low_freq_factor": 1.1, "high_freq_factor": 3.3,
            "original_context_length": 32}  # fmt: skip
    first = export_gguf(small_llama(rope_freq=rope), tmp_path / "m.gguf", bpe)
    data = first.read_bytes()
    opened = opened_quietly(first)
    assert dict(opened.model.cfg.rope_freq) | rope == dict(opened.model.cfg.rope_freq)
    assert export_gguf(opened.model, first, opened.tokenizer).read_bytes() == data


def test_a_factor_of_yarn_of_its_own_comes_back(bpe, tmp_path):
    rope = {"kind": "yarn", "factor": 4.0, "original_context_length": 8, "attention_factor": 1.25}
    model = small_llama(rope_freq=rope)
    assert opened_quietly(export_gguf(model, tmp_path / "m.gguf", bpe)).model.cfg == model.cfg


def test_numbers_of_half_precision_are_written_too(bpe, tmp_path):
    model = build("llama").to(torch.bfloat16)
    again = open_model(export_gguf(model, tmp_path / "m.gguf", bpe, tensor_type="f32")).model
    for tensor, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(tensor.float(), other)


def test_rows_that_are_no_multiple_of_32_are_f16_and_that_is_said(bpe, tmp_path):
    model = small_llama(hidden_dim=100)
    hint = r"2 matrices have rows .* and are F16 instead of Q8_0: blk.0.ffn_down.weight, blk.1"
    with pytest.warns(UserWarning, match=hint):
        path = export_gguf(model, tmp_path / "m.gguf", bpe, tensor_type="q8_0")
    kinds = {each.name: each.tensor_type.name for each in gguf.GGUFReader(path).tensors}
    assert kinds["blk.0.ffn_down.weight"] == "F16"
    assert kinds["blk.0.ffn_up.weight"] == "Q8_0"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8},
         "experts are not written to GGUF files; export_huggingface writes the model"),
        ({"qkv_bias": True, "qk_norm": True}, "no architecture .* has qkv_bias and qk_norm; save_"),
        ({"sliding_window": 5}, r"sliding_window=5 is below context_length=16, and in llama.cpp's"),
        ({"sliding_window": 5, "sliding_layers": (1,)}, "with a context_length of 5 it makes no"),
        ({"qkv_bias": True, "head_dim": 32}, "heads of llama.cpp's qwen2 .* 4 of 32 make 128"),
        ({"qkv_bias": True, "rope_freq": {"factor": 2.0, "original_context_length": 8}},
         "llama.cpp's qwen2 has no RoPE of the kind llama3"),
        ({"rope_freq": {"kind": "yarn", "factor": 2.0, "original_context_length": 8,
                        "beta_fast": 16.0}},
         "llama.cpp's llama takes 32 as YaRN's beta_fast, which is 16 here; export_huggingface"),
    ],
)  # fmt: skip
def test_what_llama_cpp_does_not_compute_is_refused_by_name(options, message, bpe, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        export_gguf(small_llama(**options), tmp_path / "m.gguf", bpe)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_window_that_holds_all_is_none(bpe, tmp_path):
    model = small_llama(sliding_window=5)
    model.cfg = replace(model.cfg, context_length=5)
    again = opened_quietly(export_gguf(model, tmp_path / "m.gguf", bpe)).model
    assert (again.cfg.sliding_window, again.cfg.context_length) == (None, 5)


def test_heads_for_classes_and_lora_are_refused(bpe, tmp_path):
    model = build("llama")
    model.out_head = nn.Linear(64, 2)
    with pytest.raises(ValueError, match="a head with 2 classes is not a language model's"):
        export_gguf(model, tmp_path / "m.gguf", bpe)
    model = build("gpt2")
    replace_linear_with_lora(model.trf_blocks, 4, 8)
    with pytest.raises(ValueError, match="LoRA matrices must be merged into their layers"):
        export_gguf(model, tmp_path / "m.gguf", bpe)
    with pytest.raises(TypeError, match="expected a model of this library"):
        export_gguf(nn.Linear(2, 2), tmp_path / "m.gguf", bpe)


def test_tokenizers_that_are_no_bpe_are_refused(tmp_path):
    theirs = pytest.importorskip("tokenizers")
    words = theirs.Tokenizer(theirs.models.WordLevel({"a": 0}, unk_token="a"))
    wrapped = WrappedTokenizer(words.to_str().encode())
    for tokenizer, message in (
        (None, "llama.cpp opens no model without a tokenizer"),
        (wrapped, "is not a byte-level BPE, .* llama.cpp's convert_hf_to_gguf.py"),
        (SimpleTokenizerV2({"a": 0, "<|unk|>": 1}), "a SimpleTokenizerV2 has no form"),
    ):
        with pytest.raises(TypeError, match=message):
            export_gguf(build("llama"), tmp_path / "m.gguf", tokenizer)
    with pytest.raises(ValueError, match="the tokenizer has 50257 ids, the model's vocab_size"):
        export_gguf(build("llama"), tmp_path / "m.gguf", BytePairTokenizer.gpt2())


def test_wrong_options_are_refused(bpe, tmp_path):
    with pytest.raises(ValueError, match="tensor_type='q4_0' must be one of f32, f16, q8_0"):
        export_gguf(build("llama"), tmp_path / "m.gguf", bpe, tensor_type="q4_0")
    with pytest.raises(ValueError, match="llama.cpp takes a model with name='My Phi-3' for Phi-3"):
        export_gguf(build("llama"), tmp_path / "m.gguf", bpe, name="My Phi-3")
    path = export_gguf(build("llama"), tmp_path / "phi3.gguf", bpe)
    assert "general.name" not in keys_of(path)


@pytest.mark.parametrize(
    ("value", "kind", "fits"),
    [
        (float("nan"), "f32", False), (float("inf"), "q8_0", False), (65504.0, "f16", True),
        (70_000.0, "f16", False), (70_000.0, "f32", True), (-8e6, "q8_0", True),
        (-9e6, "q8_0", False), (1e-44, "q8_0", True),
    ],
)  # fmt: skip
def test_numbers_that_a_type_can_not_hold_are_refused(value, kind, fits, bpe, tmp_path):
    path = export_gguf(build("llama"), tmp_path / "m.gguf", bpe)
    before = path.read_bytes()
    model = build("llama")
    with torch.no_grad():
        model.trf_blocks[1].ff.fc3.weight[3, 32:64] = value
    if fits:
        export_gguf(model, path, bpe, tensor_type=kind)
        row = opened_quietly(path).model.trf_blocks[1].ff.fc3.weight[3, 32:64]
        torch.testing.assert_close(row, torch.full((32,), value), rtol=1e-3, atol=1e-30)
        return
    with pytest.raises(ValueError, match="blk.1.ffn_down.weight holds numbers that are not finite"):
        export_gguf(model, path, bpe, tensor_type=kind)
    assert path.read_bytes() == before  # written atomically
    assert [each.name for each in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_no_tensor_is_converted_whole(kind, bpe, tmp_path):
    model = small_llama(hidden_dim=32_000, n_layers=1)  # three matrices of two million numbers
    tracemalloc.start()
    export_gguf(model, tmp_path / "m.gguf", bpe, tensor_type=kind)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4e6, peak


def test_a_missing_package_is_named_with_the_command_that_brings_it(bpe, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"m.gguf: is written by the gguf package, .*: pip inst"):
        export_gguf(build("llama"), tmp_path / "m.gguf", bpe)


@pytest.fixture(scope="module")
def saved(bpe, tmp_path_factory):
    return str(ls.save_model(build("llama"), tmp_path_factory.mktemp("saved"), bpe))


def test_the_command_writes_a_file(saved, tmp_path, capsys):
    path = tmp_path / "m.gguf"
    words = ["weights", "export", saved, "--to", "gguf", "--out", str(path), "--type", "q8_0"]
    assert main(words) == 0
    written, upload = capsys.readouterr().out.splitlines()
    assert written == f"written: {path}"
    assert upload == f"to publish it: hf upload ORG/NAME {path} m.gguf"
    assert read_gguf(path).types["token_embd.weight"] == "Q8_0"
    assert main(["weights", "export", saved, str(path), "--to", "gguf"]) == 0
    assert read_gguf(path).types["token_embd.weight"] == "F16"
    assert tuple(FILE_TYPES) == GGUF_TYPES


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give one place to write to"),
        (["x", "--out", "y"], "give one place to write to"),
        (["x", "--type", "f16"], "--type is for --to gguf"),
        (["x", "--to", "gguf", "--dtype", "bfloat16"], "leave out --dtype and --max-shard-size"),
        (["x", "--to", "gguf", "--max-shard-size", "1"], "leave out --dtype and --max-shard-size"),
    ],
)
def test_options_without_effect_are_refused(saved, words, message, capsys):
    assert main(["weights", "export", saved, *words]) == 2
    assert message in capsys.readouterr().err


def test_the_command_asks_for_a_tokenizer(tmp_path, capsys):
    folder = str(ls.save_model(build("llama"), tmp_path / "bare"))
    assert main(["weights", "export", folder, "--to", "gguf", "--out", "x.gguf"]) == 2
    assert "has no tokenizer with its weights" in capsys.readouterr().err
