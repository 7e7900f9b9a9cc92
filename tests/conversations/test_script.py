"""`chapters/post10_chat.py`, as somebody runs it who has just cloned the project."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from llm_scratch.conversations.readers import read_conversations
from llm_scratch.opening import open_model
from llm_scratch.text.corpora import find_data

SCRIPT = Path(__file__).parents[2] / "chapters" / "post10_chat.py"
pytestmark = pytest.mark.script(SCRIPT, "--quick")


def share_of(output: str, what: str) -> int:
    """The percentage of answers that end by themselves, of the line that begins with this."""
    return int(re.search(rf"^{re.escape(what)}: (\d+)% of", output, re.MULTILINE)[1])


def numbers_of(output: str, pattern: str) -> list[int]:
    """The numbers that a pattern finds, one each line."""
    return [int(found.replace(",", "")) for found in re.findall(pattern, output, re.MULTILINE)]


def test_script_reads_splits_and_refuses(run):
    output = run.output
    assert "\n220 rows (guanaco), 220 kept\n" in f"\n{output}"
    assert "\n64 for training, 12 for validation, 12 held out\n" in output
    assert "\nRefused: no marks: 'Hello? Is anybody there?' has no '### Human:'" in output


def test_script_converts_all_rows(run):
    path = run.folder / "chapter-output" / "post10-guanaco-llama2.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    conversations, _ = read_conversations(find_data("conversations-guanaco.jsonl"))
    assert len(rows) == len(conversations)
    for row, messages in zip(rows, conversations, strict=True):
        assert row["text"].startswith(f"[INST] {messages[0].content.strip()} [/INST]\n")
        assert row["text"].count("<|endoftext|>") == len(messages) // 2


def test_script_shows_where_the_series_texts_part(run):
    first, later = re.findall(r"^(\w+ turn, after .*: taught .*)$", run.output, re.MULTILINE)
    assert re.fullmatch(r"first turn, after '.*\[/INST\]\\n': taught '[^\\].*', asked '\\n'", first)
    assert re.fullmatch(r"later turn, after '\[INST\]': taught '[^\\].*', asked '\\n.*'", later)
    assert "\n<s> is 3 tokens of GPT-2's: " in run.output
    assert "\n<|endoftext|> is 1 token of GPT-2's: [50256]\n" in run.output


@pytest.mark.parametrize("name", ["guanaco-llama2", "mine"])
def test_script_finds_every_prompt_at_the_beginning_of_what_is_taught(name, run):
    found, all_of_them = re.search(rf"^{name}: (\d+) of (\d+) prompts", run.output, re.M).groups()
    assert found == all_of_them
    assert int(found) > 400


def test_script_shows_the_mask(run):
    assert len(re.findall(r" \[/INST\]\n\[\[[^\[\]]+<\|endoftext\|>\]\]", run.output)) == 2
    assert "\n<|endoftext|> in a question is text; ids of the end: 1\n" in run.output


def test_script_counts_what_a_context_cuts_and_what_padding_costs(run):
    lost = numbers_of(run.output, r"^A context of .* (\d+)% of the tokens$")
    assert lost == sorted(lost, reverse=True)
    assert lost[0] > 50
    assert lost[-1] == 0
    padding = numbers_of(run.output, r" tokens, +(\d+)% of them padding$")
    assert padding == sorted(padding, reverse=True)
    assert len(padding) == 4
    assert padding[0] > 80
    assert padding[-1] < 5


def test_script_learns_and_gives_the_best_model_back(run):
    losses = [float(loss) for loss in re.findall(r"^Epoch \d+: .* loss (\S+)", run.output, re.M)]
    assert min(losses) < losses[0]
    best, again = re.search(r"^Best (\S+), .* measured again (\S+)$", run.output, re.M).groups()
    assert float(best) == pytest.approx(min(losses), abs=0.01)
    assert float(again) == pytest.approx(float(best), abs=0.05)


def test_script_exports_a_model_that_says_the_same(run):
    assert "\nTo publish it: hf upload ORG/NAME chapter-output/post10-model .\n" in run.output
    assert "\nIts format: guanaco-llama2\nThe same answers: True\n" in run.output
    opened = open_model(run.folder / "chapter-output" / "post10-model")
    assert opened.format.name == "guanaco-llama2"


def test_script_talks_for_two_turns(run):
    talk = run.output.split("\nYou: ")[1:]
    assert len(talk) == 2
    reused = []
    for turn in talk:
        found = re.search(
            r"^Bot:  .*\n(.*\n)*?\d+ tokens in .*tokens/s, prompt \d+ tokens \((\d+) reused\)",
            turn,
            re.MULTILINE,
        )
        reused.append(int(found[2]))
    assert reused[0] == 0 < reused[1]
    assert run.output.rstrip().splitlines()[-1].startswith("llm-scratch chat ")


def test_script_asks_its_server(run):
    if not all(importlib.util.find_spec(name) for name in ("openai", "uvicorn")):
        assert "OpenAI's client is missing; pip install openai uvicorn starlette" in run.output
        return
    said = re.search(r"^Bot:  (.*)$", run.output, re.MULTILINE)[1]
    assert f"\nOver the API: {said[:20]}" in run.output
    assert re.search(r"^\d+ tokens read, \d+ written$", run.output, re.MULTILINE)


def test_script_solves_the_exercises(run):
    share, loss, reported = re.search(
        r"Answers are (\S+)% of .* a loss of (\S+) would be reported as (\S+)", run.output
    ).groups()
    assert float(reported) == pytest.approx(float(share) / 100 * float(loss), abs=0.01)
    assert "\nQ: " in run.output
    (saved,) = numbers_of(run.output, r"^([\d,]+) tokens less than guanaco-llama2")
    assert saved > 0
    answers, followed, last = map(int, re.search(
        r"Of (\d+) answers, (\d+) are followed by \[INST\], and (\d+) by nothing", run.output
    ).groups())  # fmt: skip
    assert answers == followed + last > followed > 0
    (ends,) = numbers_of(run.output, r"^An end of text after each costs ([\d,]+) of")
    assert ends == answers


def test_script_writes_only_under_its_output_folder(run):
    pictures = {"post10-lengths.png", "post10-losses.png"}
    if importlib.util.find_spec("matplotlib") is None:
        pictures = set()
    assert [path.name for path in run.folder.iterdir()] == ["chapter-output"]
    written = {path.name for path in (run.folder / "chapter-output").iterdir()}
    assert written == {"post10-guanaco-llama2.jsonl", "post10-model", *pictures}


@pytest.mark.slow
@pytest.mark.script(SCRIPT, "--small")
def test_script_with_a_small_model_makes_one_that_stops(run):
    assert re.search(r"epochs of at most 9; stopped early: True$", run.output, re.MULTILINE)
    assert share_of(run.output, "After") >= 80
    assert share_of(run.output, "After") > share_of(run.output, "Before")
