"""Chapter 4: a whole GPT, from a placeholder to a model that writes (nonsense, so far).

Run it with

    python chapters/ch04_gpt.py

It takes about twenty seconds and 1 GB of memory on two cores, and downloads nothing. --quick leaves
out the largest model of exercise 4.2 and writes less text.
"""

# %% [markdown]
# # Chapter 4: building a GPT
#
# Attention is the heart of a GPT, but not all of it. This chapter adds layer normalisation, a
# feed-forward network and shortcuts, and stacks them into blocks. It ends with a model of GPT-2's
# size that writes its first words. They make no sense: it is not trained until chapter 5.

# %%
import time
from importlib.metadata import version

import torch
from torch import nn

from llm_scratch.chapter import settings, show
from llm_scratch.generation.decoding import generate, generate_text_simple
from llm_scratch.model.config import GPT_CONFIG_124M, gpt2_config
from llm_scratch.model.gpt import GPTModel, TransformerBlock
from llm_scratch.model.layers import GELU, FeedForward, LayerNorm, gelu_by_hand, layer_norm_by_hand
from llm_scratch.plotting.insides import plot_activations
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer

args = settings(__doc__)
print("torch version:", version("torch"))
print("tiktoken version:", version("tiktoken"))

# %% [markdown]
# ## 4.1 The plan
#
# Seven settings describe a GPT: how many token ids it knows, how many it reads at once, how wide
# its vectors are, how many heads and blocks it has, how much dropout, and whether query, key and
# value have a bias. Here are those of the smallest GPT-2.

# %%
print(GPT_CONFIG_124M)


# %% [markdown]
# First comes the frame alone: ids become vectors, and vectors become scores for every token of the
# vocabulary. Where the real work will be done, placeholders do nothing.


# %%
class DummyTransformerBlock(nn.Module):
    """A placeholder for the block, which returns its input."""

    def __init__(self, cfg: dict) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Change nothing: (B, T, C) -> (B, T, C)."""
        return x


class DummyLayerNorm(nn.Module):
    """A placeholder for layer normalisation, which returns its input."""

    def __init__(self, normalized_shape: int, eps: float = 1e-5) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Change nothing: (B, T, C) -> (B, T, C)."""
        return x


class DummyGPTModel(nn.Module):
    """The frame of a GPT: token ids (B, T) -> logits (B, T, V)."""

    def __init__(self, cfg: dict) -> None:
        super().__init__()
        self.tok_emb = nn.Embedding(cfg["vocab_size"], cfg["emb_dim"])
        self.pos_emb = nn.Embedding(cfg["context_length"], cfg["emb_dim"])
        self.drop_emb = nn.Dropout(cfg["drop_rate"])
        self.trf_blocks = nn.Sequential(
            *(DummyTransformerBlock(cfg) for _ in range(cfg["n_layers"]))
        )
        self.final_norm = DummyLayerNorm(cfg["emb_dim"])
        self.out_head = nn.Linear(cfg["emb_dim"], cfg["vocab_size"], bias=False)

    def forward(self, in_idx: torch.Tensor) -> torch.Tensor:
        """Look up tokens and positions, add them, score the vocabulary: (B, T) -> (B, T, V)."""
        positions = torch.arange(in_idx.shape[1], device=in_idx.device)
        x = self.drop_emb(self.tok_emb(in_idx) + self.pos_emb(positions))  # (B, T, C)
        return self.out_head(self.final_norm(self.trf_blocks(x)))


# %% [markdown]
# Two texts of four tokens each make a batch.

# %%
tokenizer = GPT2Tokenizer()
texts = ("Every effort moves you", "Every day holds a")
batch = torch.stack([torch.tensor(tokenizer.encode(text)) for text in texts], dim=0)
print(batch)  # (B, T)

# %% [markdown]
# Each of the eight positions gets a score for all 50,257 tokens. The scores are called logits.

# %%
torch.manual_seed(123)
model = DummyGPTModel(GPT_CONFIG_124M)
logits = model(batch)
print("Output shape:", logits.shape)
print(logits)
del model, logits

# %% [markdown]
# ## 4.2 Layer normalisation
#
# In a deep network, numbers tend to explode: a little too large in one layer means far too large
# twenty layers later. So every vector is brought back to mean 0 and variance 1 along the way. Our
# example is the six outputs of a small layer for two inputs:

# %%
torch.manual_seed(123)
batch_example = torch.randn(2, 5)
layer = nn.Sequential(nn.Linear(5, 6), nn.ReLU())
out = layer(batch_example)
print(out)

mean = out.mean(dim=-1, keepdim=True)
var = out.var(dim=-1, keepdim=True)
print("Mean:\n", mean)
print("Variance:\n", var)

# %% [markdown]
# Subtract the mean, divide by the square root of the variance:

# %%
out_norm = (out - mean) / torch.sqrt(var)
mean = out_norm.mean(dim=-1, keepdim=True)
var = out_norm.var(dim=-1, keepdim=True)
print("Normalized layer outputs:\n", out_norm)
print("Mean:\n", mean)
print("Variance:\n", var)

# %% [markdown]
# The mean is practically zero: numbers like 2e-08 are rounding errors. They are easier to read
# without scientific notation.

# %%
torch.set_printoptions(sci_mode=False)
print("Mean:\n", mean)
print("Variance:\n", var)

# %% [markdown]
# `LayerNorm` also learns a scale and a shift, so that the network can undo the normalisation where
# that helps. Like GPT-2, it divides by n, not n - 1, and adds a little to the variance so as never
# to divide by zero. That is why the variances here fall just short of 1.

# %%
ln = LayerNorm(emb_dim=6)
out_ln = ln(out)
mean = out_ln.mean(dim=-1, keepdim=True)
var = out_ln.var(dim=-1, unbiased=False, keepdim=True)
print("Mean:\n", mean)
print("Variance:\n", var)

# %% [markdown]
# The module calls PyTorch's fused kernel; `layer_norm_by_hand` is the formula. They agree.

# %%
by_hand = layer_norm_by_hand(out, ln.scale, ln.shift, ln.eps)
print(f"Largest difference, by hand and fused: {(by_hand - out_ln).abs().max().item():.0e}")

# %% [markdown]
# ## 4.3 A feed-forward network with GELU
#
# ReLU cuts off everything below zero, with a sharp corner. GELU is its smooth relative. It lets
# small negative numbers through a little, and has a slope to learn from almost everywhere.

# %%
show(args, "ch04-gelu-relu", plot_activations)
x = torch.linspace(-3, 3, 100)
difference = (gelu_by_hand(x) - GELU()(x)).abs().max().item()
print(f"Largest difference, by hand and fused: {difference:.0e}")

# %% [markdown]
# After attention has mixed the tokens, the feed-forward network works on each one alone. It makes
# the vector four times as wide, applies GELU, and goes back to the old width.

# %%
print(GPT_CONFIG_124M["emb_dim"])
ffn = FeedForward(GPT_CONFIG_124M)
x = torch.rand(2, 3, 768)  # (B, T, C)
out = ffn(x)
print(out.shape)

# %% [markdown]
# ## 4.4 Shortcuts
#
# In a deep network the gradient shrinks with every layer on its way back, and the first layers
# hardly learn. A shortcut adds a layer's input to its output, which gives the gradient a way around
# the layer. Five small layers show the difference.


# %%
class ExampleDeepNeuralNetwork(nn.Module):
    """Linear layers with GELU, with optional shortcuts around those whose widths allow it."""

    def __init__(self, layer_sizes: list[int], use_shortcut: bool) -> None:
        super().__init__()
        self.use_shortcut = use_shortcut
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(wide_in, wide_out), GELU())
            for wide_in, wide_out in zip(layer_sizes[:-1], layer_sizes[1:], strict=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply all layers: (B, first size) -> (B, last size)."""
        for layer in self.layers:
            output = layer(x)
            x = x + output if self.use_shortcut and x.shape == output.shape else output
        return x


def print_gradients(model: nn.Module, x: torch.Tensor) -> None:
    """Print how large the gradient of each weight matrix is, for a target of 0."""
    output = model(x)
    nn.MSELoss()(output, torch.zeros_like(output)).backward()
    for name, param in model.named_parameters():
        if "weight" in name:
            print(f"{name} has gradient mean of {param.grad.abs().mean().item()}")


# %% [markdown]
# Without shortcuts, the gradient shrinks on its way back: little of it reaches the first layers...

# %%
layer_sizes = [3, 3, 3, 3, 3, 1]
sample_input = torch.tensor([[1.0, 0.0, -1.0]])
torch.manual_seed(123)
model_without_shortcut = ExampleDeepNeuralNetwork(layer_sizes, use_shortcut=False)
print_gradients(model_without_shortcut, sample_input)

# %% [markdown]
# ...and with them, all layers get their share: in the first one it is a thousand times larger.

# %%
torch.manual_seed(123)
model_with_shortcut = ExampleDeepNeuralNetwork(layer_sizes, use_shortcut=True)
print_gradients(model_with_shortcut, sample_input)

# %% [markdown]
# ## 4.5 The transformer block
#
# Now all the parts are ready. A block normalises, lets the tokens attend to each other, and adds
# the result to its input. Then it normalises, transforms each token, and adds again. The output has
# the shape of the input, so blocks can be stacked.

# %%
torch.manual_seed(123)
x = torch.rand(2, 4, 768)  # (B, T, C)
block = TransformerBlock(GPT_CONFIG_124M)
output = block(x)
print("Input shape:", x.shape)
print("Output shape:", output.shape)

# %% [markdown]
# ## 4.6 The GPT model
#
# Twelve such blocks fit between the embeddings and the output layer, in the frame from 4.1.

# %%
torch.manual_seed(123)
model = GPTModel(GPT_CONFIG_124M)
out = model(batch)
print("Input batch:\n", batch)
print("\nOutput shape:", out.shape)
print(out)
del out

# %% [markdown]
# Why is it called "124M" when it has 163 million parameters?

# %%
total_params = model.num_parameters()
print(f"Total number of parameters: {total_params:,}")

# %% [markdown]
# The first and the last matrix have the same shape. GPT-2 uses one for both: the vector of an input
# token is also the one that a prediction is compared with. Counting it once gives 124 million.

# %%
print("Token embedding layer shape:", model.tok_emb.weight.shape)
print("Output layer shape:", model.out_head.weight.shape)
tied = model.num_parameters(head=False)
print(f"Number of trainable parameters considering weight tying: {tied:,}")

# %% [markdown]
# Like the book, we continue with two matrices (`tie_weights=True` in the configuration shares one).
# At four bytes per number, this is how much memory the model takes:

# %%
total_size_mb = total_params * 4 / 1024**2
print(f"Total size of the model: {total_size_mb:.2f} MB")

# %% [markdown]
# ## 4.7 Writing text
#
# The logits at the last position say which token may come next. The likeliest is appended to the
# text, the model reads all of it again, and so on. Dropout is for training only: `eval()` turns it
# off.

# %%
start_context = "Hello, I am"
encoded = tokenizer.encode(start_context)
print("encoded:", encoded)
encoded_tensor = torch.tensor(encoded).unsqueeze(0)  # (1, T)
print("encoded_tensor.shape:", encoded_tensor.shape)

model.eval()
context_size = GPT_CONFIG_124M["context_length"]
out = generate_text_simple(model, encoded_tensor, max_new_tokens=6, context_size=context_size)
print("Output:", out)
print("Output length:", len(out[0]))

decoded_text = tokenizer.decode(out.squeeze(0).tolist())
print(decoded_text)

# %% [markdown]
# Words, but no sense: every weight is still a random number. Chapter 5 trains them.
#
# ## More: no token is read twice
#
# The book's loop reads the whole text again for each new token. But the keys and values of a token
# never change, since no token sees what comes after it. So they can be cached. `generate` does that
# and returns the same ids. The longer the text, the more time this saves.

# %%
new_tokens = 10 if args.quick else 30
for use_cache in (False, True):
    began = time.perf_counter()
    longer = generate(model, encoded_tensor, new_tokens, context_size, use_cache=use_cache)
    seconds = time.perf_counter() - began
    print(f"{'with' if use_cache else 'without'} a cache: {new_tokens} tokens in {seconds:.2f} s")
    print("It begins with the ids above:", torch.equal(longer[:, : out.shape[1]], out))

# %% [markdown]
# ## Exercise 4.1: parameters of the feed-forward network and attention


# %%
def count(module: nn.Module) -> int:
    """Return the number of a module's parameters."""
    return sum(p.numel() for p in module.parameters())


print(f"Feed-forward network: {count(block.ff):,}")
print(f"  first linear layer: {count(block.ff.layers[0]):,}")
print(f"  second linear layer: {count(block.ff.layers[2]):,}")
print(f"Attention: {count(block.att):,}")
print(f"  query, key and value, each: {count(block.att.W_query):,}")
print(f"  output projection: {count(block.att.out_proj):,}")

# %% [markdown]
# ## Exercise 4.2: the larger GPT-2 models
#
# Only width, depth and the number of heads change. `GPTModel.empty` builds a model without setting
# its parameters, so even the largest, 6 GB in size, is ready at once and takes hardly any memory.
# Counting needs no more than that.


# %%
def get_config(base_config: dict, model_name: str = "gpt2-small") -> dict:
    """Return a configuration like `base_config` with the width, depth and heads of a GPT-2."""
    size = gpt2_config(model_name)
    return {**base_config, **{name: size[name] for name in ("emb_dim", "n_layers", "n_heads")}}


def calculate_size(model: GPTModel) -> None:
    """Print a model's parameters, also without the output layer, and its size in memory."""
    total_params = model.num_parameters()
    print(f"Total number of parameters: {total_params:,}")
    tied = model.num_parameters(head=False)
    print(f"Number of trainable parameters considering weight tying: {tied:,}")
    print(f"Total size of the model: {total_params * 4 / 1024**2:.2f} MB")


# %%
names = ["gpt2-small", "gpt2-medium", "gpt2-large"] + ([] if args.quick else ["gpt2-xl"])
for name in names:
    config = get_config(GPT_CONFIG_124M, name)
    print(f"\n{name}: {config['emb_dim']} wide, {config['n_layers']} blocks of", end=" ")
    print(f"{config['n_heads']} heads")
    calculate_size(GPTModel.empty(config))

# %% [markdown]
# ## Exercise 4.3: three dropout rates
#
# There is dropout after the embeddings, on the attention weights and before each shortcut is added.
# Three keys instead of one give each its own rate.

# %%
config = {name: value for name, value in GPT_CONFIG_124M.items() if name != "drop_rate"}
config |= {"drop_rate_emb": 0.1, "drop_rate_attn": 0.2, "drop_rate_shortcut": 0.05}
model = GPTModel.empty(config)
block = model.trf_blocks[0]
print("\nAfter the embeddings:", model.drop_emb)
print("On the attention weights:", block.att.dropout)
print("Before each shortcut:", block.drop_shortcut)
