"""Estimates of the memory of generation: weights, and keys and values of the tokens so far.

Source:
    `model.cache` (room for the whole length, allocated once), `generation.quantized`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal, get_args

from llm_scratch.checks import check_count
from llm_scratch.memory.models import model_config
from llm_scratch.memory.states import HEAD, is_matrix
from llm_scratch.memory.step import BYTES
from llm_scratch.memory.terms import LEGEND, Letters, Peak, letters_in
from llm_scratch.model.families import parameter_shapes
from llm_scratch.model.llama_config import LlamaConfig

Kind = Literal["float32", "bfloat16", "float16", "int8"]
KINDS: tuple[str, ...] = get_args(Kind)
LEFT_OUT = (
    "a copy of the cache, where several samples follow one prompt, or room grows",
    "what the device's own libraries take, and what its allocator reserves beside",
)


@dataclass(frozen=True)
class GenerationEstimate:
    """The bytes that generation will hold.

    Args:
        reading: the peak while the prompt is read.
        writing: the peak while tokens are generated one by one.
        left_out: what is not counted, one item each.
    """

    reading: Peak
    writing: Peak
    left_out: tuple[str, ...] = LEFT_OUT

    @property
    def peak(self) -> Peak:
        """The larger of the two peaks."""
        return max(self.reading, self.writing, key=lambda peak: peak.bytes)

    @property
    def bytes(self) -> int:
        """The bytes held at the peak."""
        return self.peak.bytes

    @property
    def legend(self) -> dict[str, str]:
        """The meanings of the letters in the formulas."""
        terms = (*self.reading.terms, *self.writing.terms)
        return {letter: LEGEND[letter] for letter in letters_in(terms)}

    def as_json(self) -> dict[str, Any]:
        """Return the estimate as plain values."""
        peaks = {
            name: {"moment": peak.moment, "bytes": peak.bytes,
                   "terms": [asdict(term) for term in peak.terms]}
            for name, peak in (("reading", self.reading), ("writing", self.writing))
        }  # fmt: skip
        return {"bytes": self.bytes, **peaks, "left_out": list(self.left_out)}


def estimate_generation(
    model: Any, rows: int = 1, length: int | None = None, weights: Kind = "float32"
) -> GenerationEstimate:
    """Return an estimate of what a model holds while it generates.

    Args:
        model: a name, a configuration or a path (see `model_config`).
        rows: texts generated at a time.
        length: tokens of a text with its prompt; None is the model's context length. The prompt is
            assumed to fill it, which is the most that can be read at a time.
        weights: the type of weights and cache; "int8" holds the matrices in 8 bits, the rest and
            the cache in four bytes.

    Raises:
        ValueError: if a number is out of range.
        FileNotFoundError: if there is no model with this name.
    """
    cfg = model_config(model)
    check_count("rows", rows)
    length = cfg.context_length if length is None else length
    check_count("length", length)
    if length > cfg.context_length:
        raise ValueError(
            f"{length=} is above the model's context length of {cfg.context_length}; shorten it"
        )
    if weights not in KINDS:
        raise ValueError(f"{weights=} is not known; there are {', '.join(KINDS)}")
    return _estimated(cfg, rows, length, weights)


def _estimated(cfg: Any, rows: int, length: int, weights: str) -> GenerationEstimate:
    shapes = dict(parameter_shapes(cfg))
    tied = cfg.tie_weights and weights != "int8"  # int8 gives the head a matrix of its own
    if tied:
        del shapes[HEAD]
    matrices = sum(prod(shape) for name, shape in shapes.items() if is_matrix(name, shape))
    size = BYTES.get(weights, 4)
    experts = getattr(cfg, "num_experts", 0)
    width = getattr(cfg, "moe_intermediate_size" if experts else "hidden_dim", 0)
    letters = Letters({
        "P": sum(map(prod, shapes.values())), "X": matrices, "p": size, "a": size, "e": size,
        "N": rows * length, "B": rows, "T": length, "C": cfg.emb_dim, "L": cfg.n_layers,
        "H": cfg.n_heads, "G": cfg.n_kv_heads, "D": cfg.head_dim, "V": cfg.vocab_size,
        "F": width or 4 * cfg.emb_dim, "k": getattr(cfg, "num_experts_per_tok", 0),
    })  # fmt: skip
    held = [letters.term("weights", "parameters", "p P")]
    if weights == "int8":
        held = [
            letters.term("embeddings, norms and biases", "parameters", "4 (P - X)"),
            letters.term("matrices in 8 bits", "parameters", "X"),
        ]
    held.append(letters.term("keys and values", "cache", "2 a L N G D"))
    inner = "k F" if experts else "F"
    gates = 3 if isinstance(cfg, LlamaConfig) else 2
    block = f"3 e N C + {gates} a N {inner}"
    reading = [letters.term("a block's work on the prompt", "temporary", block),
               letters.term("logits of the last token", "temporary", "a B V")]  # fmt: skip
    writing = [letters.term("logits, and what sampling makes of them", "temporary", "12 B V")]
    return GenerationEstimate(
        Peak("reading the prompt", (*held, *reading)), Peak("writing", (*held, *writing))
    )
