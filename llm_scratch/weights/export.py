"""A model trained here as a folder that transformers opens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.files import write_json
from llm_scratch.model.config import GPTConfig
from llm_scratch.model.families import language_model
from llm_scratch.model.heads import head_of
from llm_scratch.tensor_files.safetensors import write_safetensors
from llm_scratch.tokenizers.any_tokenizer import end_of_text_id, fingerprint
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer
from llm_scratch.tokenizers.simple import END_OF_TEXT
from llm_scratch.weights.folder import check_vocabulary, tensors_of
from llm_scratch.weights.gpt2_names import BLOCK, TOP, TRANSPOSED
from llm_scratch.weights.huggingface_files import SIZES


def export_huggingface(
    model: nn.Module, folder: str | os.PathLike[str], tokenizer: Any | None = None
) -> Path:
    """The folder that `AutoModelForCausalLM.from_pretrained` opens, with equal logits.

    Written are `config.json`, `generation_config.json` and `model.safetensors`, and with a
    tokenizer `tokenizer.json`, `tokenizer_config.json`, `vocab.json` and `merges.txt`, for
    `AutoTokenizer`, and the id that ends a text. `load_gpt2` reads it back, bit by bit.

    Args:
        model: a `GPTModel`, tied or not, with qkv bias or without (zeros are written then).
        folder: is made when missing.
        tokenizer: a `BytePairTokenizer`, or GPT-2's in any form.

    Raises:
        ValueError: if the model has a head for classes or LoRA matrices, or fewer ids than the
            tokenizer.
        TypeError: if it is no `GPTModel`, or the tokenizer is of another kind.
    """
    inner = language_model(model)
    tensors, head = tensors_of(inner), head_of(inner)
    cfg: Any = inner.cfg
    if head.kind == "classes":
        raise ValueError(
            f"a head with {head.size} classes is no language model's; save_model keeps it"
        )
    bpe = None if tokenizer is None else as_byte_pair(tokenizer)
    if bpe is not None:
        check_vocabulary(inner, bpe)
    folder = Path(folder)
    tied = "out_head.weight" not in tensors
    end = None if bpe is None else end_of_text_id(bpe)  # no size of a vocabulary tells it
    config = _config(cfg, tied, tensors["tok_emb.weight"].dtype, end)
    write_json(folder / "config.json", config, indent=2)
    ends = {"bos_token_id": end, "eos_token_id": end}
    write_json(folder / "generation_config.json", {"_from_model_config": True, **ends}, indent=2)
    if bpe is not None:
        _write_tokenizer(folder, bpe, cfg)
    write_safetensors(folder / "model.safetensors", to_hugging_face(tensors, cfg), {})
    return folder


def to_hugging_face(tensors: dict[str, Tensor], cfg: GPTConfig) -> dict[str, Tensor]:
    """The tensors of a GPT by Hugging Face's names, matrices as (in, out)."""
    found = {
        theirs if theirs == "lm_head.weight" else f"transformer.{theirs}": tensors[ours]
        for theirs, ours in TOP.items()
        if ours in tensors
    }
    for block in range(cfg.n_layers):
        prefix = f"trf_blocks.{block}."
        no_bias = tensors[f"{prefix}att.W_query.weight"].new_zeros(cfg.emb_dim)
        for theirs, ours in BLOCK.items():
            parts = [tensors.get(f"{prefix}{name}", no_bias) for name in ours]
            whole = torch.cat(parts) if len(parts) > 1 else parts[0]  # three of (C, C) -> (3C, C)
            found[f"transformer.h.{block}.{theirs}"] = whole.t() if theirs in TRANSPOSED else whole
    return found


def as_byte_pair(tokenizer: Any) -> BytePairTokenizer:
    """The tokenizer as a `BytePairTokenizer`, which is what `tokenizer.json` can hold.

    Raises:
        TypeError: if it is neither one nor GPT-2's.
    """
    if isinstance(tokenizer, BytePairTokenizer):
        return tokenizer
    gpt2 = BytePairTokenizer.gpt2()
    if isinstance(tokenizer, GPT2Tokenizer) or fingerprint(tokenizer) == fingerprint(gpt2):
        return gpt2
    raise TypeError(
        f"a {type(tokenizer).__name__} has no form that transformers reads; train a "
        "BytePairTokenizer, or use GPT2Tokenizer"
    )


def _config(cfg: GPTConfig, tied: bool, dtype: torch.dtype, end: int | None) -> dict[str, Any]:
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
        # Always written: what its absence means has changed between versions of transformers.
        "tie_word_embeddings": tied,
        "bos_token_id": end,
        "eos_token_id": end,
        "torch_dtype": str(dtype).removeprefix("torch."),
        # For this library: without it, biases of zero would come back as biases.
        "qkv_bias": cfg.qkv_bias,
    }


def _write_tokenizer(folder: Path, bpe: BytePairTokenizer, cfg: GPTConfig) -> None:
    bpe.to_tokenizer_json(folder / "tokenizer.json")
    if not bpe.rules_beyond_tokens:
        bpe.to_files(folder / "merges.txt", folder / "vocab.json")
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": cfg.context_length,
        "clean_up_tokenization_spaces": False,
    }
    if END_OF_TEXT in bpe.special_tokens:
        config |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    write_json(folder / "tokenizer_config.json", config, indent=2)
