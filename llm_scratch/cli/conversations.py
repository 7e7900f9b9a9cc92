"""`llm-scratch conversations`: show, check and convert files of conversations."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_scratch.cli.options import (
    add_command,
    add_group,
    add_option,
    data_path,
    save_picture,
)
from llm_scratch.conversations.kinds import KINDS
from llm_scratch.conversations.repairs import REPAIRS

if TYPE_CHECKING:
    from llm_scratch.conversations.encoding import Format
    from llm_scratch.conversations.measuring import ConversationLengths
    from llm_scratch.conversations.readers import ReadConversations, ReadSummary

TEXT = "text"
TOKENIZER_FILES = (".json", ".tiktoken")


def add_commands(subparsers: Any) -> None:
    """Add this group's commands."""
    about = "show, check and convert files of conversations"
    example = "conversations show chats.jsonl smollm2 --format chatml"
    commands = add_group(subparsers, "conversations", about, example)
    about = "print conversations as a model reads them, with the learned parts marked"
    parser = _add(commands, "show", about, example + " --ids", run_show)
    _add_source(parser)
    add_option(parser, "--rows N", "number of conversations", 3)
    parser.add_argument("--ids", action="store_true", help="show the id of each token after it")
    about = "read a whole file, and report its size and what is wrong with it"
    example = "conversations check chats.jsonl gpt2 --format guanaco --context 512"
    parser = _add(commands, "check", about, example, run_check)
    _add_source(parser)
    add_option(
        parser, "--context N", "also report what a limit of N tokens would cut", usual="no report"
    )
    add_option(parser, "--plot FILE", "draw the lengths as a picture", usual="no picture")
    about = "convert a file of conversations to another kind"
    example = "conversations convert chats.jsonl out.jsonl --to guanaco --skip-bad"
    parser = _add(commands, "convert", about, example, run_convert)
    parser.add_argument("out", metavar="OUT", help="where to write it: .jsonl, or .json for a list")
    parser.add_argument("--to", required=True, choices=(*KINDS, TEXT), metavar="KIND",
                        help=f"{', '.join(KINDS)}, or {TEXT}: as --format writes each; "
                             "required")  # fmt: skip
    add_option(parser, "--format NAME", f"for --to {TEXT}: the conversation format", usual="none")
    add_option(
        parser,
        "--tokenizer NAME",
        f"for --to {TEXT}: tokenizer whose end of text is written, by name or file",
        usual="gpt2",
    )


def _add(commands: Any, name: str, about: str, example: str, run: Any) -> argparse.ArgumentParser:
    """Add a command that reads a file of conversations."""
    parser = add_command(commands, name, about, example, run)
    parser.add_argument("file", metavar="FILE", help="JSON or JSON Lines")
    add_reading(parser, skip_bad=run is not run_check)
    return parser


def add_reading(parser: argparse.ArgumentParser, *, skip_bad: bool = True) -> None:
    """Add how a file of conversations is read."""
    parser.add_argument("--kind", choices=KINDS, metavar="KIND", default=None,
                        help=f"{', '.join(KINDS)}; default: the kind of the "
                             "first row")  # fmt: skip
    names = " or ".join(REPAIRS)
    what = "; ".join(f"{repair}: {about}" for repair, about in REPAIRS.items())
    parser.add_argument("--repair", choices=tuple(REPAIRS), action="append", metavar="NAME",
                        help=f"{names}; may be repeated ({what}); default: none")  # fmt: skip
    if skip_bad:
        parser.add_argument("--skip-bad", action="store_true",
                            help="leave out invalid rows and count them by reason; otherwise "
                                 "the first ends the command")  # fmt: skip


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="MODEL_OR_TOKENIZER",
                        help="a model as in other commands, or gpt2 or a tokenizer's "
                             "file")  # fmt: skip
    add_option(parser, "--format NAME", "conversation format", usual="the model's own")


def run_show(args: argparse.Namespace) -> int:
    """Print some conversations, with the learned parts marked."""
    from llm_scratch.checks import check_count
    from llm_scratch.conversations.display import show_conversation
    from llm_scratch.conversations.encoding import encode_conversation
    from llm_scratch.tokenizers.bpe_display import terminal_has_colours

    check_count("--rows", args.rows)
    conversations, summary = read_asked(args, args.file, args.skip_bad)
    tokenizer, format = _tokenizer_and_format(args)
    print(summary)
    for number, messages in enumerate(conversations[: args.rows], 1):
        encoded = encode_conversation(messages, format, tokenizer)
        print(
            f"\n{number} of {len(conversations):,}: {len(messages)} messages, "
            f"{len(encoded.ids):,} tokens, {sum(encoded.learned):,} of them learned"
        )
        print(show_conversation(encoded, tokenizer, color=terminal_has_colours(), ids=args.ids))
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Print statistics of a file of conversations, and draw their lengths."""
    from llm_scratch.checks import check_count
    from llm_scratch.conversations.measuring import measure_conversations
    from llm_scratch.plotting.lengths import plot_lengths

    if args.context is not None:
        check_count("--context", args.context)
    conversations, summary = read_asked(args, args.file, skip_bad=True)
    tokenizer, format = _tokenizer_and_format(args)
    lengths = measure_conversations(conversations, format, tokenizer)
    for name, value in _table(summary, lengths, args.context):
        print(f"{name:<15} {value}")
    for reason, text in summary.first_dropped.items():
        print(f"first of {reason!r}: {text}")
    if args.plot is not None:
        save_picture(args.plot, lambda: plot_lengths(lengths.tokens, lengths.learned, args.context))
    return 0


def _table(
    summary: ReadSummary, lengths: ConversationLengths, context: int | None
) -> list[tuple[str, str]]:
    """Return the rows of `check`'s table."""
    from llm_scratch.conversations.readers import counted_rows

    kept, tokens = len(lengths.tokens), sum(lengths.tokens)
    longest = max(range(kept), key=lengths.tokens.__getitem__)
    rows = [
        ("kind", summary.kind),
        ("rows", f"{summary.rows:,}"),
        ("kept", f"{kept:,}"),
        *(
            ("repaired", f"{counted_rows(count)}: {name}")
            for name, count in summary.repaired.items()
        ),
        *(
            ("dropped", f"{counted_rows(count)}: {reason}")
            for reason, count in summary.dropped.items()
        ),
        ("turns", f"{sum(lengths.turns):,}, {min(lengths.turns)} to {max(lengths.turns)} per row"),
        ("tokens", f"{tokens:,}, {tokens / kept:,.0f} per row on average"),
        ("longest", f"{lengths.tokens[longest]:,} tokens (kept row {longest + 1:,})"),
        ("learned", f"{lengths.learned_share:.1%} of the tokens"),
    ]
    if context is not None:
        cut = lengths.cut(context)
        rows.append((
            f"cut at {context:,}",
            f"{cut.shortened:,} of the rows lose their last turns, {cut.dropped:,} are left out; "
            f"{cut.tokens:,} tokens, {cut.tokens / tokens:.1%}",
        ))  # fmt: skip
    return rows


def run_convert(args: argparse.Namespace) -> int:
    """Convert a file of conversations to another kind, or to texts."""
    from llm_scratch.conversations.formats import find_format
    from llm_scratch.conversations.readers import counted_rows
    from llm_scratch.conversations.writers import text_row, write_conversations, write_rows
    from llm_scratch.tokenizers.bpe_open import open_tokenizer

    if args.to == TEXT and args.format is None:
        raise ValueError(f"--to {TEXT} needs --format NAME, which says how the texts are made")
    if args.to != TEXT and (args.format or args.tokenizer):
        raise ValueError(f"--format and --tokenizer belong to --to {TEXT}; leave them out")
    if Path(args.out).is_dir():
        raise ValueError(f"{args.out} is a folder; give the name of a file")
    conversations, summary = read_asked(args, args.file, args.skip_bad)
    if args.to == TEXT:
        format, tokenizer = find_format(args.format), open_tokenizer(args.tokenizer or "gpt2")
        dropped = write_rows(
            conversations, args.out, lambda m: text_row(m, format, tokenizer), args.skip_bad
        )
    else:
        dropped = write_conversations(conversations, args.out, args.to, skip_bad=args.skip_bad)
    print(summary)
    for reason, count in dropped.items():
        print(f"dropped: {count:,} for {reason}")
    print(f"{args.out}: {counted_rows(summary.kept - sum(dropped.values()))} ({args.to})")
    return 0


def read_asked(args: argparse.Namespace, file: str, skip_bad: bool) -> ReadConversations:
    """Read a file of conversations with the options of the command line."""
    from llm_scratch.conversations.readers import read_conversations

    return read_conversations(
        data_path(file), kind=args.kind, skip_bad=skip_bad, repair=args.repair or ()
    )


def _tokenizer_and_format(args: argparse.Namespace) -> tuple[Any, Format]:
    """Open the tokenizer, and the format that turns a conversation into text."""
    from llm_scratch.conversations.formats import FORMATS, find_format
    from llm_scratch.opening import open_model
    from llm_scratch.tokenizers.bpe_open import open_tokenizer

    own = None
    if args.source == "gpt2" or Path(args.source).suffix.lower() in TOKENIZER_FILES:
        tokenizer = open_tokenizer(args.source)
    else:
        opened = open_model(args.source)
        tokenizer, own = opened.tokenizer, opened.format
    format = own if args.format is None else find_format(args.format)
    if format is None:
        raise ValueError(
            f"{args.source} does not name a conversation format; give --format, one "
            f"of {', '.join(FORMATS)}"
        )
    return tokenizer, format
