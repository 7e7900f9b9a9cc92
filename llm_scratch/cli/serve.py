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
        "serve models over OpenAI's API, with a page to talk with them",
        "serve RUN smollm2 --port 8000",
        run_serve,
        usage="MODEL [MODEL ...] [options]",
    )
    add_model(parser, several=True)
    add_option(parser, "--format NAME", "conversation format, such as chatml", "auto",
               "auto, which is the model's own")  # fmt: skip
    add_option(
        parser, "--chat-template FILE", "a Jinja template instead of a format", usual="no file"
    )
    add_access(parser)
    add_limits(parser)
    add_device(parser)
    add_precision(parser, "int8")


def add_access(parser: argparse.ArgumentParser) -> None:
    """Add the server's address, and the clients that it answers."""
    group = parser.add_argument_group("access")
    add_option(group, "--host HOST", "the address to listen on; 0.0.0.0 is all of them",
               "127.0.0.1")  # fmt: skip
    add_option(group, "--port N", "the port; 0 takes any free one", 8000)
    add_option(group, "--api-key KEY", "the bearer key that requests must send",
               usual=f"the variable {KEY_VARIABLE}, else no key is required")  # fmt: skip
    group.add_argument("--allow-host", action="append", default=[], metavar="HOST",
                       help="another host name of the server, such as a proxy's; * is any; may be "
                            "repeated; default: only its own")  # fmt: skip
    group.add_argument("--allow-origin", action="append", default=[], metavar="ORIGIN",
                       help="another server whose pages may send requests, such as "
                            "https://HOST; * is any; may be repeated; default: none")  # fmt: skip


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add the limits on simultaneous answers and on each request."""
    group = parser.add_argument_group("limits")
    add_option(group, "--rows N", "answers written together, per model", 8)
    add_option(group, "--queue N", "further requests that may wait", 64)
    add_option(group, "--max-tokens N", "at most this many tokens per answer, and the default "
               "of a chat", 4096)  # fmt: skip
    add_option(group, "--max-choices N", "at most this many answers to one prompt (n)", 16)
    add_option(group, "--max-body N", "at most this many bytes per request", 4 << 20)
    add_option(group, "--time-limit X", "seconds after which an answer is cut off", 600.0)


def run_serve(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    settings = settings_of(args)
    names = names_of(args.models)
    asked_format(args)  # refuses a mistake before a model is opened
    try:
        from llm_scratch.chat.server import Application
        from llm_scratch.chat.serving import bind, run_server, url_of
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise ValueError("the server needs pip install 'llm-scratch[serve]'") from err
    if args.host not in LOOPBACK and settings.api_key is None:
        warnings.warn(
            f"anyone who can reach {args.host} can use the models; --api-key KEY requires a key",
            stacklevel=2,
        )
    bound = bind(args.host, args.port)
    with bound:
        models = [
            open_served(args, name, source) for name, source in zip(names, args.models, strict=True)
        ]
        application = Application(models, settings, args.host)
        listed = ", ".join(names)
        line = (
            f"{url_of(bound)} serves {listed}: OpenAI's API under /v1, a page at /; Ctrl-C stops it"
        )
        run_server(application, bound, lambda: print(line, flush=True))
    return 0


def settings_of(args: argparse.Namespace) -> ServerSettings:
    """Return the settings of the server: its key, clients and limits.

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
        raise ValueError(
            f"the key is empty; without --api-key and {KEY_VARIABLE} no key is required"
        )
    limits = ServerLimits(
        body_bytes=args.max_body,
        choices=args.max_choices,
        together=args.rows,
        answer_tokens=args.max_tokens,
        seconds=args.time_limit,
    )
    return ServerSettings(key, tuple(args.allow_host), tuple(args.allow_origin), limits)


def names_of(sources: Sequence[str]) -> list[str]:
    """Return the name of each model in requests: its file's or folder's name, or its own.

    Raises:
        ValueError: if two would have the same name.
    """
    names: list[str] = []
    for source in sources:
        path = Path(source)
        found = path.resolve().name if path.is_dir() else path.stem if path.is_file() else source
        name = found.removeprefix("hub:")
        if name in names:
            raise ValueError(f"two models are called {name!r}; rename the file or folder of "
                             "one")  # fmt: skip
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
