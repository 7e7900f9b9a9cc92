"""`llm-scratch serve`: models behind OpenAI's API, and a page to talk with them."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_scratch.checks import check_count, is_number
from llm_scratch.cli.generation import asked_format, model_for_text
from llm_scratch.cli.options import (
    add_command,
    add_device,
    add_model,
    add_option,
    add_precision,
)

if TYPE_CHECKING:
    from llm_scratch.chat.served import ServedModel, ServerSettings

KEY_VARIABLE = "LLM_SCRATCH_API_KEY"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    parser = add_command(
        subparsers,
        "serve",
        "answer OpenAI's API with models, and show a page to talk with them",
        "serve RUN smollm2 --port 8000",
        run_serve,
        usage="MODEL [MODEL ...] [options]",
    )
    add_model(parser, several=True)
    add_option(parser, "--format NAME", "form of conversations, as chatml", "auto",
               "auto, which is the model's own")  # fmt: skip
    add_option(parser, "--chat-template FILE", "a Jinja text in place of a format", usual="no file")
    add_access(parser)
    add_limits(parser)
    add_device(parser)
    add_precision(parser, "int8")


def add_access(parser: argparse.ArgumentParser) -> None:
    """Add where the server listens, and whom it answers."""
    group = parser.add_argument_group("access")
    add_option(group, "--host HOST", "the address to listen at; 0.0.0.0 is all of them",
               "127.0.0.1")  # fmt: skip
    add_option(group, "--port N", "the port; 0 takes a free one", 8000)
    add_option(group, "--api-key KEY", "what requests must bring as a bearer's key",
               usual=f"the variable {KEY_VARIABLE}, else none is asked for")  # fmt: skip
    group.add_argument("--allow-host", action="append", default=[], metavar="HOST",
                       help="a further name that the server is called by, as behind a proxy; * is "
                            "any; may be repeated; default: none but its own")  # fmt: skip
    group.add_argument("--allow-origin", action="append", default=[], metavar="ORIGIN",
                       help="pages of another server that may ask, as https://HOST; * is "
                            "any; may be repeated; default: none")  # fmt: skip


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add how much is answered at a time, and how much one request may ask for."""
    group = parser.add_argument_group("limits")
    add_option(group, "--rows N", "answers written together, for each model", 8)
    add_option(group, "--queue N", "requests that may wait beside them", 64)
    add_option(group, "--max-tokens N", "tokens of an answer at most, and where a chat says "
               "nothing", 4096)  # fmt: skip
    add_option(group, "--max-choices N", "answers to one prompt at most (n)", 16)
    add_option(group, "--max-body N", "bytes of a request at most", 4 << 20)
    add_option(group, "--time-limit X", "seconds after which an answer ends as it is", 600.0)


def run_serve(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    settings = settings_of(args)
    names = names_of(args.models)
    asked_format(args)  # a mistake in it is told before a model is opened
    try:
        from llm_scratch.chat.server import Application
        from llm_scratch.chat.serving import bind, run_server, url_of
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise ValueError("the server needs pip install 'llm-scratch[serve]'") from err
    if args.host not in LOOPBACK and settings.api_key is None:
        warnings.warn(
            f"anybody who reaches {args.host} can use the models; --api-key asks for a key",
            stacklevel=2,
        )
    bound = bind(args.host, args.port)
    with bound:
        models = [
            open_served(args, name, source) for name, source in zip(names, args.models, strict=True)
        ]
        application = Application(models, settings, args.host)
        listed = ", ".join(names)
        line = f"{url_of(bound)} serves {listed}: OpenAI's API under /v1, a page at /; Ctrl-C ends"
        run_server(application, bound, lambda: print(line, flush=True))
    return 0


def settings_of(args: argparse.Namespace) -> ServerSettings:
    """Return who may ask, and how much.

    Raises:
        ValueError: if a limit is out of range, or the key is empty.
    """
    from llm_scratch.chat.served import ServerLimits, ServerSettings

    for name in ("rows", "queue", "max_tokens", "max_choices", "max_body"):
        check_count(f"--{name.replace('_', '-')}", getattr(args, name))
    if not is_number(args.time_limit, 0.001):
        raise ValueError(f"--time-limit={args.time_limit} must be above 0, in seconds")
    if not 0 <= args.port <= 65_535:
        raise ValueError(f"--port={args.port} must be from 0 (a free one) to 65535")
    key = os.environ.get(KEY_VARIABLE) if args.api_key is None else args.api_key
    if key is not None and not key.strip():
        raise ValueError(f"the key is empty; without --api-key and {KEY_VARIABLE} none is needed")
    limits = ServerLimits(
        body_bytes=args.max_body,
        choices=args.max_choices,
        together=args.rows,
        answer_tokens=args.max_tokens,
        seconds=args.time_limit,
    )
    return ServerSettings(key, tuple(args.allow_host), tuple(args.allow_origin), limits)


def names_of(sources: Sequence[str]) -> list[str]:
    """Return what requests call each model: its file's or folder's name, or its own.

    Raises:
        ValueError: if two would be called the same.
    """
    names: list[str] = []
    for source in sources:
        path = Path(source)
        found = path.resolve().name if path.is_dir() else path.stem if path.is_file() else source
        name = found.removeprefix("hub:")
        if name in names:
            raise ValueError(f"two models are called {name!r}; give the file or folder of one "
                             "another name")  # fmt: skip
        names.append(name)
    return names


def open_served(args: argparse.Namespace, name: str, source: str) -> ServedModel:
    """Open a model and start its engine."""
    from llm_scratch.chat.engine import Engine
    from llm_scratch.chat.served import ServedModel
    from llm_scratch.lora.layers import lora_layers, merge_lora

    model, tokenizer, own = model_for_text(argparse.Namespace(**{**vars(args), "model": source}))
    if args.precision != "int8" and lora_layers(model):
        merge_lora(model, unwrap=True)
    engine = Engine(model, tokenizer, rows=args.rows, waiting=args.queue)
    engine.start()
    return ServedModel(name, engine, asked_format(args) or own)
