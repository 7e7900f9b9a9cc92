"""`llm-scratch prepare`: texts into a token file, the form that training reads."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from llm_scratch.cli.options import add_command, add_option, add_tokenizer, data_paths

if TYPE_CHECKING:
    from llm_scratch.text.token_file import TokenFile

EXAMPLE = "prepare the-tide-clock --out tide.bin"


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    about = "encode texts into a token file, the form that training reads"
    parser = add_command(subparsers, "prepare", about, EXAMPLE, run_prepare)
    parser.add_argument(
        "texts",
        nargs="*",
        metavar="TEXT",
        help="files (UTF-8; of .json, .jsonl, .csv and .tsv the text of each row), folders of .txt "
        "files, or names of texts",
    )
    add_option(parser, "--out FILE", "the token file", "tokens.bin")
    add_tokenizer(parser)
    parser.add_argument(
        "--empty",
        choices=("drop", "raise"),
        default="drop",
        help="leave empty texts out and say which, or stop at the first; default: drop",
    )
    parser.add_argument(
        "--bare-ids",
        action="store_true",
        help="TEXT holds no text but ids that the tokenizer made: train.bin of nanoGPT, or .npy",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read FILE through and compare it with its checksum; without TEXT, do only this",
    )


def run_prepare(args: argparse.Namespace) -> int:
    """Write a token file, or verify one, and say what is in it."""
    from llm_scratch.text.token_file import TokenFile

    if args.texts:
        file = write(args)
        print(describe(file))
        if args.bare_ids:
            print(f"it begins with {file.tokenizer.decode(file.tokens[:20])!r}")
    elif not args.verify:
        raise ValueError(f"no text to prepare: give files, folders or names: llm-scratch {EXAMPLE}")
    if args.verify:
        TokenFile(args.out).verify(progress=True)
        print(f"{args.out}: whole, as it was written")
    return 0


def write(args: argparse.Namespace) -> TokenFile:
    """Write the token file, of texts or of bare ids."""
    from llm_scratch.text.bare_ids import refuse_bare_ids, write_bare_ids
    from llm_scratch.text.token_file import write_tokens
    from llm_scratch.tokenizers.bpe_open import open_tokenizer

    paths = data_paths(args.texts)
    if args.bare_ids:
        return write_bare_ids(args.out, paths, open_tokenizer(args.tokenizer))
    refuse_bare_ids(paths)
    return write_tokens(args.out, paths, open_tokenizer(args.tokenizer), empty=args.empty)


def describe(file: TokenFile) -> str:
    """Return in one line what a token file holds."""
    tokens, documents = len(file.tokens), len(file.documents)
    return (
        f"{file.path}: {tokens:,} tokens in {documents:,} document{'s' * (documents != 1)}, "
        f"{file.num_bytes / tokens:.2f} bytes a token, vocabulary of {file.vocab_size:,}"
    )
