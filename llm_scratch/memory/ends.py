"""Formulas of memory at the two ends of a model: embedding, last norm, head and loss.

Source:
    `training.head_loss`, `training.losses`, `model.rope`.
"""

from __future__ import annotations

from llm_scratch.memory.blocks import Ways, added
from llm_scratch.memory.states import Parameters
from llm_scratch.memory.step import BYTES, TrainingStep
from llm_scratch.model.llama_config import LlamaConfig

# The loss in chunks on a CPU: rows turned into probabilities at a time, and rows of the head whose
# gradient is summed at a time.
ROWS, SLAB = 32, 4096
Kinds = dict[str, tuple[str, str]]
ACTIVATIONS, TEMPORARY, GRADIENTS = "activations", "temporary", "gradients"


def chunk_of(step: TrainingStep, parameters: Parameters) -> int:
    """Return K, the tokens whose logits exist at a time; a fourth for a head with LoRA."""
    if step.loss_chunk is None:
        return step.tokens
    parts = 4 if _lora_head(step, parameters) else 1
    return min(step.tokens, max(1, step.loss_chunk // parts))


def _lora_head(step: TrainingStep, parameters: Parameters) -> bool:
    return step.lora_rank is not None and not parameters.tied


def sums_in(step: TrainingStep) -> int:
    """Return g, the bytes per number of the head's gradient while it is summed."""
    several = step.loss_chunk is not None and step.tokens > step.loss_chunk
    return 4 if several else BYTES[step.weights]


def embedded(step: TrainingStep) -> dict[str, str]:
    """Return formulas of what is kept before the first block, besides that block's input."""
    cfg = step.cfg
    if isinstance(cfg, LlamaConfig):
        windows = cfg.sliding_window is not None and step.tokens_a_row > cfg.sliding_window
        return {"cosines and sines": "8 T D"} | ({"mask of the window": "a T T"} if windows else {})
    if cfg.embedding_dropout == 0:
        return {}
    return {"dropout of the embedding": "e N C" if step.device == "cpu" else "N C"}


def at_loss(step: TrainingStep, ways: Ways, parameters: Parameters) -> list[Kinds]:
    """Return kind and formula of what is held, by name, at each possible peak of the loss."""
    if step.loss_chunk is None:
        return _all_logits(ways)
    if _lora_head(step, parameters):
        return [_lora_pieces(ways)]
    return _chunks(step, ways, parameters.head_learns)


def _all_logits(ways: Ways) -> list[Kinds]:
    """Return the moments of a loss over all logits: it keeps logarithms and makes two gradients."""
    kept: Kinds = {"what the head gets": (ACTIVATIONS, "a N C")}
    if ways.autocast:
        kept["the head's weights in a bytes"] = (ACTIVATIONS, "a V C")
    forward: Kinds = {"logits and their logarithms": (ACTIVATIONS, "8 N V")}
    backward: Kinds = {
        "logarithms of probabilities": (ACTIVATIONS, "4 N V"),
        "gradients of logits": (TEMPORARY, "8 N V"),
    }
    return [kept | forward, kept | backward]


def _lora_pieces(ways: Ways) -> Kinds:
    """Return the peak of the loss with a LoRA head, whose pieces go through autograd one by one."""
    found: Kinds = {
        "what the head gets": (ACTIVATIONS, "e N C"),
        "gradient of what the head gets": (ACTIVATIONS, "e N C"),
        "logits of a piece, logarithms, gradients": (ACTIVATIONS, "16 K V"),
    }
    if ways.autocast:
        found["the head's weights in a bytes"] = (ACTIVATIONS, "a V C")
    return found


def _chunks(step: TrainingStep, ways: Ways, learns: bool) -> list[Kinds]:
    """Return the moments of the loss in chunks: logits of one chunk, gradients of all chunks."""
    common: Kinds = {
        "what the head gets": (ACTIVATIONS, "e N C"),
        "gradient of what the head gets": (ACTIVATIONS, "a N C"),
    }
    if learns:  # a tied head is the embedding too, and this not yet its gradient
        kind = ACTIVATIONS if step.cfg.tie_weights else GRADIENTS
        common["gradient of the head"] = (kind, "g V C")
    chunk: Kinds = {"logits of a chunk": (ACTIVATIONS, "a K W")}
    if ways.autocast:
        chunk["head and its input in a bytes"] = (ACTIVATIONS, "a V C + a N C")
    probabilities = added(*_probabilities(step, ways))
    products = _products(step, ways) if learns else "0"
    after: Kinds = {}
    if ways.autocast:
        after["the same gradient in e bytes"] = (ACTIVATIONS, "e N C")
    if learns and sums_in(step) != (4 if ways.wide else 2):
        after["the head's gradient in p bytes"] = (ACTIVATIONS, "p V C")
    return [
        common | chunk | {"probabilities": (ACTIVATIONS, probabilities)},
        common | chunk | {"a product to be added": (ACTIVATIONS, products)},
        common | after,
    ]


def _probabilities(step: TrainingStep, ways: Ways) -> tuple[str, str]:
    """Return formulas: the probabilities, and four-byte copies of two-byte logits."""
    narrow = ways.autocast or not ways.wide
    if step.device == "cpu":  # some rows at a time, while the previous ones still exist
        rows = min(ROWS, step.tokens)
        return f"8 {rows} V", f"4 {rows} V" if narrow else ""
    return "4 K V", "4 K V" if narrow else ""


def _products(step: TrainingStep, ways: Ways) -> str:
    """Return the formula of products in the head's gradient whose type is not that of their sum."""
    if sums_in(step) == (4 if not ways.autocast and ways.wide else 2):
        return "0"
    if step.device == "cuda":
        return "a V C"
    return f"a {min(2 * SLAB, step.cfg.vocab_size)} C"
