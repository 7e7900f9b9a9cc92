"""The built-in formats of conversations, by name. A new format is an entry here.

The layouts are those of the models' own templates; `layout` explains the fields.
"""

from __future__ import annotations

from typing import Any

from llm_scratch.conversations.encoding import Format
from llm_scratch.conversations.layout import ConversationFormat

# Taori et al. 2023 (Stanford Alpaca), with a different text for instructions with an input.
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately "
    "completes the request."
)
_ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request."
)
# Zheng et al. 2023, arXiv:2306.05685 (Vicuna 1.1).
_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
_CHATML: dict[str, Any] = {
    "system": "<|im_start|>system\n{text}<|im_end|>\n",
    "user": "<|im_start|>user\n{text}<|im_end|>\n",
    "header": "<|im_start|>assistant\n",
    "answer": "{text}<|im_end|>",
    "after": "\n",
    "controls": ("<|im_start|>", "<|im_end|>"),
    "strip": False,
    "more_ends": ("<|endoftext|>",),
}

_ALL = (
    # Meta's own: begin-of-text and end-of-text tokens around every question and its answer.
    ConversationFormat(
        "llama2",
        begin="",
        user="<s>[INST] {system}{text} [/INST]",
        system="<<SYS>>\n{text}\n<</SYS>>\n\n",
        answer=" {text} </s>",
        controls=("<s>", "</s>"),
    ),
    # From the last part of the series "Messing around with fine-tuning LLMs", corrected: the first
    # turn and the later ones have one form, and every answer ends with an end-of-text token.
    ConversationFormat(
        "guanaco-llama2",
        user="[INST] {system}{text} [/INST]\n",
        system="<<SYS>>\n{text}\n<</SYS>>\n\n",
        stop_strings=("[INST]",),
    ),
    ConversationFormat(
        "llama3",
        begin="<|begin_of_text|>",
        system="<|start_header_id|>system<|end_header_id|>\n\n{text}<|eot_id|>",
        user="<|start_header_id|>user<|end_header_id|>\n\n{text}<|eot_id|>",
        header="<|start_header_id|>assistant<|end_header_id|>\n\n",
        answer="{text}<|eot_id|>",
        controls=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        more_ends=("<|end_of_text|>", "<|eom_id|>"),
    ),
    # OpenAI's ChatML, as most open models write it.
    ConversationFormat("chatml", **_CHATML),
    ConversationFormat(
        "qwen2.5",
        default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        **_CHATML,
    ),
    # Answers are learned as they are, thoughts included; a chat removes the thoughts from earlier
    # answers.
    ConversationFormat("qwen3", thoughts=("<think>", "</think>"), **_CHATML),
    ConversationFormat(
        "smollm2",
        default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        **_CHATML,
    ),
    # The third version of Mistral's, with the system text in the first turn.
    ConversationFormat(
        "mistral",
        begin="<s>",
        user="[INST] {system}{text}[/INST]",
        answer=" {text}</s>",
        controls=("<s>", "</s>", "[INST]", "[/INST]"),
    ),
    ConversationFormat(
        "zephyr",
        system="<|system|>\n{text}{eos}\n",
        user="<|user|>\n{text}{eos}\n",
        header="<|assistant|>\n",
        after="\n",
        stop_strings=("<|user|>",),
    ),
    ConversationFormat(
        "vicuna",
        system="{text} ",
        default_system=_VICUNA,
        user="USER: {text} ",
        header="ASSISTANT:",
        answer=" {text}{eos}",
        stop_strings=("USER:",),
    ),
    # Dettmers et al. 2023, arXiv:2305.14314, with an end-of-text token after every answer.
    ConversationFormat(
        "guanaco",
        user="### Human: {text}",
        header="### Assistant:",
        answer=" {text}{eos}",
        stop_strings=("### Human:",),
    ),
    ConversationFormat(
        "alpaca",
        default_system=_ALPACA,
        input_system=_ALPACA_WITH_INPUT,
        user="### Instruction:\n{text}\n\n",
        header="### Response:\n",
        before_input="\n\n### Input:\n",
        stop_strings=("### Instruction:",),
    ),
    # For base models, which have read dialogues of this kind.
    ConversationFormat(
        "transcript",
        user="User: {text}\n",
        header="Bot:",
        answer=" {text}{eos}",
        after="\n",
        stop_strings=("\nUser:",),
    ),
    # Abdin et al. 2024, arXiv:2404.14219.
    ConversationFormat(
        "phi-3",
        system="<|system|>\n{text}<|end|>\n",
        user="<|user|>\n{text}<|end|>\n",
        header="<|assistant|>\n",
        answer="{text}<|end|>",
        after="\n",
        controls=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        more_ends=("<|endoftext|>",),
    ),
    # Book 7.2: Alpaca's, with one system text for instructions with and without an input.
    ConversationFormat(
        "book",
        default_system=_ALPACA,
        user="### Instruction:\n{text}",
        header="\n\n### Response:\n",
        before_input="\n\n### Input:\n",
        strip=False,
        stop_strings=("### Instruction:",),
    ),
    # Book exercise 7.1: the marks of Phi-3, as ordinary text.
    ConversationFormat(
        "book-phi",
        system="<|system|>\n{text}\n",
        user="<|user|>\n{text}",
        header="\n<|assistant|>:",
        before_input="\n",
        strip=False,
        stop_strings=("<|user|>",),
    ),
)
FORMATS = {each.name: each for each in _ALL}
"""The built-in formats by name."""


def as_format(format: Format | str) -> Format:
    """Return a format unchanged, or the built-in format with this name.

    Raises:
        ValueError: listing the names, if no format has this one.
    """
    return find_format(format) if isinstance(format, str) else format


def find_format(name: str) -> ConversationFormat:
    """Return the built-in format with this name.

    Raises:
        ValueError: listing the names, if no format has this one.
    """
    if name not in FORMATS:
        raise ValueError(f"no format is called {name!r}; use one of {', '.join(FORMATS)}")
    return FORMATS[name]
