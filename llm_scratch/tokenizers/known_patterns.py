r"""The patterns by which well-known vocabularies split text, and their forms for plain ASCII.

A pattern written for all of Unicode has a twin for plain ASCII, in which a letter is [A-Za-z] and a
digit [0-9]: the standard library applies it twice as fast as a search in the tables of Unicode.
"""

from __future__ import annotations

from llm_scratch.tokenizers.gpt2 import GPT2_PATTERN

DIGIT = r"\p{N}"

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"  # each with one character before it, a space or a mark
_MARKS_AND_BLANKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# Llama 3 splits numbers into groups of three digits, Qwen 2 and 3 into single digits.
LLAMA3_PATTERN = "|".join([_CONTRACTIONS, _WORDS, r"\p{N}{1,3}", _MARKS_AND_BLANKS])
QWEN2_PATTERN = "|".join([_CONTRACTIONS, _WORDS, DIGIT, _MARKS_AND_BLANKS])


def _ascii_form(pattern: str) -> str:
    inside = pattern.replace(r"\r\n\p{L}\p{N}", r"\r\nA-Za-z0-9").replace(
        r"\s\p{L}\p{N}", r"\sA-Za-z0-9"
    )
    return inside.replace(r"\p{L}", "[A-Za-z]").replace(r"\p{N}", "[0-9]")


ASCII_FORMS = {
    GPT2_PATTERN: r"'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s",
    **{pattern: _ascii_form(pattern) for pattern in (DIGIT, LLAMA3_PATTERN, QWEN2_PATTERN)},
}
