"""A GPT written from scratch in PyTorch: the public names, in the order of the book it follows."""

from __future__ import annotations

__version__ = "0.1.0"

# The order is the book's.
# isort: off

# Chapter 2: text -> token ids -> training windows
from llm_scratch.text.simple import (
    SimpleTokenizerV1,
    SimpleTokenizerV2,
    UnknownTokenError,
    build_vocab,
    split_words,
)
from llm_scratch.text.gpt2 import GPT2Tokenizer
from llm_scratch.text.bpe import BytePairTokenizer
from llm_scratch.text.bpe_training import train_by_hand
from llm_scratch.text.bpe_files import TokenizerFileError
from llm_scratch.text.bpe_open import open_tokenizer
from llm_scratch.text.corpora import fetch, load_text
from llm_scratch.text.windows import (
    GPTDatasetV1,
    TokenWindows,
    create_dataloader_v1,
    split_text,
    split_tokens,
)

# Chapter 3: attention
from llm_scratch.model.attention import (
    CausalAttention,
    MultiHeadAttention,
    MultiHeadAttentionWrapper,
    SelfAttention_v1,
    SelfAttention_v2,
    attention_by_hand,
    attention_weights,
    causal_mask,
)

# Chapter 4: the model, and text out of it
from llm_scratch.model.config import (
    GPT2_CONFIGS,
    GPT_CONFIG_124M,
    ConfigError,
    GPTConfig,
    as_config,
    gpt2_config,
)
from llm_scratch.model.layers import (
    GELU,
    FeedForward,
    LayerNorm,
    gelu_by_hand,
    layer_norm_by_hand,
)
from llm_scratch.model.cache import KVCache
from llm_scratch.model.gpt import GPTModel, TransformerBlock
from llm_scratch.model.device import pick_device
from llm_scratch.generation.sampling import next_probabilities, sample_next
from llm_scratch.generation.decoding import generate, generate_text_simple, stream
from llm_scratch.generation.text import Generation, TextStream, generate_text
from llm_scratch.generation.quantized import quantize_int8

# Chapter 5: pretraining
from llm_scratch.text.tokens import IncrementalDecoder, text_to_token_ids, token_ids_to_text
from llm_scratch.training.losses import calc_loss_batch, calc_loss_loader
from llm_scratch.training.evaluation import evaluate_model, generate_and_print_sample
from llm_scratch.training.simple import load_checkpoint, save_checkpoint, train_model_simple
from llm_scratch.plotting import plot_losses
from llm_scratch.weights.errors import WeightsError
from llm_scratch.weights.tensor_bundle import TensorBundle
from llm_scratch.weights.openai import (
    assign,
    download_and_load_gpt2,
    load_gpt2_params_from_tf_ckpt,
    load_weights_into_gpt,
)
from llm_scratch.weights.hub import fetch_gpt2, find_gpt2
from llm_scratch.weights.gpt2 import load_gpt2
from llm_scratch.weights.folder import load_model, save_model
from llm_scratch.weights.huggingface import export_huggingface

# Chapter 5 for real: token files and the loop that can be stopped and resumed
from llm_scratch.text.shards import TokenFile, write_tokens
from llm_scratch.text.token_parts import TokenPart
from llm_scratch.text.token_header import TokenFileError
from llm_scratch.training.chunked_loss import chunked_head_loss
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.loop import train

# Appendix D: warm-up, cosine decay, clipping
from llm_scratch.training.appendix_d import find_highest_gradient, train_model

# Appendix A: the small network of the introduction to PyTorch
from llm_scratch.appendix_a import NeuralNetwork, ToyDataset, compute_accuracy

# Beside the book: the same checks for a reader's own code
from llm_scratch.selfcheck.run import check

# isort: on

__all__ = [
    "SimpleTokenizerV1",
    "SimpleTokenizerV2",
    "UnknownTokenError",
    "build_vocab",
    "split_words",
    "GPT2Tokenizer",
    "BytePairTokenizer",
    "train_by_hand",
    "TokenizerFileError",
    "open_tokenizer",
    "fetch",
    "load_text",
    "GPTDatasetV1",
    "TokenWindows",
    "create_dataloader_v1",
    "split_text",
    "split_tokens",
    "CausalAttention",
    "MultiHeadAttention",
    "MultiHeadAttentionWrapper",
    "SelfAttention_v1",
    "SelfAttention_v2",
    "attention_by_hand",
    "attention_weights",
    "causal_mask",
    "GPT2_CONFIGS",
    "GPT_CONFIG_124M",
    "ConfigError",
    "GPTConfig",
    "as_config",
    "gpt2_config",
    "GELU",
    "FeedForward",
    "LayerNorm",
    "gelu_by_hand",
    "layer_norm_by_hand",
    "KVCache",
    "GPTModel",
    "TransformerBlock",
    "pick_device",
    "next_probabilities",
    "sample_next",
    "generate",
    "generate_text_simple",
    "stream",
    "Generation",
    "TextStream",
    "generate_text",
    "quantize_int8",
    "IncrementalDecoder",
    "text_to_token_ids",
    "token_ids_to_text",
    "calc_loss_batch",
    "calc_loss_loader",
    "evaluate_model",
    "generate_and_print_sample",
    "load_checkpoint",
    "save_checkpoint",
    "train_model_simple",
    "plot_losses",
    "WeightsError",
    "TensorBundle",
    "assign",
    "download_and_load_gpt2",
    "load_gpt2_params_from_tf_ckpt",
    "load_weights_into_gpt",
    "fetch_gpt2",
    "find_gpt2",
    "load_gpt2",
    "load_model",
    "save_model",
    "export_huggingface",
    "TokenFile",
    "write_tokens",
    "TokenPart",
    "TokenFileError",
    "chunked_head_loss",
    "TrainConfig",
    "train",
    "find_highest_gradient",
    "train_model",
    "NeuralNetwork",
    "ToyDataset",
    "compute_accuracy",
    "check",
]
