"""The page `docs/commands.md`, made from the parsers: python -m llm_scratch.cli.page > FILE."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from llm_scratch.cli import build_parser

HEAD = """# Every command

Made from the commands themselves by `python -m llm_scratch.cli.page`; `llm-scratch COMMAND --help`
shows the same. Everywhere, `--verbose` shows the traceback of an error, and the exit status is 0
when the work is done, 1 when it failed, 2 after a usage error.
"""


def commands_page() -> str:
    """Return the page, as Markdown."""
    return "\n".join([HEAD, *_sections(build_parser())]).rstrip() + "\n"


def _sections(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the section of each command below a parser, commands of commands included."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in dict.fromkeys(action.choices.values()):
                yield from _section(command)
                yield from _sections(command)


def _section(command: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the heading of a command, what it does, an example and its options as a table."""
    example = (command.epilog or "").partition("\n")[2].strip()
    yield f"## {command.prog}\n\n{command.description}\n\n```text\n{example}\n```\n"
    rows = [_row(action) for action in command._actions if _is_shown(action)]
    if rows:
        yield "\n".join(["| option | |", "|---|---|", *rows]) + "\n"


def _is_shown(action: argparse.Action) -> bool:
    kinds = (argparse._HelpAction, argparse._SubParsersAction)
    return not isinstance(action, kinds) and action.help is not argparse.SUPPRESS


def _row(action: argparse.Action) -> str:
    """Return one option's line of the table."""
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else "")
    value = " ".join(value) if isinstance(value, tuple) else str(value)
    names = [f"`{name}`" for name in action.option_strings[:-1]]
    last = [*action.option_strings[-1:]] + [value or action.dest] * (action.nargs != 0)
    about = (action.help or "").replace("%%", "%")
    cells = ", ".join([*names, f"`{' '.join(last)}`"]), about
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    print(commands_page(), end="")
