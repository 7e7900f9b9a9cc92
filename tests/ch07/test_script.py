"""`chapters/ch07_instruct.py`, as somebody runs it who has just cloned the project."""

from __future__ import annotations

import importlib.util
import json
import random
import re
from pathlib import Path

import pytest

from llm_scratch.finetuning.instruction_tuning import answer, stopped_share
from llm_scratch.weights.folder import load_model

SCRIPT = Path(__file__).parents[2] / "chapters" / "ch07_instruct.py"
pytestmark = pytest.mark.script(SCRIPT, "--quick")
COLLATED = """\
tensor([[    0,     1,     2,     3,     4],
        [    5,     6, 50256, 50256, 50256],
        [    7,     8,     9, 50256, 50256]])
"""
DRAFT_2 = """\
tensor([[    1,     2,     3,     4, 50256],
        [    6, 50256, 50256, 50256, 50256],
        [    8,     9, 50256, 50256, 50256]])
"""
FINAL = """\
tensor([[    1,     2,     3,     4, 50256],
        [    6, 50256,  -100,  -100,  -100],
        [    8,     9, 50256,  -100,  -100]])
"""
LOSSES = """\
tensor(1.1269)
tensor(0.7936)
tensor(1.1269)
The same as for two examples: True
"""


def share_of(output: str, what: str) -> float:
    """The first percentage that is printed behind these words."""
    return float(re.search(rf"^{re.escape(what)}[^%\n]*?(\d+\.\d)%", output, re.MULTILINE)[1])


def test_script_goes_on_without_the_files_of_the_book(run):
    output = run.output
    assert "python chapters/ch07_instruct.py --download gets it" in output
    assert "llm-scratch weights fetch gpt2-medium gets it" in output
    assert "No judge: " in output


def test_script_splits_the_entries(run):
    output = run.output
    assert "Number of entries: 1100\n" in output
    for part, size in (("Training", 935), ("Validation", 55), ("Test", 110)):
        assert f"{part} set length: {size}\n" in output


def test_script_prints_the_toy_batch_of_each_draft(run):
    output = run.output
    assert f"\n{COLLATED}{COLLATED}{DRAFT_2}{COLLATED}{FINAL}{LOSSES}" in output


def test_script_shows_what_is_learned(run):
    output = run.output
    answer_only = re.findall(r"### Response:\n\[\[([^\n]+)<\|endoftext\|>\]\]\n", output)
    assert len(answer_only) == 1


def test_script_learns(run):
    output = run.output
    first, last = re.search(
        r"Fine-tuning: validation loss (\S+) after one epoch, (\S+) after \d", output
    ).groups()
    assert float(last) < float(first)


def test_script_saves_answers_and_model(run):
    folder, output = run.folder, run.output
    assert "The loaded model answers the same: True" in output
    path = folder / "chapter-output" / "instruction-data-with-response.json"
    answered = json.loads(path.read_text(encoding="utf-8"))
    assert len(answered) == 110
    assert all(isinstance(entry["model_response"], str) for entry in answered)


def test_script_solves_the_exercises(run):
    output = run.output
    for what in ("Phi-3's style", "Prompts learned too", "LoRA"):
        assert share_of(output, f"{what}: exact match of all") >= 0
    before, after = (
        int(re.search(rf"{what}: ([\d,]+)\n", output)[1].replace(",", ""))
        for what in ("Trainable parameters before", "Trainable parameters with LoRA")
    )
    assert 0 < after < before / 3
    assert output.rstrip().splitlines()[-1].startswith("LoRA: stopped by itself in ")


def test_script_writes_only_under_its_output_folder(run):
    folder = run.folder
    pictures = {"ch07-loss.png"} if importlib.util.find_spec("matplotlib") else set()
    assert [path.name for path in folder.iterdir()] == ["chapter-output"]
    written = {path.name for path in (folder / "chapter-output").iterdir()}
    assert written == {"instruction-data-with-response.json", "ch07-model", *pictures}


@pytest.mark.slow
@pytest.mark.script(SCRIPT)
def test_script_follows_instructions(run):
    output = run.output
    assert share_of(output, "Before: exact match by rule") == 0
    assert share_of(output, "After: exact match by rule") >= 50
    assert share_of(output, "After: stopped by itself") >= 95
    first, last = re.search(
        r"Fine-tuning: validation loss (\S+) after one epoch, (\S+) after \d", output
    ).groups()
    assert float(last) < float(first)


@pytest.mark.slow
@pytest.mark.script(SCRIPT)
@pytest.mark.parametrize("kind", ["conversion", "uppercase", "lowercase", "counting"])
def test_script_is_right_about_every_rule(run, kind):
    output = run.output
    (line,) = re.findall(r"^After: exact match by rule .*$", output, re.MULTILINE)
    assert int(re.search(rf"{kind} (\d+) of", line)[1]) > 0


def unseen_entries(kind: str) -> list[dict[str, str]]:
    """Thirty entries of the form that a kind has in the data, with texts that are not there."""
    data = json.loads(
        (SCRIPT.parents[1] / "data" / "instructions.json").read_text(encoding="utf-8")
    )
    known = [entry for entry in data if entry["kind"] == kind]
    seen, rng = {entry["input"].lower() for entry in data}, random.Random(5)
    inputs = [entry["input"].split() for entry in known]
    vocabulary = sorted({word for text in inputs for word in text})
    found: list[dict[str, str]] = []
    while len(found) < 30:
        if kind == "counting":
            words = rng.sample(vocabulary, len(found) % 5 + 2)
            right = f"The text has {len(words)} words."
        else:
            words = [rng.choice(inputs)[place] for place in (0, 1)]
            right = " ".join(words).swapcase()
        if (text := " ".join(words)).lower() not in seen:
            seen.add(text.lower())
            found.append({"instruction": known[0]["instruction"], "input": text, "output": right})
    return found


@pytest.mark.slow
@pytest.mark.script(SCRIPT)
@pytest.mark.parametrize("kind", ["uppercase", "lowercase", "counting"])
def test_model_of_the_script_is_right_about_texts_of_a_known_form(run, kind):
    """The test part has a single text to count; after a rule there are as many as one likes."""
    folder = run.folder
    model, tokenizer = load_model(folder / "chapter-output" / "ch07-model")
    entries = unseen_entries(kind)
    answers = answer(model, tokenizer, entries, max_new_tokens=40)
    right = sum(a.text == entry["output"] for a, entry in zip(answers, entries, strict=True))
    assert right >= 20
    assert stopped_share(answers) >= 0.95
