"""Every figure of book chapter 4, computed with this library."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from book_figures import Chapter
from torch import Tensor, nn

from llm_scratch.generation.decoding import generate_text_simple
from llm_scratch.model.config import GPT_CONFIG_124M, GPTConfig, gpt2_config
from llm_scratch.model.gpt import GPTModel, TransformerBlock
from llm_scratch.model.layers import GELU, FeedForward, LayerNorm

figure = Chapter("ch04")

SIZES = ("small", "medium", "large", "xl")
VOCAB_SIZE, EMB_DIM = GPT_CONFIG_124M["vocab_size"], GPT_CONFIG_124M["emb_dim"]


@pytest.fixture(scope="module")
def model():
    """The untrained model of the book's size, in eval mode."""
    torch.manual_seed(123)
    return GPTModel(GPT_CONFIG_124M).eval()


@pytest.fixture(scope="module")
def batch(tokenizer):
    texts = ("Every effort moves you", "Every day holds a")
    return torch.tensor([tokenizer.encode(text) for text in texts])


@pytest.fixture(scope="module")
def start(tokenizer):
    return torch.tensor([tokenizer.encode("Hello, I am")])


@pytest.fixture(scope="module")
def generated(model, start):
    return generate_text_simple(model, start, max_new_tokens=6, context_size=1024)


@figure("ch04.config_124m")
def config():
    return GPT_CONFIG_124M


@figure("ch04.batch")
def batch_ids(batch):
    return batch


@figure("ch04.dummy.shape")
def dummy_shape(batch):
    # A model whose blocks and norms do nothing: embeddings and a head.
    tokens, head = nn.Embedding(VOCAB_SIZE, EMB_DIM), nn.Linear(EMB_DIM, VOCAB_SIZE, bias=False)
    positions = nn.Embedding(GPT_CONFIG_124M["context_length"], EMB_DIM)
    return head(tokens(batch) + positions.weight[: batch.shape[1]]).shape


def layer_output() -> Tensor:
    torch.manual_seed(123)
    examples = torch.randn(2, 5)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU())(examples)


def normalized() -> Tensor:
    out = layer_output()
    return (out - out.mean(dim=-1, keepdim=True)) / out.var(dim=-1, keepdim=True).sqrt()


@figure("ch04.layernorm.layer_out")
def layer_out():
    return layer_output()


@figure("ch04.layernorm.mean")
def layer_out_mean():
    return layer_output().mean(dim=-1, keepdim=True)


@figure("ch04.layernorm.var")
def layer_out_variance():
    return layer_output().var(dim=-1, keepdim=True)


@figure("ch04.layernorm.normalized")
def layer_out_normalized():
    return normalized()


@figure("ch04.layernorm.normalized_mean")
def normalized_mean():
    return normalized().mean(dim=-1, keepdim=True)


@figure("ch04.layernorm.normalized_var")
def normalized_variance():
    return normalized().var(dim=-1, keepdim=True)


@figure("ch04.layernorm.class_mean")
def layer_norm_mean():
    return LayerNorm(6)(layer_output()).mean(dim=-1, keepdim=True)


@figure("ch04.layernorm.class_var")
def layer_norm_variance():
    return LayerNorm(6)(layer_output()).var(dim=-1, unbiased=False, keepdim=True)


@figure("ch04.ffn.emb_dim")
def embedding_width():
    return GPT_CONFIG_124M["emb_dim"]


@figure("ch04.ffn.shape")
def feed_forward_shape():
    return FeedForward(GPT_CONFIG_124M)(torch.rand(2, 3, EMB_DIM)).shape


def deep_network_gradients(use_shortcut: bool) -> dict[str, float]:
    """Mean sizes of the gradients in five layers of Linear and GELU, with shortcuts or without."""
    torch.manual_seed(123)
    sizes = [3, 3, 3, 3, 3, 1]
    layers = [
        nn.Sequential(nn.Linear(n_in, n_out), GELU())
        for n_in, n_out in zip(sizes, sizes[1:], strict=False)
    ]
    x = torch.tensor([[1.0, 0.0, -1.0]])
    for layer in layers:
        out = layer(x)
        x = x + out if use_shortcut and x.shape == out.shape else out
    nn.functional.mse_loss(x, torch.zeros(1, 1)).backward()
    return {
        f"layers.{i}.0.weight": layer[0].weight.grad.abs().mean().item()
        for i, layer in enumerate(layers)
    }


@figure("ch04.shortcut.grad_without")
def gradients_without_shortcut():
    return deep_network_gradients(use_shortcut=False)


@figure("ch04.shortcut.grad_with")
def gradients_with_shortcut():
    return deep_network_gradients(use_shortcut=True)


@figure("ch04.block.input_shape")
def block_input_shape():
    return torch.rand(2, 4, EMB_DIM).shape


@figure("ch04.block.output_shape")
def block_output_shape():
    return TransformerBlock(GPT_CONFIG_124M)(torch.rand(2, 4, EMB_DIM)).shape


@figure("ch04.gpt.logits_shape")
def logits_shape(model, batch):
    return model(batch).shape


@figure("ch04.gpt.total_params")
def total_parameters(model):
    return model.num_parameters()


@figure("ch04.gpt.tok_emb_shape")
def token_embedding_shape(model):
    return model.tok_emb.weight.shape


@figure("ch04.gpt.out_head_shape")
def head_shape(model):
    return model.out_head.weight.shape


@figure("ch04.gpt.params_tied")
def parameters_without_head(model):
    return model.num_parameters(head=False)


@figure("ch04.generate.encoded_shape")
def start_shape(start):
    return start.shape


@figure("ch04.generate.ids")
def generated_ids(generated):
    return generated


@figure("ch04.generate.length")
def generated_length(generated):
    return len(generated[0])


@figure("ch04.generate.text")
def generated_text(generated, tokenizer):
    return tokenizer.decode(generated[0])


def parameters_of(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


@figure("ch04.ex4.1.ff_params")
def feed_forward_parameters():
    return parameters_of(TransformerBlock(GPT_CONFIG_124M).ff)


@figure("ch04.ex4.1.att_params")
def attention_parameters():
    return parameters_of(TransformerBlock(GPT_CONFIG_124M).att)


@figure("ch04.ex4.1.ff_linear1")
def first_linear_parameters():
    return parameters_of(FeedForward(GPT_CONFIG_124M).layers[0])


@figure("ch04.ex4.1.ff_linear2")
def second_linear_parameters():
    return parameters_of(FeedForward(GPT_CONFIG_124M).layers[2])


@figure("ch04.ex4.1.w_query")
def projection_parameters():
    return parameters_of(TransformerBlock(GPT_CONFIG_124M).att.W_query)


@figure("ch04.ex4.1.out_proj")
def output_projection_parameters():
    return parameters_of(TransformerBlock(GPT_CONFIG_124M).att.out_proj)


def gpt2_parameters(size: str, head: bool = True) -> int:
    """Count a GPT-2 as the book builds it, without memory for its weights."""
    config = replace(gpt2_config(f"gpt2-{size}"), qkv_bias=False, tie_weights=False)
    with torch.device("meta"):
        return GPTModel(config).num_parameters(head=head)


@figure("ch04.ex4.2.{}.params", parts=SIZES)
def parameters_of_size(part):
    return gpt2_parameters(part)


@figure("ch04.ex4.2.{}.params_tied", parts=SIZES)
def parameters_of_size_without_head(part):
    return gpt2_parameters(part, head=False)


@figure("ch04.ex4.2.{}.size_mb", parts=SIZES[:3])
def mebibytes_of_size(part):
    return gpt2_parameters(part) * 4 / 2**20


@figure("ch04.ex4.2.configs")
def size_configs():
    configs = {f"gpt2-{size}": gpt2_config(f"gpt2-{size}") for size in SIZES}
    return {name: [c.emb_dim, c.n_layers, c.n_heads] for name, c in configs.items()}


@figure("ch04.ex4.3.config_keys")
def separate_dropout_keys():
    return [field.name for field in fields(GPTConfig) if field.name.startswith("drop_rate_")]


@pytest.mark.parametrize("entry", figure.parameters())
def test_figure_comes_out_as_printed(entry, request):
    figure.check(entry, request)
