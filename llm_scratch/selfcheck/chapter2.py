"""The checks of chapter 2: from text to ids to training windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.compare import Mistakes, call, must, must_equal
from llm_scratch.selfcheck.foreign import attempt, describe
from llm_scratch.selfcheck.outcome import Check, MistakeError

WORDS = ["!", '"', "'", "(", ")", ",", "--", ".", ":", ";", "?", "_"]
WORDS += ["a", "but", "cat", "dog", "had", "it", "no", "said", "sat", "the", "was"]
VOCAB = {word: number for number, word in enumerate(sorted(WORDS))}
VOCAB_V2 = {**VOCAB, "<|endoftext|>": len(VOCAB), "<|unk|>": len(VOCAB) + 1}
TEXT = "the cat sat--no, it had; a dog said: it was (a) cat!"
PIECES = "the cat sat -- no , it had ; a dog said : it was ( a ) cat !".split()
N_TOKENS, LENGTH, STRIDE = 23, 4, 3


class Letters:
    """A tokenizer whose ids are a text's characters, counted from 97."""

    n_vocab = 60
    eot_token = 0

    def encode(self, text: str, *args: Any, **kwargs: Any) -> list[int]:
        """Return one id per letter; options such as `allowed_special` change nothing."""
        return [max(ord(letter) - 97, 0) % self.n_vocab for letter in text]

    def decode(self, ids: Sequence[int], *args: Any, **kwargs: Any) -> str:
        """Return one letter per id."""
        return "".join(chr(97 + int(i)) for i in ids)


def _encodes(cls: Any) -> None:
    tokenizer = call("SimpleTokenizerV1", cls, (dict(VOCAB),), "(vocab)")
    _must_encode(tokenizer, TEXT, PIECES, VOCAB)


def _must_encode(tokenizer: Any, text: str, pieces: list[str], vocab: dict[str, int]) -> None:
    results: list[Any] = []
    error = attempt(lambda: results.append(tokenizer.encode(text)))
    if isinstance(error, KeyError):
        piece = error.args[0] if error.args else ""
        raise MistakeError(f"the pieces {pieces}", f"a piece {piece!r}", hints.SPLIT)
    if error is not None:
        raise error
    expected = [vocab[piece] for piece in pieces]
    came = results[0]
    if isinstance(came, Sequence) and list(came) == expected:
        return
    raise MistakeError(f"{expected} for {text!r}", f"{came}", hints.SPLIT)


def _decodes(cls: Any) -> None:
    _must_decode(cls(dict(VOCAB)), "the cat sat, no! it was a dog.", VOCAB)


def _must_decode(tokenizer: Any, text: str, vocab: dict[str, int]) -> None:
    pieces = text.replace(",", " ,").replace("!", " !").replace(".", " .").split()
    ids = [vocab[piece] for piece in pieces]
    results: list[Any] = []
    error = attempt(lambda: results.append(tokenizer.decode(ids)))
    if error is not None:
        raise MistakeError(repr(text), describe(error), hints.INVERSE)
    must(results[0] == text, repr(text), repr(results[0]), hints.JOIN)


def _comes_back(cls: Any) -> None:
    tokenizer = cls(dict(VOCAB))
    text = "it was a cat, it said."
    came = tokenizer.decode(tokenizer.encode(text))
    must(came == text, repr(text), repr(came), hints.JOIN)


def _encodes_v2(cls: Any) -> None:
    tokenizer = call("SimpleTokenizerV2", cls, (dict(VOCAB_V2),), "(vocab)")
    _must_encode(tokenizer, TEXT, PIECES, VOCAB_V2)


def _knows_unknown_words(cls: Any) -> None:
    tokenizer = cls(dict(VOCAB_V2))
    results: list[Any] = []
    error = attempt(lambda: results.append(list(tokenizer.encode("the zebra sat"))))
    expected = [VOCAB_V2[piece] for piece in ("the", "<|unk|>", "sat")]
    came = describe(error) if error is not None else str(results[0])
    must(came == str(expected), f"{expected} for 'the zebra sat'", came, hints.UNKNOWN)


def _knows_end_of_text(cls: Any) -> None:
    pieces = ["the", "dog", "<|endoftext|>", "a", "cat"]
    _must_encode(cls(dict(VOCAB_V2)), " ".join(pieces), pieces, VOCAB_V2)


def _decodes_v2(cls: Any) -> None:
    _must_decode(cls(dict(VOCAB_V2)), "the cat sat, no! it was a dog.", VOCAB_V2)


def _text(length: int = N_TOKENS) -> str:
    return "".join(chr(97 + i) for i in range(length))


def _windows(cls: Any, length: int = LENGTH, stride: int = STRIDE) -> list[tuple[Tensor, Tensor]]:
    signature = "(txt, tokenizer, max_length, stride)"
    data = call("GPTDatasetV1", cls, (_text(), Letters(), length, stride), signature)
    return [data[i] for i in range(len(data))]


def _gives_pairs(cls: Any) -> None:
    items = _windows(cls)
    must(len(items) > 0, "windows", "none", hints.WINDOWS)
    must(
        isinstance(items[0], (tuple, list)) and len(items[0]) == 2,
        "pairs of inputs and targets",
        f"{type(items[0]).__name__}",
        "See what __getitem__ returns.",
    )
    for inputs, targets in items:
        for ids in (inputs, targets):
            must(
                isinstance(ids, Tensor) and not ids.is_floating_point(),
                "tensors of ids (int64)",
                f"{getattr(ids, 'dtype', type(ids).__name__)}",
                "See how a window becomes a tensor.",
            )
            must(len(ids) == LENGTH, f"{LENGTH} ids", f"{len(ids)}", hints.RAGGED)


def _shifts_targets(cls: Any) -> None:
    inputs, targets = _windows(cls)[0]
    expected = torch.arange(1, LENGTH + 1)
    mistakes: Mistakes = {
        hints.TARGETS_NOT_SHIFTED: expected - 1,
        hints.TARGETS_SHIFTED_WRONG: [expected + 1, expected + LENGTH - 1, expected - 2],
    }
    must_equal(inputs, expected - 1, hint=hints.WINDOWS)
    must_equal(targets, expected, mistakes, hints.TARGETS_SHIFTED_WRONG)


def _follows_the_stride(cls: Any) -> None:
    starts = [int(inputs[0]) for inputs, _ in _windows(cls)]
    expected = list(range(0, N_TOKENS - LENGTH, STRIDE))
    steps = {b - a for a, b in zip(starts, starts[1:], strict=False)}
    hint = hints.WINDOWS if steps == {STRIDE} else hints.STRIDE_IGNORED
    must(starts == expected, f"windows from {expected}", f"{starts}", hint)


def _loses_no_window(cls: Any) -> None:
    starts = [int(inputs[0]) for inputs, _ in _windows(cls, length=5, stride=1)]
    expected = list(range(N_TOKENS - 5))
    must(
        starts == expected,
        f"{len(expected)} windows of 5 in {N_TOKENS} tokens",
        f"{len(starts)}",
        hints.WINDOWS,
    )


LOADER = "(txt, batch_size=4, max_length=256, stride=128, shuffle=True, drop_last=True, ...)"
STORY = " ".join("the cat sat on the mat and saw the tide go out".split() * 4)


def _story_ids() -> list[int]:
    from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer

    return GPT2Tokenizer().encode(STORY)


def _loads_batches(function: Any) -> None:
    loader = call("create_dataloader_v1", function, (STORY, 2, 4, 4, False), LOADER)
    ids = torch.tensor(_story_ids())
    inputs, targets = next(iter(loader))
    must_equal(inputs, ids[:8].view(2, 4), hint=hints.SHAPE)
    must_equal(
        targets,
        ids[1:9].view(2, 4),
        {hints.TARGETS_NOT_SHIFTED: ids[:8].view(2, 4)},
        hints.TARGETS_SHIFTED_WRONG,
    )


def _passes_the_stride(function: Any) -> None:
    ids = torch.tensor(_story_ids())
    inputs, _ = next(iter(function(STORY, 2, 4, 1, False)))
    must_equal(inputs, ids.unfold(0, 4, 1)[:2], hint=hints.STRIDE_IGNORED)


def _passes_shuffle(function: Any) -> None:
    torch.manual_seed(0)
    first = [inputs for inputs, _ in function(STORY, 1, 4, 1, True)]
    again = [inputs for inputs, _ in function(STORY, 1, 4, 1, False)]
    must(
        not all(torch.equal(a, b) for a, b in zip(first, again, strict=False)),
        "a different order with shuffle=True than with shuffle=False",
        "the same",
        hints.SHUFFLE,
    )


def _passes_drop_last(function: Any) -> None:
    count = len(range(0, len(_story_ids()) - 4, 1))
    size = next(size for size in (5, 4, 3) if count % size)
    for drop in (True, False):
        sizes = [len(inputs) for inputs, _ in function(STORY, size, 4, 1, False, drop)]
        expected = count - count % size if drop else count
        must(
            sum(sizes) == expected,
            f"{expected} windows with drop_last={drop}",
            f"{sum(sizes)}",
            hints.DROP_LAST,
        )


CHECKS = (
    Check("2.3", "SimpleTokenizerV1", "splits a text and looks the pieces up", _encodes),
    Check("2.3", "SimpleTokenizerV1", "turns ids into text", _decodes),
    Check("2.3", "SimpleTokenizerV1", "gives back what it encoded", _comes_back),
    Check("2.4", "SimpleTokenizerV2", "splits a text and looks the pieces up", _encodes_v2),
    Check("2.4", "SimpleTokenizerV2", "reads unknown words as <|unk|>", _knows_unknown_words),
    Check("2.4", "SimpleTokenizerV2", "reads <|endoftext|> as one token", _knows_end_of_text),
    Check("2.4", "SimpleTokenizerV2", "turns ids into text", _decodes_v2),
    Check("2.6", "GPTDatasetV1", "gives pairs of max_length ids", _gives_pairs),
    Check("2.6", "GPTDatasetV1", "the targets are the inputs' next tokens", _shifts_targets),
    Check("2.6", "GPTDatasetV1", "windows start every stride tokens", _follows_the_stride),
    Check("2.6", "GPTDatasetV1", "has all windows, and only whole ones", _loses_no_window),
    Check("2.6", "create_dataloader_v1", "gives batches of inputs and targets", _loads_batches),
    Check("2.6", "create_dataloader_v1", "passes the stride on", _passes_the_stride),
    Check("2.6", "create_dataloader_v1", "shuffles when asked to", _passes_shuffle),
    Check(
        "2.6", "create_dataloader_v1", "drops a short last batch when asked to", _passes_drop_last
    ),
)
