"""Models in llama.cpp's files: written by its own package, opened here with their tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf_models import SWITCHES, build, write

from llm_scratch.cli import main
from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.model.rope import frequencies
from llm_scratch.opening import open_model
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.stored import Stored
from llm_scratch.tokenizers.bpe_files import TokenizerFileError
from llm_scratch.weights.parts import Part

gguf = pytest.importorskip("gguf")


@pytest.mark.parametrize("name", ["gpt2", *SWITCHES])
def test_a_model_comes_back_bit_by_bit(tmp_path, name):
    model = build(name)
    model_again, tokenizer, *_ = open_model(write(tmp_path / "m.gguf", model, name))
    assert type(model_again) is type(model)
    for (key, tensor), other in zip(
        model.state_dict().items(), model_again.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, other), key
    ids = torch.randint(300, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), model_again(ids))
    assert tokenizer.decode(tokenizer.encode("any text")) == "any text"
    assert tokenizer.eos_token_id == 299


@pytest.mark.parametrize("name", ["gpt2", *SWITCHES])
def test_half_precision_becomes_the_widest_and_is_said(tmp_path, name):
    path = write(tmp_path / "m.gguf", build(name), name, dtype=np.float16)
    with pytest.warns(UserWarning, match="of the types float16, float32: all become float32"):
        model = open_model(path).model
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_template_comes_along(tmp_path):
    opened = open_model(write(tmp_path / "m.gguf", build("llama"), "llama"))
    assert opened.chat_template == "{{ messages }}"


def test_a_folder_with_one_file_opens(tmp_path):
    write(tmp_path / "m.gguf", build("qwen3"), "qwen3")
    assert open_model(tmp_path).model.cfg.qk_norm


def test_factors_of_llama3_are_understood(tmp_path):
    model = build("llama")
    model.cfg = LlamaConfig(**{**model.cfg, "rope_base": 5e5})
    scaling = {"factor": 8.0, "original_context_length": 8192}
    stretched = frequencies(LlamaConfig(**{**model.cfg, "rope_freq": scaling}))
    factors = frequencies(model.cfg) / stretched
    more = {"rope_freqs.weight": factors}
    found = open_model(write(tmp_path / "m.gguf", model, "llama", more=more)).model.cfg.rope_freq
    assert found.kind == "llama3"
    assert found.factor == pytest.approx(8.0, rel=1e-5)
    more = {"rope_freqs.weight": factors + 0.5}
    path = write(tmp_path / "other.gguf", model, "llama", more=more)
    with pytest.raises(WeightsError, match="are not those of Llama 3.1 and its successors"):
        open_model(path)


def test_factors_that_are_not_what_the_keys_say_are_refused(tmp_path):
    model = build("llama")
    factors = torch.ones(8)
    for key, value, kind, hint in (
        ("factor", 8.0, "FLOAT64", "rope_freqs.weight are not what its keys say"),
        ("low_freq_factor", "x", "STRING", "low_freq_factor='x' of RoPE must be a positive number"),
    ):
        keys = {f"rope__scaling__llama3__{key}": (value, gguf.GGUFValueType[kind])}
        more = {"rope_freqs.weight": factors}
        path = write(tmp_path / f"{key}.gguf", model, "llama", more=more, **keys)
        with pytest.raises(WeightsError, match=hint):
            open_model(path)


def test_biases_in_pairs_are_put_into_halves_as_their_rows_are():
    bias = torch.arange(8.0)  # two heads of two pairs
    part = Part(Stored(bias, "x"), pairs_of=2)
    assert part.tensor().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_yarn_and_windows_are_understood(tmp_path):
    text, number, real = (gguf.GGUFValueType[t] for t in ("STRING", "UINT32", "FLOAT32"))
    keys = {
        "rope__scaling__type": ("yarn", text),
        "rope__scaling__factor": (4.0, real),
        "rope__scaling__original_context_length": (8, number),
        "attention__sliding_window": (5, number),
    }
    cfg = open_model(write(tmp_path / "m.gguf", build("llama"), "llama", **keys)).model.cfg
    assert (cfg.rope_freq.kind, cfg.rope_freq.factor, cfg.sliding_window) == ("yarn", 4.0, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "gemma"}, "is of the architecture 'gemma'; gpt2, llama, qwen2, qwen3 are read"),
        ({"attention__clamp_kqv": (8.0, "FLOAT32")}, "llama.attention.clamp_kqv='8.0'"),
        ({"expert_count": (8, "UINT32")}, "llama.expert_count='8'"),
        ({"rope__scaling__type": ("longrope", "STRING")}, "longrope' is not read"),
        ({"attention__sliding_window": (-3, "INT32")}, "sliding_window=-3 must be a positive"),
        ({"rope__scaling__type": ("linear", "STRING")}, "factor=None of RoPE must be a positive"),
        ({"rope__dimension_count": (8, "UINT32")}, "rope.dimension_count is 8; the heads have 16"),
        ({"rope__scaling__attn_factor": (1.5, "FLOAT32")}, "attn_factor is '1.5'; only YaRN has"),
        ({"rope__scaling__attn_factor": ("no", "STRING")}, "attn_factor is 'no'; only YaRN has"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(tmp_path, options, message):
    options = {
        key: (value[0], gguf.GGUFValueType[value[1]]) if isinstance(value, tuple) else value
        for key, value in options.items()
    }
    path = write(tmp_path / "m.gguf", build("llama"), "llama", **options)
    with pytest.raises(WeightsError, match=message):
        open_model(path)


def test_an_unknown_rule_of_splitting_is_refused_unless_a_tokenizer_is_given(tmp_path, capsys):
    path = write(tmp_path / "m.gguf", build("llama"), "llama", pre="of-another-planet")
    with pytest.raises(
        TokenizerFileError, match="splits text by the unknown rule 'of-another-planet'"
    ):
        open_model(path)
    assert main(["generate", str(path), "--prompt", "hi"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert open_model(path, need_tokenizer=False).tokenizer is None


def test_a_file_without_a_tokenizer_asks_for_one(tmp_path):
    path = write(tmp_path / "m.gguf", build("llama"), "llama", tokens=False)
    with pytest.raises(ValueError, match="has no tokenizer with its weights"):
        open_model(path)


def test_weights_info_says_what_it_is(tmp_path, capsys):
    path = write(tmp_path / "m.gguf", build("qwen2"), "qwen2")
    assert main(["weights", "info", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "llama.cpp's (GGUF)" in shown
    assert "qkv_bias  True" in shown
