"""Export of a model to a folder that transformers opens."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from llm_scratch.conversations.encoding import Format
from llm_scratch.files import write_json, write_text
from llm_scratch.model.families import family_name, language_model
from llm_scratch.model.heads import head_of
from llm_scratch.tensor_files.safetensors import write_safetensors
from llm_scratch.tokenizers.any_tokenizer import end_of_text_id, fingerprint
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer
from llm_scratch.tokenizers.simple import END_OF_TEXT
from llm_scratch.tokenizers.wrapped import WrappedTokenizer
from llm_scratch.weights import gpt2_names, llama_names
from llm_scratch.weights.config_json import WRITERS
from llm_scratch.weights.folder import check_vocabulary, tensors_of
from llm_scratch.weights.parts import GPT2, LLAMA


def export_huggingface(
    model: nn.Module,
    folder: str | os.PathLike[str],
    tokenizer: Any | None = None,
    *,
    chat_template: str | None = None,
    chat_format: Format | None = None,
    max_shard_size: int | None = None,
) -> Path:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` opens, with equal logits.

    It holds `config.json`, `generation_config.json`, the weights and a model card (`README.md`,
    unless there is one). With a tokenizer, it also holds `tokenizer.json`, `tokenizer_config.json`,
    `vocab.json` and `merges.txt`, for `AutoTokenizer`, and the end-of-text id. `open_model` reads
    it back bit for bit.

    Args:
        model: a model of any family, tied or not; biases that its family has but the model lacks
            are written as zeros.
        folder: the folder to write; it is created if missing.
        tokenizer: a `BytePairTokenizer`, or GPT-2's in any form.
        chat_template: Jinja text that makes a prompt from a conversation, for `AutoTokenizer`.
        chat_format: the chat format, in place of a template; the ids that end an answer are then
            also written to `generation_config.json`.
        max_shard_size: maximum number of bytes per file of weights; None writes one file.

    Raises:
        ValueError: if the model has a head for classes or LoRA matrices, fewer ids than the
            tokenizer, or a set of options that no family of transformers has; or if `chat_format`
            is given without a tokenizer, or together with `chat_template`.
        TypeError: if it is not a model of this library, or the tokenizer is of another kind.
    """
    inner, tensors = exportable(model)
    cfg: Any = inner.cfg
    if (family := family_name(cfg)) not in RENAMED:
        raise ValueError(
            f"no names of transformers are known for the family {family}; use save_model "
            "(llm-scratch weights convert)"
        )
    bpe = None if tokenizer is None else as_exportable(tokenizer)
    if bpe is not None:
        check_vocabulary(inner, bpe)
    stops: tuple[int, ...] = ()
    if chat_format is not None:
        if bpe is None or chat_template is not None:
            raise ValueError("chat_format= needs the tokenizer, and replaces chat_template")
        chat_template, stops = chat_format.jinja(bpe), chat_format.end_ids(bpe)
    folder = Path(folder)
    tied = "out_head.weight" not in tensors
    end = None if bpe is None else end_of_text_id(bpe)  # the vocabulary size does not reveal it
    dtype = str(tensors["tok_emb.weight"].dtype).removeprefix("torch.")
    config = WRITERS[family](cfg, tied, dtype, end)
    write_json(folder / "config.json", config, indent=2)
    ends = {"bos_token_id": end, "eos_token_id": list(stops) if len(stops) > 1 else end}
    write_json(folder / "generation_config.json", {"_from_model_config": True, **ends}, indent=2)
    if bpe is not None:
        _write_tokenizer(folder, bpe, cfg, chat_template)
    if not (folder / "README.md").exists():
        write_text(folder / "README.md", _card(inner, config))
    _write_weights(folder, RENAMED[family](tensors, cfg), max_shard_size)
    return folder


def upload_command(written: str | os.PathLike[str]) -> str:
    """Return the command that would publish a folder or a file, with Hugging Face's own program.

    Args:
        written: the folder or file that an export wrote.
    """
    written = Path(written)
    there = "." if written.is_dir() else shlex.quote(written.name)
    return f"hf upload ORG/NAME {shlex.quote(str(written))} {there}"


def exportable(model: nn.Module) -> tuple[Any, dict[str, Tensor]]:
    """Return the language model itself and its tensors, for export to other programs.

    Raises:
        ValueError: if it has a head for classes or LoRA matrices.
        TypeError: if it is not a model of this library.
    """
    inner = language_model(model)
    tensors, head = tensors_of(inner), head_of(inner)
    if head.kind == "classes":
        raise ValueError(
            f"a head with {head.size} classes is not a language model's; use save_model"
        )
    return inner, tensors


RENAMED: dict[str, Callable[..., dict[str, Tensor]]] = {
    GPT2: gpt2_names.to_hugging_face,
    LLAMA: llama_names.to_hugging_face,
}
"""The function that returns a model's tensors by Hugging Face's names, by family."""


def _write_weights(folder: Path, tensors: dict[str, Tensor], most: int | None) -> None:
    """Write one file of weights, or several with an index; delete those of an older export."""
    shards: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        held = sum(other.nbytes for other in shards[-1].values())
        if most is not None and shards[-1] and held + tensor.nbytes > most:
            shards.append({})
        shards[-1][name] = tensor
    files = [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
    if len(shards) == 1:
        files = ["model.safetensors"]
    for file, shard in zip(files, shards, strict=True):
        write_safetensors(folder / file, shard, {})
    index = folder / "model.safetensors.index.json"
    if len(shards) > 1:
        weight_map = {n: file for file, shard in zip(files, shards, strict=True) for n in shard}
        size = sum(tensor.nbytes for tensor in tensors.values())
        write_json(index, {"metadata": {"total_size": size}, "weight_map": weight_map})
    else:
        index.unlink(missing_ok=True)
    for old in folder.glob("model*.safetensors"):
        own = re.fullmatch(r"model(-\d{5}-of-\d{5})?\.safetensors", old.name)
        if own and old.name not in files:
            old.unlink()


def _card(model: Any, config: dict[str, Any]) -> str:
    """Return a model card to be completed, with the model's description and how to open it."""
    cfg = model.cfg
    return f"""---
library_name: transformers
pipeline_tag: text-generation
---

# A language model ({config["model_type"]})

{model.num_parameters():,} parameters in {cfg.n_layers} blocks of {cfg.n_heads} heads, width \
{cfg.emb_dim}, a vocabulary of {cfg.vocab_size:,} tokens, a context of {cfg.context_length:,}, \
numbers in {config["torch_dtype"]}.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")
```

Written by llm_scratch. Data, training, licence and limits are for its author to add.
"""


def as_exportable(tokenizer: Any) -> BytePairTokenizer | WrappedTokenizer:
    """Return the tokenizer in a form that a `tokenizer.json` can hold.

    Raises:
        TypeError: if there is no such form.
    """
    if isinstance(tokenizer, BytePairTokenizer | WrappedTokenizer):
        return tokenizer
    gpt2 = BytePairTokenizer.gpt2()
    if isinstance(tokenizer, GPT2Tokenizer) or fingerprint(tokenizer) == fingerprint(gpt2):
        return gpt2
    raise TypeError(
        f"a {type(tokenizer).__name__} has no form that transformers reads; train a "
        "BytePairTokenizer, or use GPT2Tokenizer"
    )


def _write_tokenizer(
    folder: Path, bpe: BytePairTokenizer | WrappedTokenizer, cfg: Any, template: str | None
) -> None:
    """Write the tokenizer's files, and the chat template if there is one."""
    if isinstance(bpe, WrappedTokenizer):
        bpe.save(folder / "tokenizer.json")
    else:
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
    for name, number in bpe.ends.items():
        config[name.removesuffix("_id")] = bpe.decode([number])
    if template is not None:
        config["chat_template"] = template
    write_json(folder / "tokenizer_config.json", config, indent=2)
