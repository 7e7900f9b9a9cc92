"""`llm-scratch doctor`: the versions installed here, beside those that the tests ran on."""

from __future__ import annotations

import argparse
import os
import platform
import re
from typing import TYPE_CHECKING, Any

from llm_scratch.cli.data import where_is
from llm_scratch.cli.options import DTYPES, add_command, dtype_of

if TYPE_CHECKING:
    import torch

# name -> (oldest, newest version that the tests were run on); the oldest is what is declared.
NEEDED = {
    "torch": ("2.13", "2.13"),
    "numpy": ("2.2", "2.4"),
    "tiktoken": ("0.14", "0.14"),
    "regex": ("2026.9.29", "2026.11.19"),
    "tqdm": ("4.70", "4.70"),
    "jinja2": ("3.1.6", "3.1.6"),
    "safetensors": ("0.8", "0.8"),
}
OPTIONAL = {
    "matplotlib": ("3.10", "3.11"),
    "gguf": ("0.19", "0.19"),
    "transformers": ("5.20", "5.24"),
    "huggingface_hub": ("2.4", "2.4"),
}
PYTHON = ("3.11", "3.11")


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    about = "show what is installed here and what is missing"
    add_command(subparsers, "doctor", about, "doctor", run_doctor)


def run_doctor(args: argparse.Namespace) -> int:
    """Print versions, devices and data; return 1 if something required is missing."""
    import torch

    from llm_scratch.text.corpora import CORPORA

    healthy = _print_version("python", platform.python_version(), PYTHON, needed=True)
    for name, tested in (NEEDED | OPTIONAL).items():
        healthy &= _print_version(name, _installed(name), tested, needed=name in NEEDED)
    _print_row("platform", platform.platform())
    _print_row("cpu", f"{torch.get_num_threads()} threads of {os.cpu_count()} processors")
    for device in devices():
        _print_row(_device_name(device), ", ".join(_working_dtypes(device)) or "does not compute")
    for name, corpus in CORPORA.items():
        place = where_is(name)
        _print_row(name, place)
        healthy &= bool(corpus.urls) or os.path.isfile(place)
    print("Everything required is here." if healthy else "Something required is missing.")
    return 0 if healthy else 1


def judge(found: str | None, tested: tuple[str, str]) -> str:
    """Return a remark on a version: "" inside the tested range."""
    oldest, newest = tested
    if found is None:
        return "not installed"
    if _numbers(found) < _numbers(oldest):
        return f"older than tested: {oldest} or newer is required"
    if _numbers(found)[: len(_numbers(newest))] > _numbers(newest):
        return f"newer than tested: tests ran on {oldest} to {newest}"
    return ""


def devices() -> list[torch.device]:
    """Return the devices that torch sees here."""
    import torch

    found = [torch.device("cpu")]
    if torch.cuda.is_available():
        found += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append(torch.device("mps"))
    return found


def _print_version(name: str, found: str | None, tested: tuple[str, str], needed: bool) -> bool:
    """Print a row of the report; return False if it keeps the library from working."""
    verdict = judge(found, tested)
    if found is None:
        hint = "required" if needed else "optional"
        _print_row(name, f"not installed ({hint}: pip install {name})")
    else:
        _print_row(name, f"{found:<14} {verdict}".rstrip())
    return not needed or not verdict or verdict.startswith("newer")


def _print_row(name: str, value: str) -> None:
    print(f"{name:<16} {value}")


def _installed(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: "2.13.0+cpu" -> (2, 13, 0)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def _device_name(device: torch.device) -> str:
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return f"{device} {name}".strip()


def _working_dtypes(device: torch.device) -> list[str]:
    """Return the number formats in which the device multiplies matrices."""
    import torch

    names = []
    for name in DTYPES:
        try:
            matrix = torch.ones(2, 2, dtype=dtype_of(name), device=device)
            works = (matrix @ matrix).sum().item() == 8
        except RuntimeError:
            works = False
        names += [name] if works else []
    return names
