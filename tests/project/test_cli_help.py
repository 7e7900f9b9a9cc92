"""The help of every command: complete, in words that a user knows, with examples that work."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields

import pytest

from llm_scratch.cli import build_parser
from llm_scratch.cli.settings import SETTINGS, SIZES, shown_defaults
from llm_scratch.model.config import GPTConfig
from llm_scratch.tokenizers.simple import END_OF_TEXT
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.presets import PRESETS
from llm_scratch.weights.gpt2_files import HUB_NAMES

PYTHON = re.compile(r"\bNone\b|`|\bTrue\b|\bFalse\b|\bTrainConfig\b|\b[a-z_]{2,}\.[a-z_]+\b|\w=")
FILES = re.compile(r"\b[\w-]+\.(bin|jsonl?|tsv|pth|py|png|txt|gguf|cpp)\b")
RUN_A_MODEL = ("pretrain", "eval", "generate", "classify", "chat", "serve", "finetune classify",
               "finetune instruct", "finetune prefer", "finetune chat")  # fmt: skip


def walk(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from walk(command)


@pytest.fixture(scope="module")
def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by its words."""
    return {p.prog.removeprefix("llm-scratch").strip(): p for p in walk(build_parser())}


def options_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {max(a.option_strings, key=len): a for a in parser._actions if a.option_strings}


def test_every_help_ends_with_examples_that_can_be_parsed(parsers) -> None:
    for words, parser in parsers.items():
        examples = re.findall(r"^  llm-scratch (.+)$", parser.epilog or "", re.MULTILINE)
        assert examples, words
        for example in examples:
            assert example.startswith(words)
            assert build_parser().parse_args(shlex.split(example)).run is not None


def test_every_option_is_explained_with_its_default(parsers) -> None:
    for words, parser in parsers.items():
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                continue
            assert action.help, (words, action)
            takes_value = action.option_strings and action.nargs != 0
            if isinstance(action, argparse.BooleanOptionalAction) or (
                takes_value and not action.required
            ):
                assert re.search("default: |; required", action.help), (
                    words,
                    action.option_strings,
                )
            if isinstance(action.default, str | int | float) and not isinstance(
                action.default, bool
            ):
                if action.default != argparse.SUPPRESS:
                    shown = (
                        f"{action.default:g}" if type(action.default) is float else action.default
                    )
                    assert f"default: {shown}" in action.help, (words, action.option_strings)


def test_help_reads_well_without_python(parsers, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for words, parser in parsers.items():
        shown = parser.format_help()
        assert max(map(len, shown.splitlines())) <= 82, words
        shown = re.sub(r"NAME=LIST|checkpoint-blocks=", "", shown)  # what a user writes
        found = PYTHON.search(FILES.sub("", shown))
        assert found is None, (words, found)


def test_options_that_many_commands_have_are_the_same(parsers) -> None:
    for option in ("--device", "--precision"):
        having = {words for words, parser in parsers.items() if option in options_of(parser)}
        having -= {words for words in having if words.startswith("memory ")}  # no model is run
        assert having == set(RUN_A_MODEL), option
        assert len({options_of(parsers[words])[option].help for words in having}) == 1
    opened = [parser for words, parser in parsers.items() if not words.startswith("memory ")]
    models = [a for parser in opened for a in parser._actions if a.metavar == "MODEL"]
    assert len({action.help for action in models if not action.option_strings}) == 1


def test_every_setting_has_a_help_text() -> None:
    assert {*SETTINGS, "precision"} == {field.name for field in fields(TrainConfig)}
    assert set(SIZES) < {field.name for field in fields(GPTConfig)}


def test_defaults_name_the_presets_that_differ(parsers) -> None:
    shown = shown_defaults({name: preset.train for name, preset in PRESETS.items()}, SETTINGS)
    assert shown["steps"] == "tiny 300, small 3000, 124M 20000, 163M 33165"
    assert shown["micro_batch"] == "4 (small 8, 163M 6)"
    assert shown["warmup_steps"] == "a twentieth of the run (124M 700)"
    assert shown["beta2"] == "0.95 (163M 0.999)"
    assert shown["tune_allocator"] == "on"
    assert shown["sample_prompt"] == "a line break"


@pytest.mark.parametrize(
    ("task", "epochs", "rate"),
    [("classify", 5, 0.0005), ("instruct", 3, 0.0003), ("prefer", 1, 2e-5)],
)
def test_finetune_shows_the_defaults_of_the_task(parsers, task, epochs, rate) -> None:
    options = options_of(parsers[f"finetune {task}"])
    assert options["--epochs"].help.endswith(f"default: {epochs}")
    assert options["--learning-rate"].help.endswith(f"default: {rate:g}")
    assert options["--eval-every"].help.endswith("default: an epoch")


def test_help_names_what_the_library_has(parsers) -> None:
    assert END_OF_TEXT in options_of(parsers["tokenizer train"])["--special"].help
    (name,) = (a for a in parsers["weights fetch"]._actions if a.metavar == "NAME")
    assert name.help.startswith(", ".join(HUB_NAMES.values()))
