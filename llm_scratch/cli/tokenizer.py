"""`llm-scratch tokenizer`: train a vocabulary, and see what it makes of a text."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from llm_scratch.files import read_text
from llm_scratch.text.corpora import CORPORA, find_data
from llm_scratch.tokenizers.any_tokenizer import encode
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.bpe_display import token_text
from llm_scratch.tokenizers.bpe_open import open_tokenizer
from llm_scratch.tokenizers.simple import END_OF_TEXT

MISUSED = 2


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    parser = subparsers.add_parser("tokenizer", help="train and try byte-pair tokenizers")
    parser.set_defaults(run=partial(run_help, parser))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    add_train(commands)
    add_encode(commands)
    add_decode(commands)
    add_show(commands)


def add_train(commands: Any) -> None:
    """Add `tokenizer train`."""
    parser = _command(
        commands,
        "train",
        "learn a vocabulary from texts",
        "llm-scratch tokenizer train the-tide-clock --vocab-size 1000 --out tide.json",
    )
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="files, or names of texts")
    parser.add_argument(
        "--vocab-size", type=int, default=1000, metavar="N", help="256 bytes + merges + specials"
    )
    parser.add_argument(
        "--special",
        action="append",
        metavar="TOKEN",
        help=f"a special token; may be given several times; default: {END_OF_TEXT}",
    )
    parser.add_argument("--out", default="tokenizer.json", metavar="FILE", help="where to save it")
    parser.set_defaults(run=run_train)


def add_encode(commands: Any) -> None:
    """Add `tokenizer encode`."""
    parser = _command(
        commands,
        "encode",
        "print the ids of a text",
        'llm-scratch tokenizer encode "Hello, world"',
    )
    _add_text(parser)
    parser.set_defaults(run=run_encode)


def add_decode(commands: Any) -> None:
    """Add `tokenizer decode`."""
    parser = _command(
        commands, "decode", "print the text of ids", "llm-scratch tokenizer decode 15496 11 995"
    )
    parser.add_argument("ids", nargs="*", type=int, metavar="ID", help="without one: from stdin")
    _add_tokenizer(parser)
    parser.set_defaults(run=run_decode)


def add_show(commands: Any) -> None:
    """Add `tokenizer show`."""
    parser = _command(
        commands,
        "show",
        "print a text in its tokens, in colours",
        'llm-scratch tokenizer show "lower and lowest" --merges',
    )
    _add_text(parser)
    parser.add_argument("--merges", action="store_true", help="show every merge, step by step")
    parser.set_defaults(run=run_show)


def run_help(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Show which commands there are."""
    parser.print_help(sys.stderr)
    return MISUSED


def run_train(args: argparse.Namespace) -> int:
    """Train a vocabulary and save it."""
    paths = [find_data(name) if name in CORPORA else Path(name) for name in args.texts]
    specials = tuple(args.special or (END_OF_TEXT,))
    tokenizer = BytePairTokenizer.train(paths, args.vocab_size, specials, name=Path(args.out).stem)
    tokenizer.save(args.out)
    first = (f"{token_text(a)!r}+{token_text(b)!r}" for a, b in tokenizer.merges[:8])
    print(f"{args.out}: {tokenizer.n_vocab} tokens, first merges: {' '.join(first)}")
    return 0


def run_encode(args: argparse.Namespace) -> int:
    """Print the ids of a text on one line."""
    print(*encode(open_tokenizer(args.tokenizer), _text_of(args), args.special))
    return 0


def run_decode(args: argparse.Namespace) -> int:
    """Print the text of ids."""
    ids = args.ids or [int(word) for word in sys.stdin.read().split()]
    print(open_tokenizer(args.tokenizer).decode(ids))
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Print a text in its tokens, or how its words are merged."""
    tokenizer, text = open_tokenizer(args.tokenizer), _text_of(args)
    print(tokenizer.show(text, args.special))
    if args.merges:
        print(*tokenizer.explain(text), sep="\n")
    return 0


def _command(commands: Any, name: str, what: str, example: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name, help=what, description=f"{what}.", epilog=f"example: {example}"
    )


def _add_text(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("text", nargs="?", metavar="TEXT", help="the text, or - for stdin")
    source.add_argument("--file", metavar="FILE", help="a text file")
    parser.add_argument(
        "--special",
        choices=("allow", "text", "raise"),
        default="allow",
        help="what a special token in the text becomes: one id, ordinary text, or an error",
    )
    _add_tokenizer(parser)


def _add_tokenizer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tokenizer",
        default="gpt2",
        metavar="NAME",
        help="gpt2 (the default) or a file: saved here, .tiktoken, or a tokenizer.json",
    )


def _text_of(args: argparse.Namespace) -> str:
    if args.file:
        return read_text(args.file)
    return sys.stdin.read() if args.text == "-" else args.text
