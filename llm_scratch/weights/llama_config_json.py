"""The `config.json` of Llama, Mistral and Qwen, converted to this library's options and back.

Source:
    The configuration classes of transformers 5, and the older names that all versions read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from llm_scratch.foreign import NOTHING, OFF, USED, Rule, check_settings
from llm_scratch.model.llama_config import ROPE_KINDS, LlamaConfig, RopeScaling
from llm_scratch.tensor_files.errors import WeightsError

SIZES = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "context_length",
    "hidden_size": "emb_dim",
    "num_attention_heads": "n_heads",
    "num_hidden_layers": "n_layers",
    "intermediate_size": "hidden_dim",
    "num_key_value_heads": "n_kv_groups",
    "head_dim": "head_dim",
    "num_experts": "num_experts",
    "num_experts_per_tok": "num_experts_per_tok",
    "moe_intermediate_size": "moe_intermediate_size",
}
# transformers 5 has another name for one of them.
SIZES_READ = {**SIZES, "num_local_experts": "num_experts"}
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
"""transformers' names for the families that are one class here."""

DENSE_QWEN = ("qwen2", "qwen3")  # their first blocks may see all earlier tokens

ROPE_WORDS = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_position_embeddings": "original_context_length",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
}
ROPE_RULES: dict[str, Rule] = {
    **dict.fromkeys((*ROPE_WORDS, "rope_theta", "rope_type", "type"), USED),
    "partial_rotary_factor": (None, 1.0),
    "truncate": (None, True),
}

RULES: dict[str, Rule] = {
    **dict.fromkeys((*SIZES_READ, "rms_norm_eps", "tie_word_embeddings", "attention_bias"), USED),
    **dict.fromkeys(("rope_theta", "rope_scaling", "rope_parameters", "use_sliding_window"), USED),
    "qkv_bias": USED,  # this library's own
    **dict.fromkeys(("sliding_window", "max_window_layers", "layer_types", "model_type"), USED),
    **dict.fromkeys(("norm_topk_prob", "id2label", "architectures"), USED),
    "hidden_act": ("silu", "swish"),
    "pretraining_tp": (None, 0, 1),
    "partial_rotary_factor": (None, 1.0),
    "decoder_sparse_step": (None, 1),
    "problem_type": (None, "single_label_classification"),
    **dict.fromkeys(
        ("mlp_bias", "mlp_only_layers", "is_encoder_decoder", "add_cross_attention",
         "pruned_heads", "quantization_config", "auto_map", "cross_attention_hidden_size"),
        OFF,
    ),
    # Notes, training, the form of transformers' outputs.
    **dict.fromkeys(
        ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_bfloat16",
         "attn_implementation", "_attn_implementation_autoset", "tokenizer_class", "label2id",
         "_num_labels", "num_labels", "finetuning_task", "task_specific_params", "torchscript",
         "initializer_range", "attention_dropout", "router_aux_loss_coef", "output_router_logits",
         "return_dict", "output_attentions", "output_hidden_states", "chunk_size_feed_forward",
         "tie_encoder_decoder", "tf_legacy_loss", "is_decoder", "use_cache", "bos_token_id",
         "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id",
         "is_llama_config", "rope_interleaved", "transformers.js_config"),
        NOTHING,
    ),
}  # fmt: skip


def read_llama_config(
    path: Path, values: Mapping[str, Any], ignore_keys: Collection[str] = ()
) -> dict[str, Any]:
    """Return the options of `LlamaConfig` that a `config.json` states.

    Args:
        path: the file, for messages.
        values: its keys and values.
        ignore_keys: settings to ignore.

    Raises:
        WeightsError: if it is damaged, or belongs to an unsupported model.
    """
    values = check_settings(path, values, RULES, ignore_keys=ignore_keys, error=WeightsError)
    kind = values.get("model_type")
    found: dict[str, Any] = {
        ours: values[theirs]
        for theirs, ours in SIZES_READ.items()
        if values.get(theirs) is not None
    }
    if any(type(value) is not int or value < 0 for value in found.values()):
        raise WeightsError(path, f"its sizes are not positive numbers: {str(found)[:200]}")
    if kind != "qwen3_moe":
        found = {k: v for k, v in found.items() if "expert" not in k and "moe" not in k}
    found["norm_eps"] = values.get("rms_norm_eps", 1e-6)
    if _flag(values, "attention_bias"):
        raise WeightsError(path, "attention_bias=True puts a bias after attention too, unlike here")
    found["qkv_bias"] = kind == "qwen2" and values.get("qkv_bias") is not False
    found["qk_norm"] = kind in ("qwen3", "qwen3_moe")
    if isinstance(tied := values.get("tie_word_embeddings"), bool):  # otherwise the tensors decide
        found["tie_weights"] = tied
    if kind == "qwen3_moe":
        found["norm_topk_prob"] = _flag(values, "norm_topk_prob")
    found |= _rope_of(path, values, ignore_keys) | _window_of(path, values, found)
    if isinstance(labels := values.get("id2label"), dict):
        found["class_names"] = tuple(str(labels.get(str(n))) for n in range(len(labels)))
    return found


def _flag(values: Mapping[str, Any], key: str) -> bool:
    return values.get(key) is True


def _rope_of(path: Path, values: Mapping[str, Any], ignore: Collection[str]) -> dict[str, Any]:
    """Return RoPE's base and scaling, from the keys of transformers 5 or the older ones."""
    where = "rope_parameters" if values.get("rope_parameters") else "rope_scaling"
    stated = values.get(where) or {}
    if not isinstance(stated, dict):
        raise WeightsError(path, f"{where} holds no settings: {str(stated)[:60]}")
    stated = check_settings(
        path, stated, ROPE_RULES, ignore_keys=ignore, error=WeightsError, where=where
    )
    base = stated.get("rope_theta", values.get("rope_theta", 10_000.0))
    kind = stated.get("rope_type", stated.get("type", "default"))
    if kind == "default":
        return {"rope_base": base}
    if kind not in ROPE_KINDS:
        known = ", ".join(("default", *ROPE_KINDS))
        raise WeightsError(path, f"{where}: RoPE of kind {str(kind)[:40]!r} is unknown ({known})")
    options = {ours: stated[w] for w, ours in ROPE_WORDS.items() if stated.get(w) is not None}
    if "factor" not in options:
        raise WeightsError(path, f"{where} lacks factor")
    if kind != "linear":
        options.setdefault("original_context_length", values.get("max_position_embeddings"))
    try:
        return {"rope_base": base, "rope_freq": RopeScaling(kind=kind, **options)}
    except (ValueError, TypeError) as err:
        raise WeightsError(path, f"{where}: {err}") from err


def _window_of(path: Path, values: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sliding window and the blocks that have it; empty if there is none."""
    window = values.get("sliding_window")
    qwen = str(values.get("model_type")).startswith("qwen")
    if not window or (qwen and not _flag(values, "use_sliding_window")):
        return {}
    layers: Any = range(sizes.get("n_layers", 0))
    kinds = None if values.get("model_type") == "qwen3_moe" else values.get("layer_types")
    if isinstance(kinds, list):
        if set(kinds) - {"full_attention", "sliding_attention"} or len(kinds) != len(layers):
            raise WeightsError(path, f"layer_types are not understood: {str(kinds)[:120]}")
        chosen = tuple(n for n in layers if kinds[n] == "sliding_attention")
    else:
        first = values.get("max_window_layers", 28) if values.get("model_type") in DENSE_QWEN else 0
        chosen = tuple(n for n in layers if n >= first)
    if len(chosen) == len(layers):
        return {"sliding_window": window}
    return {"sliding_window": window, "sliding_layers": chosen} if chosen else {}


def model_type_of(cfg: LlamaConfig) -> str:
    """Return the family of transformers that corresponds to a configuration.

    Raises:
        ValueError: if there is none.
    """
    if cfg.num_experts and not cfg.qk_norm:
        raise ValueError("no family of transformers has experts without qk_norm; save_model does")
    if cfg.qkv_bias and cfg.qk_norm:
        raise ValueError("no family of transformers has qkv_bias and qk_norm; save_model does")
    if cfg.num_experts and cfg.sliding_layers is not None:
        raise ValueError("transformers has a window in all blocks with experts, or in none")
    if cfg.qk_norm:
        return "qwen3_moe" if cfg.num_experts else "qwen3"
    if cfg.qkv_bias or (cfg.sliding_window and cfg.sliding_layers is not None):
        return "qwen2"
    # transformers' Llama needs a width divisible by the number of heads, whatever their width.
    return "mistral" if cfg.sliding_window or cfg.emb_dim % cfg.n_heads else "llama"


def write_llama_config(cfg: LlamaConfig, tied: bool, dtype: str, end: int | None) -> dict[str, Any]:
    """Return the `config.json` of a `LlamaModel`, under the names that all readers know.

    Args:
        cfg: the model's configuration.
        tied: whether its head is the embedding.
        dtype: the name of its numbers' type.
        end: the end-of-text id, None if it is unknown.
    """
    kind = model_type_of(cfg)
    config: dict[str, Any] = {"architectures": [ARCHITECTURES[kind]], "model_type": kind}
    config |= {theirs: cfg[ours] for theirs, ours in SIZES.items() if cfg[ours]}
    config |= {
        "hidden_act": "silu",
        "rms_norm_eps": cfg.norm_eps,
        "rope_theta": cfg.rope_base,
        "rope_scaling": _rope_words(cfg.rope_freq),
        "tie_word_embeddings": tied,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": end,
        "eos_token_id": end,
        "torch_dtype": dtype,
        # For this library: without it, biases of zero would be read back as biases.
        **({"qkv_bias": cfg.qkv_bias} if kind == "qwen2" else {}),
    }
    if kind == "qwen3_moe":
        config |= {"norm_topk_prob": cfg.norm_topk_prob, "decoder_sparse_step": 1}
        config |= {"mlp_only_layers": [], "intermediate_size": cfg.hidden_dim or 4 * cfg.emb_dim}
    if kind in ("llama", "qwen3", "qwen3_moe"):
        config["attention_bias"] = False
    if kind != "llama":
        config["sliding_window"] = cfg.sliding_window
    if kind.startswith("qwen"):
        slides = [cfg.window_of(layer) is not None for layer in range(cfg.n_layers)]
        config["use_sliding_window"] = cfg.sliding_window is not None
        config["layer_types"] = [f"{'sliding' if s else 'full'}_attention" for s in slides]
    return config


def _rope_words(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    kinds = {
        "linear": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor",
                   "original_max_position_embeddings"),
        "yarn": ("factor", "beta_fast", "beta_slow", "original_max_position_embeddings",
                 "attention_factor"),
    }  # fmt: skip
    words = {word: scaling[ROPE_WORDS[word]] for word in kinds[scaling.kind]}
    return {"rope_type": scaling.kind, **{k: v for k, v in words.items() if v is not None}}
