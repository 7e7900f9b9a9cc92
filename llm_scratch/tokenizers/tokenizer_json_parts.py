"""The parts of a `tokenizer.json` around its BPE, which treat a text before and after it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from llm_scratch.files import PathLike
from llm_scratch.foreign import NOTHING, USED, Rule
from llm_scratch.tokenizers.bpe_files import TokenizerFileError
from llm_scratch.tokenizers.bpe_splitting import BEHAVIORS, Step
from llm_scratch.tokenizers.gpt2 import GPT2_PATTERN
from llm_scratch.tokenizers.known_patterns import DIGIT

Check = Callable[..., Any]
"""`check_settings` for one file."""

_BYTE_LEVEL: dict[str, Rule] = {
    "type": ("ByteLevel",),
    **dict.fromkeys(("add_prefix_space", "use_regex"), USED),
    "trim_offsets": NOTHING,
}
_DECODER: dict[str, Rule] = {**dict.fromkeys(_BYTE_LEVEL, NOTHING), "type": ("ByteLevel",)}
_SPLIT: dict[str, Rule] = {
    "type": ("Split",),
    **dict.fromkeys(("pattern", "invert"), USED),
    "behavior": tuple(BEHAVIORS),
}
_DIGITS: dict[str, Rule] = {"type": ("Digits",), "individual_digits": USED}

# Syntax that Hugging Face's engine reads differently, or that the engine here cannot read: escapes,
# sets inside sets, and letters that switch the meaning of what follows (except for i).
_READ_DIFFERENTLY = re.compile(r"\\[hHRXKGZzyYONk]|&&|\[\[|\(\?[a-zA-Z]*[a-hj-zA-Z][a-zA-Z-]*[:)]")
# In that engine, these match at the ends of every line.
_LINE_ENDS = re.compile(r"(?<![\[\\])\^|(?<!\\)\$")


def is_byte_level(content: Mapping[str, Any]) -> bool:
    """Return whether a file's tokens are made of bytes; other kinds are run by other programs."""
    last = [part.get("type") for part in _flat(content.get("pre_tokenizer"), "pretokenizers")][-1:]
    return last == ["ByteLevel"] and content["model"].get("type", "BPE") == "BPE"


def is_nfc(normalizer: Mapping[str, Any] | None) -> bool | None:
    """Return True if a file's normalizer is NFC, False without one, None for any other."""
    kinds = [part.get("type") for part in _flat(normalizer, "normalizers")]
    return bool(kinds) if set(kinds) <= {"NFC"} else None


def check_decoder(decoder: Mapping[str, Any] | None, check: Check) -> None:
    """Refuse a decoder that does more than concatenate the bytes of the tokens."""
    if decoder is not None:
        check(decoder, _DECODER, where="decoder")


def begin_of_text(processor: Mapping[str, Any] | None) -> dict[str, int]:
    """Return {"bos_token_id": id} if a file's template begins with a mark, else {}."""
    for part in _flat(processor, "processors"):
        first = part.get("single", [None])[0] if part["type"] == "TemplateProcessing" else None
        if isinstance(first, Mapping) and "SpecialToken" in first:
            mark = part["special_tokens"][first["SpecialToken"]["id"]]
            return {"bos_token_id": int(mark["ids"][0])}
    return {}


def read_steps(
    path: PathLike, splitter: Mapping[str, Any] | None, check: Check
) -> tuple[Step, ...]:
    """Return the steps of a pre-tokenizer, the last of which maps letters to bytes.

    Raises:
        TokenizerFileError: if there is a step of another kind, or none that yields bytes.
    """
    parts = list(_flat(splitter, "pretokenizers"))
    kinds = [part.get("type") for part in parts]
    known = set(kinds[:-1]) <= {"Split", "Digits"} and kinds[-1:] == ["ByteLevel"]
    if not known:
        raise TokenizerFileError(
            path,
            f"splits text by {' + '.join(map(str, kinds or [None]))} (pre_tokenizer), which this "
            "library does not know; it reads any number of Split and Digits followed by ByteLevel",
        )
    steps = [_STEPS[part["type"]](part, check) for part in parts]
    return tuple(step for step in steps if step.pattern or step.prefix_space) or (Step(None),)


def _byte_level(part: Mapping[str, Any], check: Check) -> Step:
    check(part, _BYTE_LEVEL, where="pre_tokenizer")
    pattern = GPT2_PATTERN if part.get("use_regex", True) else None
    return Step(pattern, prefix_space=bool(part.get("add_prefix_space")))


def _digits(part: Mapping[str, Any], check: Check) -> Step:
    check(part, _DIGITS, where="pre_tokenizer")
    return Step(DIGIT if part.get("individual_digits") else f"{DIGIT}+")


def _split(part: Mapping[str, Any], check: Check) -> Step:
    behavior, invert = part.get("behavior"), bool(part.get("invert"))
    # Removed text could not be decoded. An inverted pattern that matches all text removes nothing.
    only_matches = {"behavior": ("Removed",)} if behavior == "Removed" and invert else {}
    check(part, {**_SPLIT, **only_matches}, where="pre_tokenizer")
    check(part["pattern"], {"Regex": USED, "String": USED}, where="pre_tokenizer.pattern")
    if "String" in part["pattern"]:
        return Step(re.escape(part["pattern"]["String"]), str(behavior), invert)
    pattern = str(part["pattern"]["Regex"])
    if found := _READ_DIFFERENTLY.search(pattern):
        refused = {"Regex": f"{found.group()} in {pattern}"}
        check(refused, {"Regex": ()}, where="pre_tokenizer.pattern")
    lines = "(?m)" if _LINE_ENDS.search(pattern) else ""
    return Step(lines + pattern, str(behavior), invert)


_STEPS: dict[str, Callable[[Mapping[str, Any], Check], Step]] = {
    "ByteLevel": _byte_level,
    "Digits": _digits,
    "Split": _split,
}


def _flat(part: Mapping[str, Any] | None, inside: str) -> Iterator[Mapping[str, Any]]:
    """Yield a part of a file; for a sequence, yield the parts in it, nested ones included."""
    if part and part.get("type") == "Sequence":
        for each in part[inside]:
            yield from _flat(each, inside)
    elif part:
        yield part


def without(value: Any, ignored: frozenset[str], where: str = "") -> Any:
    """Return a file's content without some keys, named as "key" or as "part.key"."""
    if isinstance(value, list):
        return [without(item, ignored, where) for item in value]
    if not isinstance(value, Mapping):
        return value
    kept = {k: v for k, v in value.items() if not {k, f"{where}{k}"} & ignored}
    return {
        key: item
        if key in ("vocab", "merges")
        else without(item, ignored, where if key == "pretokenizers" else f"{where}{key}.")
        for key, item in kept.items()
    }
