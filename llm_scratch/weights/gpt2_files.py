"""The files of the released GPT-2 models: their places on this machine, and their sources."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from llm_scratch.download import DownloadError, cache_folder, download_file
from llm_scratch.model.config import GPT2_CONFIGS, gpt2_size
from llm_scratch.tensor_files.errors import WeightsError
from llm_scratch.tensor_files.reading import read_tensors
from llm_scratch.tensor_files.tensor_bundle import TensorBundle
from llm_scratch.text.corpora import data_folders
from llm_scratch.weights.huggingface_files import find_weights

HUB_NAMES = {"124M": "gpt2", "355M": "gpt2-medium", "774M": "gpt2-large", "1558M": "gpt2-xl"}
HUB_URL = "https://huggingface.co/openai-community/{name}/resolve/main/model.safetensors"
HUB_SHA256 = {"124M": "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"}

OPENAI_URLS = (
    "https://openaipublic.blob.core.windows.net/gpt-2/models/{size}/{file}",
    "https://f001.backblazeb2.com/file/LLMs-from-scratch/gpt2/{size}/{file}",
)
# The number of bytes of each file, if known; the vocabulary is the same for all sizes.
OPENAI_FILES: dict[str, dict[str, int]] = {
    "checkpoint": dict.fromkeys(GPT2_CONFIGS, 77),
    "encoder.json": {},
    "hparams.json": {"124M": 90, "355M": 91},
    "model.ckpt.data-00000-of-00001": {
        "124M": 497_759_232,
        "355M": 1_419_292_672,
        "774M": 3_096_120_320,
        "1558M": 6_230_444_800,
    },
    "model.ckpt.index": {"124M": 5_215, "355M": 10_399},
    "model.ckpt.meta": {"124M": 471_155, "355M": 926_519},
    "vocab.bpe": {},
}
OPENAI_SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


def gpt2_folder(size: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder for a downloaded GPT-2: `gpt2/SIZE` in the cache, or in `data_dir`."""
    return Path(data_dir or cache_folder()) / "gpt2" / size


def find_gpt2(name: str) -> Path:
    """Find the folder that holds a released GPT-2, `gpt2/SIZE` in one of the data folders.

    Truncated files do not count.

    Raises:
        ValueError: if there is no such GPT-2.
        FileNotFoundError: if it is not on this machine; the message names the command that fetches
            it.
    """
    size = gpt2_size(name)
    for folder in data_folders():
        if _is_whole(folder / "gpt2" / size):
            return folder / "gpt2" / size
    raise FileNotFoundError(
        f"GPT-2 {size} is missing; llm-scratch weights fetch {HUB_NAMES[size]} gets it"
    )


def fetch_gpt2(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of a released GPT-2, after downloading it unless it is on this machine.

    The Hugging Face hub comes first, OpenAI's original files second.

    Args:
        name: any name of a GPT-2 ("124M", "gpt2-medium").
        data_dir: the folder to search and to write to, instead of the data folders and the cache.

    Raises:
        ValueError: if there is no such GPT-2.
        DownloadError: if no address provides it; the message names each, and where to put copies.
    """
    size = gpt2_size(name)
    folder = gpt2_folder(size, data_dir)
    if _is_whole(folder):
        return folder
    if data_dir is None:
        with suppress(FileNotFoundError):
            return find_gpt2(size)
    target = folder / "model.safetensors"
    target.unlink(missing_ok=True)  # it is truncated, or it would have been found
    try:
        url = HUB_URL.format(name=HUB_NAMES[size])
        download_file(url, target, sha256=HUB_SHA256.get(size))
    except DownloadError as first:
        try:
            return fetch_openai(size, folder)
        except DownloadError as second:
            raise DownloadError(f"{first}; and OpenAI's own files: {second}") from first
    return folder


def _is_whole(folder: Path) -> bool:
    """Return whether the folder holds weights, with as many bytes as their headers state."""
    weights = find_weights(folder)
    try:
        if weights is None:
            return len(TensorBundle(folder)) > 0
        if weights.suffix == ".safetensors":
            read_tensors(weights)
    except (FileNotFoundError, WeightsError):
        return False
    return True


def fetch_openai(size: str, folder: Path) -> Path:
    """Download those of OpenAI's seven files of one size that are missing; return the folder.

    Raises:
        ValueError: if there is no such size.
        DownloadError: if no address provides one of them.
    """
    if size not in GPT2_CONFIGS:
        raise ValueError(
            f"{size!r} is not a size of GPT-2; it must be one of {', '.join(GPT2_CONFIGS)}"
        )
    for file, n_bytes in OPENAI_FILES.items():
        urls = [url.format(size=size, file=file) for url in OPENAI_URLS]
        sha256 = OPENAI_SHA256.get(file)
        download_file(urls, folder / file, sha256=sha256, size=n_bytes.get(size))
    return folder
