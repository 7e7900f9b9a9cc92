"""The start of training the book's model, in a process of its own: it takes longest of all figures.

A figure of it is marked with `START` and reads what the process printed, as `values_of(run)`.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from book_appendix_d import largest_gradients
from book_ch05 import start_of_training

from llm_scratch.text.corpora import load_text
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer

START = pytest.mark.script(__file__, LLM_SCRATCH_DATA=os.environ.get("LLM_SCRATCH_DATA", ""))


def values_of(run: Any) -> dict[str, Any]:
    return json.loads(run.output)


if __name__ == "__main__":
    story = load_text("the-verdict")
    values = vars(start_of_training(story, GPT2Tokenizer()))
    values["largest_gradients"] = largest_gradients(story)
    print(json.dumps(values))
