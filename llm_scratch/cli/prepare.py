"""`llm-scratch prepare`: texts into a token file, the form that training reads."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

from llm_scratch.text.corpora import CORPORA, find_data
from llm_scratch.text.token_file import TokenFile, write_tokens
from llm_scratch.tokenizers.bpe_open import open_tokenizer

EXAMPLE = "llm-scratch prepare the-tide-clock --out tide.bin"


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    parser = subparsers.add_parser(
        "prepare",
        help="encode texts into a token file",
        description="Encode texts into a token file, the form that training reads.",
        epilog=f"example: {EXAMPLE}",
    )
    parser.add_argument(
        "texts",
        nargs="*",
        metavar="TEXT",
        help="files (UTF-8), folders of .txt files, or names of texts",
    )
    parser.add_argument("--out", default="tokens.bin", metavar="FILE", help="default: tokens.bin")
    parser.add_argument(
        "--tokenizer",
        default="gpt2",
        metavar="NAME",
        help="gpt2 (the default) or a file: saved here, .tiktoken, or a tokenizer.json",
    )
    parser.add_argument(
        "--empty",
        choices=("drop", "raise"),
        default="drop",
        help="leave empty texts out and say which (the default), or stop at the first",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read FILE through and compare it with its checksum; without TEXT, do only this",
    )
    parser.set_defaults(run=run_prepare)


def run_prepare(args: argparse.Namespace) -> int:
    """Write a token file, or verify one, and say what is in it."""
    if args.texts:
        print(describe(write(args)))
    elif not args.verify:
        raise ValueError(f"no text to prepare: give files, folders or names, as in: {EXAMPLE}")
    if args.verify:
        TokenFile(args.out).verify(progress=True)
        print(f"{args.out}: whole, as it was written")
    return 0


def write(args: argparse.Namespace) -> TokenFile:
    """Write the token file; a warning takes one line."""
    paths = [find_data(name) if name in CORPORA else Path(name) for name in args.texts]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        file = write_tokens(args.out, paths, open_tokenizer(args.tokenizer), empty=args.empty)
    for warning in caught:
        print(f"llm-scratch: {warning.message}", file=sys.stderr)
    return file


def describe(file: TokenFile) -> str:
    """Return in one line what a token file holds."""
    tokens, documents = len(file.tokens), len(file.documents)
    return (
        f"{file.path}: {tokens:,} tokens in {documents:,} document{'s' * (documents != 1)}, "
        f"{file.num_bytes / tokens:.2f} bytes a token, vocabulary of {file.vocab_size:,}"
    )
