"""The front door: one call that opens any model, with the tokenizer that belongs to it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llm_scratch.conversations.saved_formats import KEY as FORMAT_KEY
from llm_scratch.conversations.saved_formats import described_format, format_of_template
from llm_scratch.lora.loading import adapter_base, base_path, load_adapter
from llm_scratch.lora.saving import CONFIG_FILE, WEIGHTS_FILE
from llm_scratch.model.device import pick_device
from llm_scratch.model.families import any_config
from llm_scratch.tokenizers.any_tokenizer import fingerprint
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.bpe_files import TokenizerFileError
from llm_scratch.tokenizers.bpe_open import open_tokenizer
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer
from llm_scratch.weights.building import build_model
from llm_scratch.weights.folder import check_vocabulary, is_saved_model, load_model, saved_format
from llm_scratch.weights.named import find_source
from llm_scratch.weights.parts import GGUF, Source
from llm_scratch.weights.source import open_source
from llm_scratch.weights.tokenizer_files import find_template, find_tokenizer, load_tokenizer


@dataclass(frozen=True)
class OpenModel:
    """An opened model, which unpacks: `model, tokenizer = open_model(...)`.

    Args:
        model: in evaluation mode.
        tokenizer: the one that it was trained with; None only with `need_tokenizer=False`.
        format: how a conversation becomes text for it: a built-in `ConversationFormat`, or a
            `TemplateFormat` of the Jinja text that came with it; None where nothing says so.
        chat_template: the same as Jinja text; None without one.
    """

    model: Any
    tokenizer: Any
    format: Any = None
    chat_template: str | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.tokenizer))


def open_model(
    source: str | os.PathLike[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    tokenizer: Any = None,
    need_tokenizer: bool = True,
    config: Any = None,
    n_heads: int | None = None,
    lora_alpha: float | None = None,
    ignore_keys: Collection[str] = (),
) -> OpenModel:
    """Open a model and its tokenizer, whatever holds them.

    The tokenizer is the one beside the weights, never one guessed from the size of a vocabulary.

    Args:
        source: a run's folder, one of `save_model`, of Hugging Face's or OpenAI's files, or of an
            adapter (its base is opened too); a file (safetensors, `.pth`); or a name, as "gpt2". A
            folder that is called like a model is given as a `Path` or as "./gpt2".
        device: where the model goes, also "auto"; None means the CPU.
        dtype: None keeps the file's.
        tokenizer: for a source without one: a tokenizer, "gpt2", or the path of a tokenizer's file.
        need_tokenizer: False opens a source without a tokenizer too.
        config: a configuration, or a dict of its options, for weights beside which there is none.
        n_heads: attention heads, for weights of an unknown width that no file tells it of.
        lora_alpha: for a state dict with LoRA matrices, which are added to the weights.
        ignore_keys: settings in files of other programs that are passed over although this library
            does not compute what they say: results differ then.

    Raises:
        FileNotFoundError: if there is nothing of this name.
        ValueError: if there is no tokenizer, the one given is not the source's own, or has more ids
            than the model; or if an adapter does not say which model it belongs to.
        WeightsError: if a file is damaged, holds code, or does not fit.
    """
    given = open_tokenizer(tokenizer) if isinstance(tokenizer, str | os.PathLike) else tokenizer
    place = pick_device(device) if isinstance(device, str) else device
    saved = template = None
    if (Path(source) / CONFIG_FILE).is_file() and config is not None:
        raise ValueError(f"{source} is an adapter, whose base states the configuration")
    if (Path(source) / CONFIG_FILE).is_file():
        model, own, saved, template = _open_adapter(Path(source), ignore_keys)
        model.to(device=place, dtype=dtype)
    else:
        optional = given is not None or not need_tokenizer
        wanted = None if config is None else any_config(config)
        model, own, saved, template = _open_whole(
            source, place, dtype, n_heads, lora_alpha, ignore_keys, optional, wanted
        )
    if own is not None and given is not None and fingerprint(own) != fingerprint(given):
        raise ValueError(
            f"{source} has a tokenizer of its own, and tokenizer= (--tokenizer) is another one; "
            "leave it out"
        )
    found = given if own is None else own
    if found is None and need_tokenizer:
        raise ValueError(
            f"{source} has no tokenizer beside its weights; say which one it was trained with: "
            'tokenizer="gpt2" (--tokenizer gpt2), or the path of a tokenizer\'s file'
        )
    if found is not None:
        check_vocabulary(model, found)
    if saved is None and template is not None and found is not None:
        saved = format_of_template(template, found)
    if saved is not None and template is None:
        template = saved.jinja(found)
    return OpenModel(model, found, saved, template)


def _open_adapter(folder: Path, ignore_keys: Collection[str]) -> tuple[Any, Any, Any, str | None]:
    """Open an adapter's base, in the type it was trained on, and put the adapter onto it."""
    base = adapter_base(folder, ignore_keys=ignore_keys)
    if base is None:
        raise ValueError(
            f"{folder} does not say which model it belongs to; open that one, and "
            "load_adapter(model, folder) puts the adapter onto it"
        )
    found = base_path(folder, base)
    if found.exists() and found.resolve() == folder.resolve():
        raise ValueError(f"{folder} names itself as the model that it belongs to, in {CONFIG_FILE}")
    if (found / CONFIG_FILE).is_file():
        raise ValueError(
            f"{folder} belongs to {base}, which is an adapter itself; open that one, make a whole "
            "model of it (merge_lora(model, unwrap=True), save_model), and name that as the base"
        )
    try:
        opened = open_model(
            found if found.exists() else base, need_tokenizer=False, ignore_keys=ignore_keys
        )
    except FileNotFoundError as err:
        raise FileNotFoundError(
            f"the model that the adapter in {folder} belongs to is not at {base}: {err}"
        ) from err
    own = load_adapter(opened.model, folder, ignore_keys=ignore_keys)
    tokenizer = own or find_tokenizer(folder, ignore_keys) or opened.tokenizer
    saved, template = _adapter_format(folder), find_template(folder)
    if saved is None and template is None:
        saved, template = opened.format, opened.chat_template
    return opened.model, tokenizer, saved, template


def _adapter_format(folder: Path) -> Any:
    """Return the format that was saved with an adapter; PEFT's own files say nothing of it."""
    return saved_format(folder, WEIGHTS_FILE) if (folder / WEIGHTS_FILE).is_file() else None


def _open_whole(
    source: str | os.PathLike[str],
    device: torch.device | None,
    dtype: torch.dtype | None,
    n_heads: int | None,
    lora_alpha: float | None,
    ignore_keys: Collection[str],
    optional: bool,
    config: Any,
) -> tuple[Any, Any, Any, str | None]:
    """Open a whole model, and the tokenizer and the format that lie beside it or are in it.

    A format is one that was saved with it, or the Jinja text of a template.
    """
    path = find_source(source)
    if is_saved_model(path) and config is not None:
        raise ValueError(f"{source} states its own configuration; leave config= out")
    if is_saved_model(path):
        return *load_model(path, device=device, dtype=dtype), saved_format(path), None
    opened = open_source(path, lora_alpha, ignore_keys=ignore_keys)
    if n_heads is not None:
        opened.known.setdefault("n_heads", n_heads)
    folder = path if path.is_dir() else path.parent
    own: Any = None
    template = find_template(folder) if path.is_dir() else None
    if opened.layout == GGUF:
        own = _tokenizer_in(opened, optional)
        template = opened.gguf_keys.get("tokenizer.chat_template")
    elif isinstance(source, str) and path != Path(source):  # a name, which says the tokenizer too
        own = GPT2Tokenizer()
    elif opened.metadata:
        description = opened.metadata.get("tokenizer")
        own = load_tokenizer(description, folder) if isinstance(description, dict) else None
    elif path.is_dir() or (folder / "config.json").is_file():
        own = find_tokenizer(folder, ignore_keys)
    saved = described_format(opened.metadata.get(FORMAT_KEY))  # of a file without its folder
    return build_model(opened, config, device=device, dtype=dtype), own, saved, template


def _tokenizer_in(opened: Source, optional: bool) -> BytePairTokenizer | None:
    """Return the tokenizer inside of a GGUF file, None without one.

    Raises:
        TokenizerFileError: if it is of a kind that is not read, and nobody gave another one.
    """
    if "tokenizer.ggml.model" not in opened.gguf_keys:
        return None
    try:
        return BytePairTokenizer.from_gguf(opened.gguf_keys, opened.path)
    except TokenizerFileError:
        if optional:
            return None
        raise
