"""How an instruction becomes a prompt, and where its answer begins (book 7.2, exercise 7.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

RESPONSE_HEADER = "\n\n### Response:\n"
Entry = Mapping[str, Any]


def format_input(entry: Entry) -> str:
    """The book's prompt, in the style of Alpaca, up to where the response begins.

    Args:
        entry: a dict with "instruction", and "input" where there is one.

    Source:
        Book 7.2; Taori et al. 2023 (Stanford Alpaca).
    """
    given = f"\n\n### Input:\n{entry['input']}" if entry.get("input") else ""
    return (
        "Below is an instruction that describes a task. Write a response that appropriately "
        f"completes the request.\n\n### Instruction:\n{entry['instruction']}{given}"
    )


def format_input_phi(entry: Entry) -> str:
    """The shorter prompt of Phi-3: a mark for who speaks, and what is said.

    Source:
        Book exercise 7.1; Abdin et al. 2024, arXiv:2404.14219.
    """
    given = f"\n{entry['input']}" if entry.get("input") else ""
    return f"<|user|>\n{entry['instruction']}{given}"


@dataclass(frozen=True)
class PromptStyle:
    """How an instruction becomes a prompt.

    Args:
        name: what it is called.
        instruction: gives what stands before the heading of the answer.
        answer_header: that heading.
    """

    name: str
    instruction: Callable[[Entry], str]
    answer_header: str

    def prompt(self, entry: Entry) -> str:
        """All that stands before the answer."""
        return self.instruction(entry) + self.answer_header


ALPACA = PromptStyle("alpaca", format_input, RESPONSE_HEADER)
"""The book's style: headings for instruction, input and response."""
PHI3 = PromptStyle("phi-3", format_input_phi, "\n<|assistant|>:")
"""The style of Phi-3: `<|user|>` and `<|assistant|>`, as ordinary text."""
STYLES = {style.name: style for style in (ALPACA, PHI3)}
"""The prompt styles by name."""


def extract_response(response_text: str, input_text: str, *, style: PromptStyle = ALPACA) -> str:
    """What a model wrote after a prompt, without the prompt and the heading of the response.

    The heading is taken away where it begins the answer and nowhere else: an answer that speaks
    of "### Response:" keeps its words. (The book takes it out wherever it stands.)

    Args:
        response_text: prompt and continuation, as decoded.
        input_text: the prompt, with the heading of the response or without.
        style: whose heading it is.

    Raises:
        ValueError: if the text does not begin with the prompt.

    Source:
        Book 7.5.
    """
    if not response_text.startswith(input_text):
        raise ValueError(
            f"the text does not begin with its prompt: {response_text[:40]!r}, not "
            f"{input_text[:40]!r}; give the whole text that was decoded"
        )
    rest = response_text[len(input_text) :].strip()
    return rest.removeprefix(style.answer_header.strip()).strip()
