"""The formats of conversations that this library has, by name."""

from __future__ import annotations

from llm_scratch.conversations.layout import ConversationFormat

_ALL = (
    # The last part of the series "Messing around with fine-tuning LLMs", mended: one form for the
    # first turn and the later ones, and an end of text after every answer.
    ConversationFormat(
        "guanaco-llama2",
        user="[INST] {system}{text} [/INST]\n",
        system="<<SYS>>\n{text}\n<</SYS>>\n\n",
        stop_strings=("[INST]",),
    ),
    # OpenAI's ChatML, as most open models write it.
    ConversationFormat(
        "chatml",
        system="<|im_start|>system\n{text}<|im_end|>\n",
        user="<|im_start|>user\n{text}<|im_end|>\n",
        header="<|im_start|>assistant\n",
        answer="{text}<|im_end|>",
        after="\n",
        controls=("<|im_start|>", "<|im_end|>"),
        strip=False,
    ),
)
FORMATS = {each.name: each for each in _ALL}
"""The built-in formats by name."""


def find_format(name: str) -> ConversationFormat:
    """Return the built-in format of a name.

    Raises:
        ValueError: listing the names, if there is none.
    """
    if name not in FORMATS:
        raise ValueError(f"no format is called {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]
