"""Requests to a real model in float32: many at once write what each writes alone."""

from __future__ import annotations

import pytest
import torch
from engines import Asked
from smollm2 import smollm2_path

from llm_scratch.chat.engine import Engine
from llm_scratch.chat.requests import Request
from llm_scratch.generation.choosing import SamplingSettings
from llm_scratch.generation.texts import TextStream
from llm_scratch.opening import open_model

pytestmark = pytest.mark.slow

TEXTS = (
    "The capital of France is", "Once upon a time, there was a clock", "def fibonacci(n):",
    "<|im_start|>user\nWhat is 3 + 4?<|im_end|>\n<|im_start|>assistant\n", "1, 2, 3, 4,",
    "The three primary colours are", "Dear Sir or Madam,", "In the beginning" * 20,
)  # fmt: skip
NEW, MARGIN = 16, 1e-3


@pytest.fixture(scope="module")
def opened():
    smollm2_path()
    return open_model("smollm2", dtype=torch.float32)


def margin_after(model, ids):
    """How far apart the two best logits after some ids are."""
    with torch.no_grad():
        best = model(torch.tensor([ids]))[0, -1].topk(2).values
    return float(best[0] - best[1])


def test_16_requests_at_once_write_what_each_writes_alone(opened):
    """They may part only where the two best logits lie so near that rounding decides."""
    drawn = SamplingSettings(temperature=0.7, top_p=0.9)
    requests = [
        Request(tuple(opened.tokenizer.encode(text, allowed_special="all")), NEW, settings, seed=n)
        for n, text in enumerate(TEXTS)
        for settings in (SamplingSettings(), drawn)
    ]
    with Engine(opened.model, opened.tokenizer, prefill_chunk=48) as engine:
        found = [each.finished() for each in [Asked(engine, request) for request in requests]]
    for request, answer in zip(requests, found, strict=True):
        generator = torch.Generator().manual_seed(request.seed)
        stream = TextStream(
            opened.model, opened.tokenizer, request.ids, NEW, request.settings, generator=generator
        )
        list(stream)
        pairs = list(zip(answer.ids, stream.result().ids, strict=False))
        parted = next((n for n, (one, other) in enumerate(pairs) if one != other), None)
        if parted is not None:
            common = [*request.ids, *answer.ids[:parted]]
            assert margin_after(opened.model, common) < MARGIN, (request.seed, parted)
