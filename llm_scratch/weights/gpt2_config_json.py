"""The `config.json` of a GPT-2, and OpenAI's `hparams.json`, as this library's options."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from llm_scratch.foreign import NOTHING, OFF, USED, Rule, check_settings
from llm_scratch.model.config import GPTConfig
from llm_scratch.tensor_files.errors import WeightsError

SIZES = {
    "vocab_size": "vocab_size",
    "n_positions": "context_length",
    "n_ctx": "context_length",
    "n_embd": "emb_dim",
    "n_layer": "n_layers",
    "n_head": "n_heads",
}
# The treatment of each key in a GPT-2's `config.json` and in OpenAI's `hparams.json`. Older
# versions of transformers also wrote settings for generation, which are the caller's choice here.
RULES: dict[str, Rule] = {
    **dict.fromkeys((*SIZES, "n_vocab", "n_inner", "tie_word_embeddings", "qkv_bias"), USED),
    **dict.fromkeys(("id2label", "architectures"), USED),
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "problem_type": (None, "single_label_classification"),
    **dict.fromkeys(
        (
            *("scale_attn_by_inverse_layer_idx", "add_cross_attention", "is_encoder_decoder"),
            *("pruned_heads", "quantization_config", "auto_map", "cross_attention_hidden_size"),
        ),
        OFF,
    ),
    # Notes, training, the form of transformers' outputs, and the heads of other models.
    **dict.fromkeys(
        (
            *("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_bfloat16"),
            *("attn_implementation", "_attn_implementation_autoset", "tokenizer_class"),
            *("label2id", "_num_labels", "num_labels", "finetuning_task", "task_specific_params"),
            *("resid_pdrop", "embd_pdrop", "attn_pdrop", "initializer_range", "torchscript"),
            *("summary_type", "summary_use_proj", "summary_activation", "summary_first_dropout"),
            *("summary_proj_to_labels", "reorder_and_upcast_attn", "gradient_checkpointing"),
            *("return_dict", "output_attentions", "output_hidden_states", "output_past"),
            *("chunk_size_feed_forward", "tie_encoder_decoder", "tf_legacy_loss", "is_decoder"),
            *("use_cache", "n_special", "predict_special_tokens", "bos_token_id", "eos_token_id"),
            *("pad_token_id", "sep_token_id", "decoder_start_token_id"),
        ),
        NOTHING,
    ),
    **dict.fromkeys(
        (
            *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "top_p"),
            *("num_beam_groups", "diversity_penalty", "temperature", "top_k", "typical_p"),
            *("repetition_penalty", "length_penalty", "no_repeat_ngram_size", "bad_words_ids"),
            *("encoder_no_repeat_ngram_size", "num_return_sequences", "output_scores", "prefix"),
            *("return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id"),
            *("remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens"),
            *("begin_suppress_tokens", "max_new_tokens"),
        ),
        NOTHING,
    ),
}  # fmt: skip


def read_gpt2_config(
    path: Path, values: Mapping[str, Any], ignore_keys: Collection[str] = ()
) -> dict[str, Any]:
    """Return the options of `GPTConfig` that a `config.json` states, or OpenAI's `hparams.json`.

    For a model with a head for classes, they include the class names, as `class_names`.

    Raises:
        WeightsError: if it is damaged, or belongs to a model that differs from GPT-2.
    """
    values = check_settings(path, values, RULES, ignore_keys=ignore_keys, error=WeightsError)
    names = {"n_vocab": "vocab_size", **SIZES}  # the first is OpenAI's
    found: dict[str, Any] = {ours: values[name] for name, ours in names.items() if name in values}
    if any(type(value) is not int or value < 1 for value in found.values()):
        raise WeightsError(path, f"its sizes are not positive numbers: {str(found)[:200]}")
    inner = values.get("n_inner")
    if inner is not None and inner != 4 * found.get("emb_dim", 0):
        raise WeightsError(path, f"n_inner is {str(inner)[:60]}; this model has 4 * n_embd")
    for name, ours in (("tie_word_embeddings", "tie_weights"), ("qkv_bias", "qkv_bias")):
        if isinstance(values.get(name), bool):
            found[ours] = values[name]
    if isinstance(labels := values.get("id2label"), dict):
        found["class_names"] = tuple(str(labels.get(str(n))) for n in range(len(labels)))
    return found


def write_gpt2_config(cfg: GPTConfig, tied: bool, dtype: str, end: int | None) -> dict[str, Any]:
    """Return the `config.json` of a `GPTModel`; see `write_llama_config`."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **{theirs: cfg[ours] for theirs, ours in SIZES.items()},
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "embd_pdrop": cfg.embedding_dropout,
        "attn_pdrop": cfg.attention_dropout,
        "resid_pdrop": cfg.shortcut_dropout,
        "initializer_range": 0.02,
        "scale_attn_weights": True,
        "use_cache": True,
        # Always written, as its default has changed between versions of transformers.
        "tie_word_embeddings": tied,
        "bos_token_id": end,
        "eos_token_id": end,
        "torch_dtype": dtype,
        # For this library: without it, biases of zero would be read back as biases.
        "qkv_bias": cfg.qkv_bias,
    }
