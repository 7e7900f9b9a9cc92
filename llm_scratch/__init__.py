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
from llm_scratch.text.token_rows import TokenRows
from llm_scratch.text.token_header import TokenFileError
from llm_scratch.training.chunked_loss import chunked_head_loss
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.objective import Objective
from llm_scratch.training.loop import train

# Chapter 6: classification
from llm_scratch.finetuning.messages import (
    create_balanced_dataset,
    download_and_unzip_spam_data,
    random_split,
    read_sms,
)
from llm_scratch.finetuning.classification import (
    SpamDataset,
    calc_accuracy_loader,
    classification_loss,
    classify_review,
    last_position_loss,
    train_classifier_simple,
)
from llm_scratch.finetuning.labelled_texts import ClassificationDataset
from llm_scratch.finetuning.classifier import (
    Classifier,
    classify_texts,
    evaluate_classifier,
    finetune_classifier,
    load_classifier,
    replace_head,
    save_classifier,
)
from llm_scratch.finetuning.scores import class_scores, confusion_matrix, score_table
from llm_scratch.plotting import plot_values

# Chapter 7: instructions
from llm_scratch.finetuning.prompts import (
    ALPACA,
    PHI3,
    extract_response,
    format_input,
    format_input_phi,
)
from llm_scratch.finetuning.instructions import (
    InstructionDataset,
    InstructionDatasetPhi,
    InstructionDatasetWithMasking,
    custom_collate_draft_1,
    custom_collate_draft_2,
    custom_collate_fn,
    custom_collate_with_masking_fn,
    download_and_load_file,
    load_instructions,
)
from llm_scratch.finetuning.instruction_rows import PackedRows, show_mask
from llm_scratch.finetuning.instruction_tuning import (
    answer,
    finetune_instructions,
    stopped_share,
)
from llm_scratch.finetuning.judge import exact_match, token_f1
from llm_scratch.finetuning.ollama import check_if_running, generate_model_scores, query_model

# Chapter 7, bonus: preferences
from llm_scratch.finetuning.preference import (
    PreferenceDataset,
    compute_dpo_loss,
    compute_dpo_loss_batch,
    compute_dpo_loss_loader,
    compute_logprobs,
    evaluate_dpo_loss_loader,
    preference_collate,
    train_model_dpo_simple,
)
from llm_scratch.finetuning.preference_rows import (
    PreferenceRows,
    measure_reference,
)
from llm_scratch.finetuning.preference_tuning import (
    PreferenceScore,
    dpo_objective,
    finetune_preferences,
    preference_score,
)

# Appendix D: warm-up, cosine decay, clipping
from llm_scratch.training.appendix_d import find_highest_gradient, train_model

# Appendix E: LoRA
from llm_scratch.finetuning.lora import (
    LinearWithLoRA,
    LinearWithLoRAMerged,
    LoRALayer,
    freeze,
    merge_lora,
    replace_linear_with_lora,
    trainable_parameters,
    unmerge_lora,
)
from llm_scratch.finetuning.adapters import save_adapter
from llm_scratch.finetuning.adapter_loading import adapter_base, load_adapter

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
    "TokenRows",
    "TokenFileError",
    "chunked_head_loss",
    "TrainConfig",
    "Objective",
    "train",
    "create_balanced_dataset",
    "download_and_unzip_spam_data",
    "random_split",
    "read_sms",
    "SpamDataset",
    "calc_accuracy_loader",
    "classification_loss",
    "classify_review",
    "last_position_loss",
    "train_classifier_simple",
    "ClassificationDataset",
    "Classifier",
    "classify_texts",
    "evaluate_classifier",
    "finetune_classifier",
    "load_classifier",
    "replace_head",
    "save_classifier",
    "class_scores",
    "confusion_matrix",
    "score_table",
    "plot_values",
    "ALPACA",
    "PHI3",
    "extract_response",
    "format_input",
    "format_input_phi",
    "InstructionDataset",
    "InstructionDatasetPhi",
    "InstructionDatasetWithMasking",
    "custom_collate_draft_1",
    "custom_collate_draft_2",
    "custom_collate_fn",
    "custom_collate_with_masking_fn",
    "download_and_load_file",
    "load_instructions",
    "PackedRows",
    "show_mask",
    "answer",
    "finetune_instructions",
    "stopped_share",
    "exact_match",
    "token_f1",
    "check_if_running",
    "generate_model_scores",
    "query_model",
    "PreferenceDataset",
    "compute_dpo_loss",
    "compute_dpo_loss_batch",
    "compute_dpo_loss_loader",
    "compute_logprobs",
    "evaluate_dpo_loss_loader",
    "preference_collate",
    "train_model_dpo_simple",
    "PreferenceRows",
    "measure_reference",
    "PreferenceScore",
    "dpo_objective",
    "finetune_preferences",
    "preference_score",
    "find_highest_gradient",
    "train_model",
    "LinearWithLoRA",
    "LinearWithLoRAMerged",
    "LoRALayer",
    "freeze",
    "merge_lora",
    "replace_linear_with_lora",
    "trainable_parameters",
    "unmerge_lora",
    "save_adapter",
    "adapter_base",
    "load_adapter",
    "NeuralNetwork",
    "ToyDataset",
    "compute_accuracy",
    "check",
]
