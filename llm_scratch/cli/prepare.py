"""`llm-scratch prepare`: texts into a token file, or into parts, the form that training reads."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_scratch.cli.options import add_command, add_option, add_tokenizer, data_paths
from llm_scratch.data_files import holds_rows

if TYPE_CHECKING:
    from llm_scratch.text.token_file import TokenFile

EXAMPLE = "prepare the-tide-clock --out tide.bin"
OUT, OUT_FOLDER = "tokens.bin", "tokens"


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    about = "encode texts into a token file, the form that training reads"
    parser = add_command(subparsers, "prepare", about, EXAMPLE, run_prepare)
    parser.add_argument(
        "texts",
        nargs="*",
        metavar="TEXT",
        help="files (UTF-8; in .json, .jsonl, .csv and .tsv the text of each row; also with .gz or "
        ".zst), folders of .txt files, or names of texts",
    )
    add_option(parser, "--out FILE", "the token file; for parts, the folder",
               usual=f"{OUT}; for parts, {OUT_FOLDER}")  # fmt: skip
    add_tokenizer(parser)
    parser.set_defaults(tokenizer=None)  # a file to verify may have its own
    add_option(parser, "--field NAME", "the field of a row that holds its text", usual="text")
    parser.add_argument(
        "--empty",
        choices=("drop", "raise"),
        default="drop",
        help="leave empty texts out and list them, or stop at the first; default: drop",
    )
    parser.add_argument(
        "--bare-ids",
        action="store_true",
        help="TEXT holds ids from the tokenizer, not text: nanoGPT's train.bin, or .npy",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read all of FILE and compare it with its checksum; without TEXT, do only this",
    )
    group = parser.add_argument_group("parts in a folder, which training opens as one file")
    group.add_argument("--part", metavar="I/N", type=_part_of,
                       help="make part I of N here, the others elsewhere; default: one file, "
                            "not parts")  # fmt: skip
    add_option(group, "--workers N", "number of processes that make all parts here",
               usual="1 with --parts")  # fmt: skip
    add_option(group, "--parts N", "number of parts, all made here",
               usual="as many as workers")  # fmt: skip


def _part_of(text: str) -> tuple[int, int]:
    part, _, count = text.partition("/")
    if not (part.isdecimal() and count.isdecimal() and 1 <= int(part) <= int(count)):
        raise argparse.ArgumentTypeError(
            f"{text!r} must be like 1/8: a part, from 1, and the number of parts"
        )
    return int(part), int(count)


def run_prepare(args: argparse.Namespace) -> int:
    """Write a token file or parts of one, or verify them, and print their contents."""
    from llm_scratch.text.token_file import TokenFile

    in_parts = any(given is not None for given in (args.part, args.parts, args.workers))
    args.out = args.out or (OUT_FOLDER if in_parts else OUT)
    if args.texts:
        return _write_parts(args) if in_parts else _write_file(args)
    if not args.verify:
        raise ValueError(f"no text to prepare: give files, folders or names: llm-scratch {EXAMPLE}")
    return _verified(args, TokenFile(args.out, tokenizer=args.tokenizer))


def _write_file(args: argparse.Namespace) -> int:
    """Write a token file, of texts or of bare ids."""
    file = write(args)
    print(describe(file))
    if args.bare_ids:
        print(f"it begins with {file.tokenizer.decode(file.tokens[:20])!r}")
    return _verified(args, file)


def _verified(args: argparse.Namespace, file: TokenFile) -> int:
    if args.verify:
        file.verify(progress=True)
        known = "as it was written" if file.sha256 else "every id is in the vocabulary"
        print(f"{args.out}: whole, {known}")
    return 0


def write(args: argparse.Namespace) -> TokenFile:
    """Write the token file, of texts or of bare ids."""
    from llm_scratch.text.bare_ids import write_bare_ids
    from llm_scratch.text.token_file import write_tokens
    from llm_scratch.tokenizers.bpe_open import open_tokenizer

    if args.bare_ids:
        if args.field is not None:
            raise ValueError("--field names a field of rows, and bare ids have none; leave it out")
        paths = data_paths(args.texts)
        return write_bare_ids(args.out, paths, open_tokenizer(args.tokenizer or "gpt2"))
    paths, field = _texts(args)
    tokenizer = open_tokenizer(args.tokenizer or "gpt2")
    return write_tokens(args.out, paths, tokenizer, empty=args.empty, field=field)


def _write_parts(args: argparse.Namespace) -> int:
    """Write a part or all of them."""
    from llm_scratch.text.part_writing import write_parts
    from llm_scratch.text.token_file import TokenFile
    from llm_scratch.tokenizers.bpe_open import open_tokenizer

    if args.bare_ids:
        raise ValueError("--bare-ids makes one file; leave --part, --parts and --workers out")
    if args.part and (args.parts, args.workers) != (None, None):
        raise ValueError("--part makes one part, --parts and --workers make all; leave one out")
    part, count = args.part or (None, args.workers if args.parts is None else args.parts)
    paths, field = _texts(args)
    write_parts(
        args.out,
        paths,
        open_tokenizer(args.tokenizer or "gpt2"),
        parts=count,
        part=part,
        workers=1 if args.workers is None else args.workers,
        field=field,
        empty=args.empty,
        log=partial(print, flush=True),
    )
    if part is not None:
        return 0
    file = TokenFile(args.out)
    print(describe(file))
    return _verified(args, file)


def _texts(args: argparse.Namespace) -> tuple[list[Path], str]:
    """Return the files of the texts, and the field of a row that holds its text."""
    from llm_scratch.text.bare_ids import refuse_bare_ids

    paths = data_paths(args.texts)
    refuse_bare_ids(paths)
    if args.field is not None and not any(map(holds_rows, paths)):
        raise ValueError(
            f"--field {args.field} is for files of rows, such as .jsonl; none is given"
        )
    return paths, args.field or "text"


def describe(file: TokenFile) -> str:
    """Return the contents of a token file, in one line."""
    tokens, documents = len(file.tokens), len(file.documents)
    return (
        f"{file.path}: {tokens:,} tokens in {documents:,} document{'s' * (documents != 1)}, "
        f"{file.num_bytes / tokens:.2f} bytes per token, vocabulary of {file.vocab_size:,}"
    )
