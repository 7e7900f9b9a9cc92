"""`llm-scratch tokenizer`: train a vocabulary, and see how it splits a text."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from llm_scratch.cli.options import (
    add_command,
    add_group,
    add_option,
    add_tokenizer,
    data_paths,
    standard_input,
)


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    about = "train and try byte-pair tokenizers"
    commands = add_group(subparsers, "tokenizer", about, 'tokenizer show "lower and lowest"')
    add_train(commands)
    about, example = "print the ids of a text", 'tokenizer encode "Hello, world"'
    _add_text(add_command(commands, "encode", about, example, run_encode))
    about, example = "print the text that ids stand for", "tokenizer decode 15496 11 995"
    parser = add_command(commands, "decode", about, example, run_decode)
    parser.add_argument("ids", nargs="*", type=int, metavar="ID",
                        help="without one, ids are read from standard input")  # fmt: skip
    add_tokenizer(parser)
    about = "print a text split into its tokens, in colours"
    example = 'tokenizer show "lower and lowest" --merges'
    parser = add_command(commands, "show", about, example, run_show)
    _add_text(parser)
    parser.add_argument("--merges", action="store_true", help="show every merge, step by step")


def add_train(commands: Any) -> None:
    """Add `tokenizer train`."""
    example = "tokenizer train the-tide-clock --vocab-size 1000 --out tide.json"
    parser = add_command(commands, "train", "learn a vocabulary from texts", example, run_train)
    parser.add_argument(
        "texts", nargs="+", metavar="TEXT", help="files, folders, or names of texts"
    )
    add_option(
        parser, "--vocab-size N", "number of tokens: 256 bytes, merges and special tokens", 1000
    )
    parser.add_argument(
        "--special",
        action="append",
        metavar="TOKEN",
        help="a special token; may be repeated; default: <|endoftext|>",
    )
    add_option(parser, "--out FILE", "where to save it", "tokenizer.json")


def run_train(args: argparse.Namespace) -> int:
    """Train a vocabulary and save it."""
    from llm_scratch.tokenizers.bpe import BytePairTokenizer
    from llm_scratch.tokenizers.bpe_display import token_text
    from llm_scratch.tokenizers.simple import END_OF_TEXT

    paths = data_paths(args.texts)
    if Path(args.out).is_dir():
        raise ValueError(f"--out {args.out} is a folder; give the name of a file")
    specials = tuple(args.special or (END_OF_TEXT,))
    tokenizer = BytePairTokenizer.train(paths, args.vocab_size, specials, name=Path(args.out).stem)
    tokenizer.save(args.out)
    first = (f"{token_text(a)!r}+{token_text(b)!r}" for a, b in tokenizer.merges[:8])
    print(f"{args.out}: {tokenizer.n_vocab} tokens, first merges: {' '.join(first)}")
    return 0


def run_encode(args: argparse.Namespace) -> int:
    """Print the ids of a text on one line."""
    from llm_scratch.tokenizers.any_tokenizer import encode
    from llm_scratch.tokenizers.bpe_open import open_tokenizer

    print(*encode(open_tokenizer(args.tokenizer), _text_of(args), args.special))
    return 0


def run_decode(args: argparse.Namespace) -> int:
    """Print the text that ids stand for."""
    from llm_scratch.tokenizers.bpe_open import open_tokenizer

    ids = args.ids or [int(word) for word in standard_input().split()]
    print(open_tokenizer(args.tokenizer).decode(ids))
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Print a text split into its tokens, and how its words are merged."""
    from llm_scratch.tokenizers.bpe import BytePairTokenizer
    from llm_scratch.tokenizers.bpe_open import open_tokenizer

    tokenizer, text = open_tokenizer(args.tokenizer), _text_of(args)
    if not isinstance(tokenizer, BytePairTokenizer):
        raise ValueError(
            f"{args.tokenizer} is not a byte-level BPE; only their tokens can be shown"
        )
    print(tokenizer.show(text, args.special))
    if args.merges:
        print(*tokenizer.explain(text), sep="\n")
    return 0


def _add_text(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("text", nargs="?", metavar="TEXT", help="the text, or - for standard input")
    source.add_argument("--file", metavar="FILE", help="read the text from a file; default: TEXT")
    parser.add_argument("--special", choices=("allow", "text", "raise"), default="allow",
                        help="what a special token in the text becomes: one id, ordinary text, or "
                             "an error; default: allow")  # fmt: skip
    add_tokenizer(parser)


def _text_of(args: argparse.Namespace) -> str:
    from llm_scratch.files import read_text

    if args.file:
        return read_text(args.file)
    return standard_input() if args.text == "-" else args.text
