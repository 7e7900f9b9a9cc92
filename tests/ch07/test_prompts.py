"""Prompts in both formats of the book, and the answer taken out of a decoded text."""

from __future__ import annotations

import pytest

from llm_scratch.finetuning.prompts import (
    BOOK,
    BOOK_PHI,
    extract_response,
    format_input,
    format_input_phi,
    prompt_text,
)

WITH = {"instruction": "Sort the words.", "input": "tide, bell", "output": "bell, tide"}
WITHOUT = {"instruction": "Name a bird.", "input": "", "output": "A gull."}
HEADER = "### Response:"


def test_format_input_has_a_heading_for_an_input_only_where_there_is_one():
    assert format_input(WITH).endswith(
        "completes the request.\n\n### Instruction:\nSort the words.\n\n### Input:\ntide, bell"
    )
    assert format_input(WITHOUT).endswith("request.\n\n### Instruction:\nName a bird.")


@pytest.mark.parametrize("form", [format_input, format_input_phi])
def test_format_input_takes_a_missing_input_for_none(form):
    assert form({"instruction": "Name a bird."}) == form(WITHOUT)
    assert form({"instruction": "Name a bird.", "input": None}) == form(WITHOUT)


def test_format_input_phi_is_a_mark_and_what_is_said():
    assert format_input_phi(WITH) == "<|user|>\nSort the words.\ntide, bell"
    assert format_input_phi(WITHOUT) == "<|user|>\nName a bird."


@pytest.mark.parametrize("format", [BOOK, BOOK_PHI])
@pytest.mark.parametrize("entry", [WITH, WITHOUT])
def test_prompt_has_nothing_of_the_answer(format, entry):
    prompt = prompt_text(entry, format)
    assert prompt.endswith(format.header)
    assert prompt == prompt_text({**entry, "output": "something else"}, format)


def test_prompts_end_as_the_book_prints_them():
    assert prompt_text(WITHOUT) == format_input(WITHOUT) + "\n\n### Response:\n"
    assert prompt_text(WITH, BOOK_PHI) == format_input_phi(WITH) + "\n<|assistant|>:"


@pytest.mark.parametrize("header", [f"\n\n{HEADER}\n", f"{HEADER} ", "", "\n\n"])
def test_extract_response_takes_prompt_and_heading_away(header):
    prompt = format_input(WITHOUT)
    assert extract_response(f"{prompt}{header}A gull.\n", prompt) == "A gull."


def test_extract_response_keeps_the_heading_inside_an_answer():
    answer = f"The heading {HEADER} comes before an answer.\n\n{HEADER}\nLike this."
    prompt = format_input(WITHOUT)
    assert extract_response(f"{prompt}\n\n{HEADER}\n{answer}", prompt) == answer


def test_extract_response_knows_the_heading_of_each_format():
    for format, form in ((BOOK, format_input), (BOOK_PHI, format_input_phi)):
        prompt = prompt_text(WITH, format)
        text = f"{prompt} bell, tide\n"
        assert extract_response(text, form(WITH), format=format) == "bell, tide"
        assert extract_response(text, prompt, format=format) == "bell, tide"


def test_extract_response_of_nothing_written_is_empty():
    assert extract_response(prompt_text(WITH), format_input(WITH)) == ""


def test_extract_response_refuses_a_text_without_its_prompt():
    with pytest.raises(ValueError, match="does not begin with its prompt: 'A gull.', not 'Below"):
        extract_response("A gull.", format_input(WITH))
