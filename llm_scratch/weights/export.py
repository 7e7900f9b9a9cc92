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
from llm_scratch.tokenizers.any_tokenizer import fingerprint
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer
from llm_scratch.tokenizers.simple import END_OF_TEXT
from llm_scratch.weights.folder import check_vocabulary, tensors_of
from llm_scratch.weights.gpt2_names import MATRICES, NORM_NAMES, NORMS, QKV

GPT2_END_OF_TEXT_ID = 50256


def export_huggingface(
    model: nn.Module, folder: str | os.PathLike[str], tokenizer: Any | None = None
) -> Path:
    """The folder that `AutoModelForCausalLM.from_pretrained` opens, with equal logits.

    Written are `config.json`, `generation_config.json` and `model.safetensors`, and with a
    tokenizer `tokenizer.json`, `tokenizer_config.json`, `vocab.json` and `merges.txt`, for
    `AutoTokenizer`. `load_gpt2` reads it back, bit by bit.

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
    if head.kind == "classes":
        raise ValueError(
            f"a head with {head.size} classes is no language model's; save_model keeps it"
        )
    bpe = None if tokenizer is None else as_byte_pair(tokenizer)
    if bpe is not None:
        check_vocabulary(inner, bpe)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tied = "out_head.weight" not in tensors
    end = _end_of_text(inner.cfg, bpe)
    config = _config(inner.cfg, tied, tensors["tok_emb.weight"].dtype, end)
    write_json(folder / "config.json", config, indent=2)
    ends = {"bos_token_id": end, "eos_token_id": end}
    write_json(folder / "generation_config.json", {"_from_model_config": True, **ends}, indent=2)
    if bpe is not None:
        _write_tokenizer(folder, bpe, inner.cfg)
    write_safetensors(folder / "model.safetensors", to_hugging_face(tensors, inner.cfg), {})
    return folder


def to_hugging_face(tensors: dict[str, Tensor], cfg: GPTConfig) -> dict[str, Tensor]:
    """The tensors of a GPT by Hugging Face's names, matrices as (in, out)."""
    top = {"tok_emb.weight": "wte.weight", "pos_emb.weight": "wpe.weight"}
    top |= {f"final_norm.{ours}": f"ln_f.{theirs}" for theirs, ours in NORM_NAMES.items()}
    found = {f"transformer.{theirs}": tensors[ours] for ours, theirs in top.items()}
    if "out_head.weight" in tensors:
        found["lm_head.weight"] = tensors["out_head.weight"]
    for block in range(cfg.n_layers):
        ours, theirs = f"trf_blocks.{block}.", f"transformer.h.{block}."
        for norm, our_norm in NORMS.items():
            for kind, our_kind in NORM_NAMES.items():
                found[f"{theirs}{norm}.{kind}"] = tensors[f"{ours}{our_norm}.{our_kind}"]
        for matrix, our_matrix in MATRICES.items():
            found[f"{theirs}{matrix}.weight"] = tensors[f"{ours}{our_matrix}.weight"].t()
            found[f"{theirs}{matrix}.bias"] = tensors[f"{ours}{our_matrix}.bias"]
        weights = [tensors[f"{ours}att.{name}.weight"] for name in QKV]
        found[f"{theirs}attn.c_attn.weight"] = torch.cat(weights).t()  # (3C, C) -> (C, 3C)
        found[f"{theirs}attn.c_attn.bias"] = (
            torch.cat([tensors[f"{ours}att.{name}.bias"] for name in QKV])
            if cfg.qkv_bias
            else weights[0].new_zeros(3 * cfg.emb_dim)
        )
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
        "vocab_size": cfg.vocab_size,
        "n_positions": cfg.context_length,
        "n_ctx": cfg.context_length,
        "n_embd": cfg.emb_dim,
        "n_layer": cfg.n_layers,
        "n_head": cfg.n_heads,
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


def _end_of_text(cfg: GPTConfig, bpe: BytePairTokenizer | None) -> int | None:
    """The id that ends a text, None where there is none: the default lies outside small models."""
    if bpe is not None:
        return bpe.special_tokens.get(END_OF_TEXT)
    return GPT2_END_OF_TEXT_ID if cfg.vocab_size > GPT2_END_OF_TEXT_ID else None


def _write_tokenizer(folder: Path, bpe: BytePairTokenizer, cfg: GPTConfig) -> None:
    bpe.to_tokenizer_json(folder / "tokenizer.json")
    bpe.to_files(folder / "merges.txt", folder / "vocab.json")
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": cfg.context_length,
        "clean_up_tokenization_spaces": False,
    }
    if END_OF_TEXT in bpe.special_tokens:
        config |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    write_json(folder / "tokenizer_config.json", config, indent=2)
