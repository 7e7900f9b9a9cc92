"""`llm-scratch chat`: talk with a model."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_scratch.cli.generation import add_sampling, asked_format, model_for_text, sampling_of
from llm_scratch.cli.options import (
    add_command,
    add_device,
    add_model,
    add_option,
    add_precision,
    standard_input,
)
from llm_scratch.files import read_text

if TYPE_CHECKING:
    from llm_scratch.chat.session import ChatSession
    from llm_scratch.chat.terminal import Screen

HISTORY = "chat-history"
USUAL = {"temperature": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
         "frequency_penalty": 0.0, "max_new_tokens": 512, "overflow": "drop"}  # fmt: skip
"""The values of options that are not given; the others are None."""


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    parser = add_command(
        subparsers,
        "chat",
        "talk with a model",
        "chat smollm2 --temperature 0.7",
        run_chat,
        usage="MODEL [options]",
    )
    add_model(parser)
    add_option(parser, "--system TEXT", "system text, or @FILE", usual="the format's own")
    add_option(parser, "--format NAME", "conversation format, such as chatml", "auto",
               "auto, which is the model's own")  # fmt: skip
    add_option(
        parser, "--chat-template FILE", "a Jinja template instead of a format", usual="no file"
    )
    add_option(parser, "--max-new-tokens N", "at most this many tokens per answer", 512)
    add_option(
        parser, "--context N", "at most this many tokens per conversation", usual="the model's"
    )
    parser.add_argument("--overflow", choices=("drop", "stop"), default="drop",
                        help="when a conversation outgrows the context: drop its oldest turns, or "
                             "stop with an error; default: drop")  # fmt: skip
    add_option(parser, "--resume FILE", "continue a saved conversation", usual="a new one")
    parser.add_argument("-p", "--prompt", metavar="TEXT",
                        help="answer this one message and exit; - is all of standard input; "
                             "default: a conversation")  # fmt: skip
    parser.add_argument("--debug", action="store_true",
                        help="show everything that the model reads and writes")  # fmt: skip
    parser.add_argument("--no-stats", action="store_true", help="do not show the speed")
    parser.add_argument("--no-history", action="store_true",
                        help="keep what you type out of the history file")  # fmt: skip
    add_sampling(parser)
    add_device(parser)
    add_precision(parser, "int8")


def run_chat(args: argparse.Namespace) -> int:
    """Talk with a model in a terminal, over a pipe, or answer one message."""
    from llm_scratch.chat.terminal import Terminal
    from llm_scratch.chat.typed import Keyboard, piped_lines

    screen = screen_of(args)
    given = standard_input() if args.prompt == "-" else args.prompt
    session = open_session(args, screen)
    options = {"debug": args.debug, "stats": not args.no_stats}
    if given is not None:
        one = Terminal(session, piped_lines(sys.stdin), screen, **options)
        one.answer(lambda: session.reply(given))
        return 0
    if not screen.prompts:
        return Terminal(session, piped_lines(sys.stdin), screen, **options).run()
    screen.note("/help lists the commands, Ctrl-D exits")
    keyboard = Keyboard(None if args.no_history else history_file())
    try:
        return Terminal(session, keyboard, screen, **options).run()
    finally:
        keyboard.keep_history()


def screen_of(args: argparse.Namespace) -> Screen:
    """Return the screen of a conversation, which names the speakers where a user types."""
    from llm_scratch.chat.terminal import Screen
    from llm_scratch.tokenizers.bpe_display import terminal_has_colours

    typed = args.prompt is None and sys.stdin.isatty()
    notes = sys.stdout if typed else sys.stderr
    return Screen(sys.stdout, notes, terminal_has_colours(), typed)


def open_session(args: argparse.Namespace, screen: Screen) -> ChatSession:
    """Open the model, and begin or continue a conversation.

    Raises:
        ValueError: if an option is out of range, or the model's format is unknown.
    """
    from llm_scratch.chat.options import ChatOptions, chosen_format
    from llm_scratch.chat.session import ChatSession

    settings = sampling_of(args)  # refuses mistakes before the model is opened
    limits = {"max_new_tokens": args.max_new_tokens, "overflow": args.overflow}
    limits |= {} if args.seed is None else {"seed": args.seed}
    ChatOptions(2 if args.context is None else args.context, settings, **limits)
    system, asked = system_of(args.system), asked_format(args)
    start = time.perf_counter()
    model, tokenizer, own = model_for_text(args)
    form = chosen_format(asked, own, args.model)
    session = ChatSession(
        model, tokenizer, form, system=system, settings=settings, context=args.context,
        name=args.model, **limits,
    )  # fmt: skip
    if screen.prompts:
        size = sum(each.numel() for each in model.parameters())
        screen.note(
            f"{args.model}: {size:,} parameters, context {session.options.context:,}, format "
            f"{form.name}, opened in {time.perf_counter() - start:.2f}s"
        )
    if args.resume is not None:
        session.load(args.resume)
        session.change(**said_options(args))
        session.system = session.system if system is None else system
    return session


def said_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings on the command line, which replace those of a saved conversation."""
    names = (*USUAL, "top_k", "top_p", "min_p", "seed", "context")
    return {name: getattr(args, name) for name in names if getattr(args, name) != USUAL.get(name)}


def system_of(text: str | None) -> str | None:
    """Return the system text: as given, or for @FILE the text of a file."""
    if text is None or not text.startswith("@"):
        return text
    return read_text(text[1:]).rstrip("\n")


def history_file() -> Path:
    """Return the file that keeps what is typed."""
    from llm_scratch.download import state_folder

    return state_folder() / HISTORY
