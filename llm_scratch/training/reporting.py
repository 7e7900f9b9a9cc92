"""The display of a run's progress: a progress bar, lines, and TensorBoard files."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

import torch

from llm_scratch.training.memory_log import resident_peak
from llm_scratch.training.starting import Run


class Reporter:
    """A display of a run's steps that also records their numbers in the run's folder.

    Args:
        run: the run, in its state before the first step to show.
        progress: whether to show a progress bar, which includes the share of the machine's peak
            speed.
    """

    def __init__(self, run: Run, progress: bool) -> None:
        from tqdm import tqdm

        engine, config = run.engine, run.config
        self._run, self._device = run, engine.device
        self._step_flops = flops_per_token(engine.model, run.plan.length) * run.plan.tokens
        self._peak = matrix_peak(engine.device, engine.dtype) if progress else None
        self._bar = tqdm(
            total=config.steps, initial=run.state.step, unit="step", dynamic_ncols=True,
            disable=not progress,
        )  # fmt: skip
        self._board = None if run.folder is None else open_board(run.folder.path / "tensorboard")

    def step(self, values: dict[str, Any], tokens: int) -> None:
        """Record and show a step: the values of its log line, and its number of tokens."""
        self.record(values)
        seconds = max(values["seconds"], 1e-9)
        notes = {"loss": f"{values['loss']:.3f}", "tok/s": f"{tokens / seconds:,.0f}"}
        if self._peak:
            notes["peak"] = f"{self._step_flops / seconds / self._peak:.0%}"
        notes["MB"] = f"{memory_in_use(self._device) / 1e6:,.0f}"
        self._bar.set_postfix(notes, refresh=False)
        self._bar.update()
        step, config = values["step"], self._run.config
        if config.log_every and (step % config.log_every == 0 or step in (1, config.steps)):
            shown = ", ".join(f"{name} {value}" for name, value in notes.items())
            self.line(f"step {step}: {shown}, rate {values['lr']:.2e}")

    def record(self, values: dict[str, Any]) -> None:
        """Write numbers of a step to the run's folder, and to TensorBoard files if installed."""
        if self._run.folder is not None:
            self._run.folder.record(**values)
        if self._board is not None:
            for name, value in values.items():
                if name != "step" and isinstance(value, int | float):
                    self._board.add_scalar(name, value, values["step"])

    def line(self, text: str) -> None:
        """Print a line, above the progress bar if there is one."""
        self._bar.clear()
        self._run.log(text)

    def close(self) -> None:
        """Close the bar and the TensorBoard file."""
        self._bar.close()
        if self._board is not None:
            self._board.close()


def open_board(folder: Path) -> Any:
    """Return a writer of TensorBoard files; None if TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter  # type: ignore[attr-defined, unused-ignore]

    return SummaryWriter(str(folder))


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the measured floating-point operations per second of a large matrix product."""
    size = 1024 if device.type == "cpu" else 8192
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(size, size, generator=generator).to(device, dtype)
    best = float("inf")
    for _ in range(4):
        synchronize(device)
        start = time.perf_counter()
        a @ a
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def synchronize(device: torch.device) -> None:
    """Wait until a device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def flops_per_token(model: Any, length: int) -> float:
    """Return the floating-point operations to train on one token, forward and backward.

    These are six per number in a matrix (embeddings are looked up, not multiplied), and those of
    attention's products, of which the causal half is counted.
    """
    cfg = model.cfg
    matrices = sum(p.numel() for p in model.trf_blocks.parameters() if p.dim() == 2)
    matrices += cfg.vocab_size * cfg.emb_dim
    return 6 * matrices + 6 * cfg.n_layers * cfg.emb_dim * length


def memory_in_use(device: torch.device) -> float:
    """Return the most bytes this process has held so far, on the device or in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return resident_peak()
