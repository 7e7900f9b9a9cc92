"""One call that opens any model, together with its tokenizer."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llm_scratch.conversations.saved_formats import KEY as FORMAT_KEY
from llm_scratch.conversations.saved_formats import described_format, format_of_template
from llm_scratch.lora.loading import adapter_base, base_source, load_adapter
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
from llm_scratch.weights.hub_names import is_hub_name
from llm_scratch.weights.named import find_source
from llm_scratch.weights.parts import GGUF, Source
from llm_scratch.weights.source import open_source
from llm_scratch.weights.tokenizer_files import find_template, find_tokenizer, load_tokenizer


@dataclass(frozen=True)
class OpenModel:
    """An opened model, which unpacks: `model, tokenizer = open_model(...)`.

    Args:
        model: the model, in evaluation mode.
        tokenizer: the tokenizer it was trained with; None only with `need_tokenizer=False`.
        format: how a conversation becomes text for it: a built-in `ConversationFormat`, or a
            `TemplateFormat` of the Jinja text that came with it; None if it is unknown.
        chat_template: the format as Jinja text; None without one.
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
    """Open a model and its tokenizer from any source.

    The tokenizer is the one stored with the weights, never a guess from the size of a vocabulary.

    Args:
        source: the folder of a run, of `save_model`, of Hugging Face's or OpenAI's files, or of an
            adapter (whose base is opened too); a file (safetensors, `.pth`, GGUF); a name such as
            "gpt2"; or "hub:ORG/NAME", a model on the Hugging Face hub, with "@REVISION" for a
            branch, tag or commit, and with "/FILE.gguf" for one of several files. Parts missing
            from huggingface_hub's cache are fetched, and none of the model's code is run. To open a
            folder with the name of a model, pass a `Path` or "./gpt2".
        device: the model's device, or "auto"; None means the CPU.
        dtype: the type of the weights; None keeps the file's.
        tokenizer: for a source without one: a tokenizer, "gpt2", or the path of a tokenizer file.
        need_tokenizer: False also opens a source without a tokenizer.
        config: a configuration, or a dict of its options, for weights stored without one.
        n_heads: the number of attention heads, for weights of unknown width stored without it.
        lora_alpha: the alpha for a state dict with LoRA matrices, which are merged into the
            weights.
        ignore_keys: settings in files of other programs to ignore although this library does not
            implement them; results then differ.

    Raises:
        FileNotFoundError: if nothing has this name.
        ValueError: if there is no tokenizer, if the given one is not the source's own or has more
            ids than the model, or if an adapter does not name its base model.
        WeightsError: if a file is damaged, holds code, or does not fit.
        PermissionError: if a model on the hub needs a login, or acceptance of its licence.
        DownloadError: if a model cannot be fetched.
    """
    given = open_tokenizer(tokenizer) if isinstance(tokenizer, str | os.PathLike) else tokenizer
    place = pick_device(device) if isinstance(device, str) else device
    path = find_source(source, ignore_keys)
    saved = template = None
    if (path / CONFIG_FILE).is_file() and config is not None:
        raise ValueError(f"{source} is an adapter; its base states the configuration")
    if (path / CONFIG_FILE).is_file():
        model, own, saved, template = _open_adapter(path, ignore_keys)
        model.to(device=place, dtype=dtype)
    else:
        optional = given is not None or not need_tokenizer
        wanted = None if config is None else any_config(config)
        model, own, saved, template = _open_whole(
            source, path, place, dtype, n_heads, lora_alpha, ignore_keys, optional, wanted
        )
    if own is not None and given is not None and fingerprint(own) != fingerprint(given):
        raise ValueError(
            f"{source} has a tokenizer of its own, and tokenizer= (--tokenizer) is another one; "
            "leave it out"
        )
    found = given if own is None else own
    if found is None and need_tokenizer:
        raise ValueError(
            f"{source} has no tokenizer with its weights; name the one it was trained with: "
            'tokenizer="gpt2" (--tokenizer gpt2), or the path of a tokenizer file'
        )
    if found is not None:
        check_vocabulary(model, found)
    if saved is None and template is not None and found is not None:
        saved = format_of_template(template, found)
    if saved is not None and template is None:
        template = saved.jinja(found)
    return OpenModel(model, found, saved, template)


def bring_model(source: str | os.PathLike[str]) -> Path:
    """Return a model's path, after fetching what is missing of it and of an adapter's base.

    Raises:
        FileNotFoundError: if nothing has this name; see `open_model` for the others.
    """
    path = find_source(source)
    base = base_source(path) if (path / CONFIG_FILE).is_file() else None
    if base is not None and not isinstance(base, Path):
        find_source(base)
    return path


def _open_adapter(folder: Path, ignore_keys: Collection[str]) -> tuple[Any, Any, Any, str | None]:
    """Open an adapter's base, in the type it was trained on, and apply the adapter to it."""
    base = base_source(folder, ignore_keys=ignore_keys)
    if base is None:
        raise ValueError(
            f"{folder} does not name its base model; open the base, and apply the adapter with "
            "load_adapter(model, folder)"
        )
    named = adapter_base(folder, ignore_keys=ignore_keys) if isinstance(base, Path) else base
    if isinstance(base, Path) and base.resolve() == folder.resolve():
        raise ValueError(f"{folder} names itself as its base model in {CONFIG_FILE}")
    try:
        found = find_source(base, ignore_keys)
        if (found / CONFIG_FILE).is_file():
            raise ValueError(
                f"the base of {folder} is {named}, which is itself an adapter; open and merge that "
                "one (merge_lora(model, unwrap=True), save_model), and name the result as the base"
            )
        source = found if is_hub_name(base) else base  # the hub is asked only once
        opened = open_model(source, need_tokenizer=False, ignore_keys=ignore_keys)
    except FileNotFoundError as err:
        raise FileNotFoundError(
            f"the base model of the adapter in {folder} is not at {named}: {err}"
        ) from err
    own = load_adapter(opened.model, folder, ignore_keys=ignore_keys)
    tokenizer = own or find_tokenizer(folder, ignore_keys) or opened.tokenizer
    saved, template = _adapter_format(folder), find_template(folder)
    if saved is None and template is None:
        saved, template = opened.format, opened.chat_template
    return opened.model, tokenizer, saved, template


def _adapter_format(folder: Path) -> Any:
    """Return the format that was saved with an adapter; PEFT's own files have none."""
    return saved_format(folder, WEIGHTS_FILE) if (folder / WEIGHTS_FILE).is_file() else None


def _open_whole(
    source: str | os.PathLike[str],
    path: Path,
    device: torch.device | None,
    dtype: torch.dtype | None,
    n_heads: int | None,
    lora_alpha: float | None,
    ignore_keys: Collection[str],
    optional: bool,
    config: Any,
) -> tuple[Any, Any, Any, str | None]:
    """Open a whole model, with the tokenizer and the format stored in it or next to it.

    The format is one that was saved with it, or the Jinja text of a template.
    """
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
    elif isinstance(source, str) and not is_hub_name(source) and path != Path(source):  # a GPT-2
        own = GPT2Tokenizer()
    elif opened.metadata:
        description = opened.metadata.get("tokenizer")
        own = load_tokenizer(description, folder) if isinstance(description, dict) else None
    elif path.is_dir() or (folder / "config.json").is_file():
        own = find_tokenizer(folder, ignore_keys)
    saved = described_format(opened.metadata.get(FORMAT_KEY))  # for a file without its folder
    return build_model(opened, config, device=device, dtype=dtype), own, saved, template


def _tokenizer_in(opened: Source, optional: bool) -> BytePairTokenizer | None:
    """Return the tokenizer in a GGUF file, None without one.

    Raises:
        TokenizerFileError: if its kind is not supported, and no other one was given.
    """
    if "tokenizer.ggml.model" not in opened.gguf_keys:
        return None
    try:
        return BytePairTokenizer.from_gguf(opened.gguf_keys, opened.path)
    except TokenizerFileError:
        if optional:
            return None
        raise
