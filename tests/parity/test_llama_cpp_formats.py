"""Chats in every built-in format, rendered and read by llama.cpp from a file written here."""

from __future__ import annotations

import pytest
from conversations_made import beginning_tokenizer, tokenizer_with
from llama_cpp import LlamaCpp, llama_cpp_or_skip

from llm_scratch.conversations.encoding import encode_prompt
from llm_scratch.conversations.formats import FORMATS
from llm_scratch.conversations.messages import Message
from llm_scratch.model.llama import LlamaModel
from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.weights.gguf_export import export_gguf
from llm_scratch.weights.vocabulary import add_tokens

llama_cpp_or_skip()
pytest.importorskip("gguf")
pytestmark = pytest.mark.slow

TURNS = [
    Message("user", "How high is the tide?"),
    Message("assistant", "2 metres,  and it\u2019s rising."),
    Message("user", " And at 12:30?\nThanks! "),
    Message("assistant", "It falls:\n\n1. slowly\n2. then fast"),
    Message("user", "Who says {{ so }} & \"why\"?"),
]  # fmt: skip
SYSTEM = Message("system", "Answer in one line.")


def exported(form, tokenizer, path):
    """The tokenizer with the format's tokens, and llama.cpp with a model that writes it."""
    sizes = {"vocab_size": tokenizer.n_vocab, "context_length": 64, "emb_dim": 32, "n_heads": 2}
    model = LlamaModel(LlamaConfig(**sizes, hidden_dim=32, n_layers=1, tie_weights=True))
    tokenizer = add_tokens(model, tokenizer, form.controls)
    export_gguf(model, path, tokenizer, chat_template=form.jinja(tokenizer))
    return tokenizer, LlamaCpp(path)


@pytest.mark.parametrize("begins", [False, True], ids=["", "begins"])
@pytest.mark.parametrize("name", FORMATS)
def test_chats_rendered_by_llama_cpp_have_our_ids(name, begins, tmp_path):
    """`begins`: with a tokenizer that puts a mark before a text, as the format's own one."""
    form = FORMATS[name]
    begin = form.begin if form.begin in form.controls else "<s>"
    plain = beginning_tokenizer(begin=begin) if begins else tokenizer_with()
    tokenizer, opened = exported(form, plain, tmp_path / "m.gguf")
    with opened as theirs:
        for messages in ([TURNS[0]], TURNS, [SYSTEM, *TURNS]):
            asked = [{"role": each.role, "content": each.content} for each in messages]
            ids = theirs.encode(theirs.rendered(asked), marks=True)
            assert ids == encode_prompt(messages, form, tokenizer)
