"""SmolLM2, a real model: the numbers of its file, its ids and its texts, beside transformers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from smollm2 import smollm2_path

from llm_scratch.generation.decoding import generate
from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.model.llama_sizes import SMOLLM2_CONFIG_135M
from llm_scratch.opening import open_model
from llm_scratch.weights.llama_names import our_name

transformers = pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")
pytestmark = pytest.mark.slow

THEIR_LAYERS = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
                "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
                "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
                "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}  # fmt: skip
PROMPTS = (
    "The capital of France is", "Once upon a time, there was a clock", "def fibonacci(n):",
    "Water boils at", "<|im_start|>user\nWhat is 3 + 4?<|im_end|>\n<|im_start|>assistant\n",
    "The three primary colours are", "Dear Sir or Madam,", "1, 2, 3, 4,", "In the beginning",
    "<|im_start|>user\nWrite a haiku.<|im_end|>\n<|im_start|>assistant\n",
)  # fmt: skip


@pytest.fixture(scope="module")
def path():
    return smollm2_path()


@pytest.fixture(scope="module")
def opened(path):
    return open_model("smollm2")


def their_tensors(path) -> dict[str, torch.Tensor]:
    """The file by Hugging Face's names: read, dequantised and put in order by other code."""
    tensors = {}
    for tensor in gguf.GGUFReader(path).tensors:
        values = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        if tensor.name.startswith("blk."):
            _, block, layer, _ = tensor.name.split(".")
            if layer in ("attn_q", "attn_k"):  # from pairs side by side to halves
                pairs = values.view({"attn_q": 9, "attn_k": 3}[layer], 32, 2, 576)
                values = torch.cat([pairs[:, :, 0], pairs[:, :, 1]], dim=1).reshape(values.shape)
            tensors[f"model.layers.{block}.{THEIR_LAYERS[layer]}.weight"] = values
        else:
            name = {"token_embd.weight": "embed_tokens", "output_norm.weight": "norm"}[tensor.name]
            tensors[f"model.{name}.weight"] = values
    return tensors


@pytest.fixture(scope="module")
def theirs(path):
    config = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192,
        rms_norm_eps=1e-5, rope_theta=100_000.0, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    missing, unexpected = model.load_state_dict(their_tensors(path), strict=False)
    assert missing == ["lm_head.weight"]
    assert not unexpected
    return model


def test_numbers_are_those_of_the_file(path, opened):
    parameters = opened.model.state_dict()
    for name, tensor in their_tensors(path).items():
        assert torch.equal(parameters[our_name(name)], tensor), name


def test_configuration_is_the_one_by_name(opened):
    by_name = LlamaConfig(**SMOLLM2_CONFIG_135M)
    assert opened.model.cfg == replace(by_name, dtype=opened.model.cfg.dtype)


def test_logits_equal_transformers(opened, theirs):
    ids = torch.randint(49152, (1, 200), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, expected = opened.model(ids), theirs(ids).logits
    assert float((ours - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def test_greedy_texts_equal_transformers(opened, theirs):
    model, tokenizer = opened
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer.encode(prompt, allowed_special="all")])
        ours = generate(model, ids, 64, model.cfg.context_length)
        found = theirs.generate(ids, max_new_tokens=64, do_sample=False, eos_token_id=None)
        assert torch.equal(ours, found), prompt


def test_ids_come_back_as_the_text(opened):
    for prompt in PROMPTS:
        ids = opened.tokenizer.encode(prompt, allowed_special="all")
        assert opened.tokenizer.decode(ids) == prompt
    assert opened.tokenizer.encode("<|im_end|>", allowed_special="all") == [2]


def test_an_exported_model_opens_in_transformers_with_its_tokenizer(opened, tmp_path):
    from llm_scratch.weights.export import export_huggingface

    model, tokenizer = opened
    folder = export_huggingface(model, tmp_path, tokenizer)
    again = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        ids = torch.tensor([tokenizer.encode(PROMPTS[0])])
        assert torch.equal(again(ids).logits.argmax(-1), model(ids).argmax(-1))
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for prompt in PROMPTS:
        assert their_tokenizer(prompt)["input_ids"] == tokenizer.encode(
            prompt, allowed_special="all"
        )
