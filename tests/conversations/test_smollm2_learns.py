"""A real model learns a format that it was never taught: 40 conversations, one epoch, LoRA."""

from __future__ import annotations

import pytest
import torch
from smollm2 import smollm2_path

from llm_scratch.conversations.readers import read_conversations
from llm_scratch.finetuning.conversation_tuning import (
    answer_conversations,
    conversation_parts,
    finetune_conversations,
    first_prompt,
)
from llm_scratch.finetuning.instruction_tuning import stopped_share
from llm_scratch.finetuning.preparing import prepare_model
from llm_scratch.finetuning.runs import run_config
from llm_scratch.opening import open_model
from llm_scratch.text.corpora import find_data
from llm_scratch.training.run_folder import read_metrics

pytest.importorskip("gguf")
pytestmark = pytest.mark.slow
FORMAT = "guanaco-llama2"


@pytest.fixture(scope="module")
def opened():
    smollm2_path()
    return open_model("smollm2")


def test_smollm2_learns_a_format_of_plain_text(opened, tmp_path):
    model, tokenizer = opened
    found, _ = read_conversations(find_data("conversations.jsonl"))
    short = [each for each in found if sum(len(message.content) for message in each) < 500]
    asked = [first_prompt(each) for each in short[:24:3]]
    others = [each for place, each in enumerate(short) if place % 3 or place >= 24]
    torch.manual_seed(1)
    save_best = prepare_model(model, base="smollm2", lora=8)
    parts = conversation_parts(model, tokenizer, others[8:48], others[:8], format=FORMAT)
    config = run_config(
        "chat", 40, epochs=1, micro_batch=2, learning_rate=3e-3, warmup_steps=0, eval_every=5,
        sample_every=0, precision="float32",
    )  # fmt: skip
    state = finetune_conversations(
        model, tokenizer, *parts, config, format=FORMAT, folder=tmp_path, save_best=save_best
    )
    losses = [line["val_loss"] for line in read_metrics(tmp_path) if "val_loss" in line]
    assert state.step == 20
    assert state.best_loss == min(losses) < losses[0] - 0.05
    options = {"format": FORMAT, "max_new_tokens": 60}
    answers = answer_conversations(model, tokenizer, asked, **options)
    assert stopped_share(answers) >= 0.5
    again = open_model(tmp_path)
    assert again.format.name == FORMAT
    same = answer_conversations(*again, asked[:2], **options, batch_size=1)
    alone = answer_conversations(model, tokenizer, asked[:2], **options, batch_size=1)
    assert [each.ids for each in same] == [each.ids for each in alone]
