"""Ways to run a reader's code, and to say what went wrong in it."""

from __future__ import annotations

import contextlib
import io
import random
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

PACKAGE = Path(__file__).resolve().parents[1]


def attempt(work: Callable[[], object]) -> BaseException | None:
    """Run a reader's code and return the exception that ended it, if one did.

    The reader must hear of everything that their code raises, so everything is caught here, and
    only here. Ctrl-C alone goes through.
    """
    try:
        work()
    except (Exception, SystemExit) as error:
        return error
    return None


@contextlib.contextmanager
def quiet_and_restored() -> Iterator[None]:
    """Hide what the reader's code prints, and leave the random state and the modes as found."""
    states = random.getstate(), np.random.get_state()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the sizes are so small that threads only wait for each other
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.device("cpu"))
        stack.enter_context(offline_gpt2())
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextlib.contextmanager
def offline_gpt2() -> Iterator[None]:
    """Let `tiktoken.get_encoding("gpt2")` use this package's table, without a network."""
    from llm_scratch.tokenizers.gpt2 import _gpt2_encoding

    encoding = _gpt2_encoding()
    import tiktoken.registry

    known = tiktoken.registry.ENCODINGS
    found = known.get("gpt2")
    known["gpt2"] = encoding
    try:
        yield
    finally:
        if found is None:
            known.pop("gpt2", None)
        else:
            known["gpt2"] = found


def describe(error: BaseException) -> str:
    """Return an error in one line: its type, its message, and the reader's line that raised it."""
    message = " ".join(str(error).split())
    if len(message) > 200:
        message = message[:197] + "..."
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    place = place_of(error)
    return f"{text} ({place})" if place else text


def place_of(error: BaseException) -> str:
    """Return the last line of the reader's own code in a traceback, or ""."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not is_library(frame.filename):
            name = Path(frame.filename).name
            file = (
                f" of {name}"
                if not frame.filename.startswith("<") and "ipykernel" not in (frame.filename)
                else ""
            )
            where = "" if frame.name == "<module>" else f", in {frame.name}"
            return f"line {frame.lineno}{file}{where}"
    return ""


def is_library(filename: str) -> bool:
    """Return whether code belongs to this package, to Python or to an installed library."""
    if filename.startswith("<frozen") or filename == "<string>":
        return True
    path = Path(filename)
    if "site-packages" in path.parts or "dist-packages" in path.parts:
        return True
    folders = [PACKAGE, *(Path(sysconfig.get_path(key)) for key in ("stdlib", "purelib"))]
    return any(path.is_relative_to(folder) for folder in folders)


def home_of(thing: object) -> str:
    """Return the library that a class or function comes from, "" for the reader's own."""
    if not isinstance(thing, type) and not callable(thing):
        return ""
    module = getattr(thing, "__module__", None)
    if not isinstance(thing, type) and not hasattr(thing, "__qualname__"):
        return ""  # an instance, such as a functools.partial: the reader made it
    if not isinstance(module, str) or module == "__main__":
        return ""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return "Python"
    loaded = sys.modules.get(module, sys.modules.get(top))
    file = getattr(loaded, "__file__", None)
    return top if file is not None and is_library(file) else ""
