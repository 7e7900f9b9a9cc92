"""The facts of the place of a measurement: versions, device, host, environment variables."""

from __future__ import annotations

import os
import platform
from typing import Any

FACTS = ("llm_scratch", "torch", "python", "cuda", "device_name", "device_memory", "system",
         "machine", "processors", "host_memory", "environment")  # fmt: skip
# Prefixes of variables that change the memory or the speed of a process.
ASKED = ("MALLOC_", "PYTORCH_", "OMP_", "MKL_", "CUDA_", "NCCL_", "GLIBC_TUNABLES", "LD_PRELOAD")


def facts_of(device: str = "auto") -> dict[str, Any]:
    """Return what measurements depend on besides the point, and the "device" that a name means.

    Raises:
        ValueError: if there is no such device here.
    """
    import torch

    from llm_scratch.model.device import pick_device
    from llm_scratch.training.distributed_check import library_version

    place = pick_device(device)
    gpu = torch.cuda.get_device_properties(place) if place.type == "cuda" else None
    return {
        "device": place.type,
        "llm_scratch": library_version(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "cuda": torch.version.cuda if gpu else None,
        "device_name": gpu.name if gpu else _processor(),
        "device_memory": gpu.total_memory if gpu else None,
        "system": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "host_memory": _host_memory(),
        "environment": asked_of(os.environ),
    }


def asked_of(environment: Any) -> str:
    """Return the variables that affect a measurement, as "NAME=value NAME=value"."""
    return " ".join(f"{name}={environment[name]}" for name in sorted(environment) if _counts(name))


def _counts(name: str) -> bool:
    return name.startswith(ASKED)


def _processor() -> str:
    """Return the name of the processor, as far as the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = (
                line.partition(":")[2].strip() for line in file if line.startswith("model name")
            )
            return next(names, platform.processor())
    except OSError:
        return platform.processor()


def _host_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
