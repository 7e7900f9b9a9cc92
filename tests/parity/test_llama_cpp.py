"""Files written here, opened by llama.cpp: equal logits, equal greedy texts."""

from __future__ import annotations

import pytest
import torch
from llama_cpp import LlamaCpp, assert_same_text, llama_cpp_or_skip, opened

from llm_scratch.model.gpt import GPTModel
from llm_scratch.model.llama import LlamaModel
from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.opening import open_model
from llm_scratch.text.corpora import load_text
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.weights.gguf_export import FILE_TYPES, export_gguf

llama_cpp_or_skip()
pytest.importorskip("gguf")
pytestmark = pytest.mark.slow

SIZES = {"vocab_size": 320, "context_length": 128, "emb_dim": 64, "n_layers": 2, "n_heads": 4}
LLAMA3 = {"factor": 8.0, "original_context_length": 32}
MODELS = {
    "gpt2": {"qkv_bias": True},
    "llama": {"n_kv_groups": 2},
    "llama with llama3's rope": {"n_kv_groups": 2, "rope_freq": LLAMA3, "rope_base": 5e5},
    "qwen2": {"n_kv_groups": 2, "qkv_bias": True},
    "qwen3": {"n_kv_groups": 1, "head_dim": 32, "qk_norm": True},
}
OTHERS = {
    "gpt2 without biases": {},
    "linear": {"rope_freq": {"kind": "linear", "factor": 4.0}},
    "yarn": {"rope_freq": {"kind": "yarn", "factor": 4.0, "original_context_length": 2048}},
    "yarn with a factor of its own": {
        "rope_freq": {"kind": "yarn", "factor": 4.0, "original_context_length": 32,
                      "attention_factor": 1.25}},
    "yarn in qwen3": {
        "qk_norm": True,
        "rope_freq": {"kind": "yarn", "factor": 4.0, "original_context_length": 32}},
    "linear in qwen2": {"qkv_bias": True, "rope_freq": {"kind": "linear", "factor": 2.0}},
    "heads wider than the model": {"head_dim": 24},
    "a base and an epsilon of its own": {"rope_base": 500.0, "norm_eps": 1e-2},
}  # fmt: skip
PROMPTS = ("The tide", "It was", "  1908,\n", "the clock of the harbour was", "he")

# How far the logarithms of probabilities may be apart. llama.cpp's GELU is a table of half
# precision; its matrices of F16 and Q8_0 meet vectors that are rounded to the same type.
APART = {"f32": 2e-3, "f16": 5e-3, "q8_0": 0.15}


@pytest.fixture(scope="module")
def bpe():
    return BytePairTokenizer.train(load_text("the-tide-clock"), 300, progress=False)


def random_model(name, tied=False):
    """A model whose logits are spread: norms and biases are random too."""
    options = {**SIZES, **(MODELS | OTHERS)[name], "tie_weights": tied}
    torch.manual_seed(len(name))
    if name.startswith("gpt2"):
        model = GPTModel({"qkv_bias": False, **options})
    else:
        model = LlamaModel(LlamaConfig(**options, hidden_dim=96))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def written(model, path, bpe, kind):
    """A model with the weights of the file that it was written to, and the file."""
    export_gguf(model, path, bpe, tensor_type=kind)
    return model if kind == "f32" else opened(path).model, path


@pytest.mark.parametrize("kind", FILE_TYPES)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_greedy_texts_equal_llama_cpp(name, tied, kind, bpe, tmp_path):
    model, path = written(random_model(name, tied), tmp_path / "m.gguf", bpe, kind)
    with LlamaCpp(path) as theirs:
        for prompt in PROMPTS:
            ids = bpe.encode(prompt)
            assert_same_text(model, ids, theirs.greedy(ids, 32), 32, {bpe.eot_token})


@pytest.mark.parametrize("kind", FILE_TYPES)
@pytest.mark.parametrize("name", [*MODELS, *OTHERS])
def test_probabilities_equal_llama_cpp(name, kind, bpe, tmp_path):
    model, path = written(random_model(name), tmp_path / "m.gguf", bpe, kind)
    ids = bpe.encode(load_text("the-tide-clock"))[:100]
    with torch.no_grad():
        ours = torch.log_softmax(model(torch.tensor([ids]))[0, -1], dim=-1)
    with LlamaCpp(path) as theirs:
        found = theirs.log_probabilities(ids, len(ours))
    assert found.keys() == set(range(len(ours)))
    expected = torch.tensor([found[i] for i in range(len(ours))])
    torch.testing.assert_close(ours, expected, rtol=0, atol=APART[kind])
    assert float(ours.std()) > 0.5  # else all models would look alike


QUESTIONS = (
    "The capital of France is", "def fibonacci(n):", "Dear Sir or Madam,",
    "<|im_start|>user\nWhat is 3 + 4?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWrite a haiku about the sea.<|im_end|>\n<|im_start|>assistant\n",
)  # fmt: skip


@pytest.mark.parametrize("kind", FILE_TYPES)
def test_texts_of_smollm2_equal_llama_cpp(kind, tmp_path):
    """Where a matrix is Q8_0, llama.cpp rounds what it is multiplied with to 8 bits as well.

    That alone moves this model's logits by 0.13 (standard deviation, measured), so that what it
    holds for the likelier of two is no more certain than that.
    """
    try:
        smollm2 = open_model("smollm2")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    options = {"tensor_type": kind, "chat_template": smollm2.chat_template}
    path = export_gguf(smollm2.model, tmp_path / "m.gguf", smollm2.tokenizer, **options)
    model, tokenizer = opened(path)
    ends = set(map(tokenizer.encode_single_token, ("<|im_end|>", "<|endoftext|>")))
    with LlamaCpp(path) as theirs:
        for question in QUESTIONS:
            ids = tokenizer.encode(question, allowed_special="all")
            assert theirs.encode(question) == ids
            tie = 0.3 if kind == "q8_0" else 0.05
            assert_same_text(model, ids, theirs.greedy(ids, 32), 32, ends, tie)
    path.unlink()  # half a gigabyte
