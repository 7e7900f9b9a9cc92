"""Models on the hub: which of their files are asked for, once, and that they are the same models."""

from __future__ import annotations

import shutil

import llama_models
import pytest
import torch
from hub_server import files_in
from huggingface_hub import constants
from torch.testing import assert_close

import llm_scratch as ls
from llm_scratch.tokenizers.any_tokenizer import fingerprint

BESIDE = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]


def test_open_model_asks_the_hub_for_what_it_needs_and_once(hub, exported, small_gpt, bpe):
    hub.publish("org/gpt", exported)
    opened = ls.open_model("hub:org/gpt")
    assert_close(opened.model.state_dict(), small_gpt.state_dict(), rtol=0, atol=0)
    assert fingerprint(opened.tokenizer) == fingerprint(bpe)
    print(hub.asked)
    assert hub.fetched() == sorted([*BESIDE, "model.safetensors"])
    again = ls.open_model("hub:org/gpt")
    assert_close(again.model.state_dict(), small_gpt.state_dict(), rtol=0, atol=0)
    assert hub.asked == [("revision", "org/gpt")]
