"""Formulas of what a block keeps for its backward pass, and what that pass adds, by family.

The formulas follow this library's modules tensor by tensor, as a CPU computes them. A GPU's own
kernels differ in two places: dropout keeps one byte per number (`Ways.mask`), and attention with
dropout keeps no scores.

Source:
    `model.gpt`, `model.llama_layers`, `model.grouped_attention`; Korthikanti et al. 2022,
    arXiv:2205.05198, section 4.1, for the method of counting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llm_scratch.memory.step import BYTES, TrainingStep
from llm_scratch.model.config import GPTConfig
from llm_scratch.model.families import family_name
from llm_scratch.model.llama_config import LlamaConfig

SHORTCUTS, ATTENTION, NETWORK = "norms and shortcuts", "attention", "feed-forward network"
EXPERTS, THIN = "experts", "LoRA's thin vectors"


@dataclass(frozen=True)
class Work:
    """A moment in the backward pass of a block.

    Args:
        name: the name of the moment.
        kept: formula of what is still kept of this block.
        temporary: formula of the temporary tensors.
        done: formula of how many numbers of this block's matrices have gradients by then.
    """

    name: str
    kept: str
    temporary: str
    done: str


@dataclass(frozen=True)
class Block:
    """The tensors that a block keeps for its backward pass, and the moments of that pass.

    Args:
        kept: formulas of the kept tensors, by purpose.
        works: the moments that can be the peak.
    """

    kept: dict[str, str]
    works: tuple[Work, ...]


@dataclass(frozen=True)
class Ways:
    """The properties of a block's computation on which its memory depends.

    Args:
        autocast: whether four-byte weights are multiplied in two bytes.
        wide: whether numbers between blocks have four bytes.
        inputs: whether inputs of matrices are kept, for gradients of the matrices or of LoRA.
        lora: whether LoRA learns, beside frozen matrices.
        scores: whether attention keeps all T x T scores.
        drops_scores: whether attention has dropout.
        mask: formula of the mask that dropout keeps on a shortcut; empty without dropout.
    """

    autocast: bool
    wide: bool
    inputs: bool
    lora: bool
    scores: bool
    drops_scores: bool
    mask: str

    @classmethod
    def of(cls, step: TrainingStep, learns: bool) -> Ways:
        """Return these properties for a step's blocks; `learns` is whether their matrices learn."""
        cfg: Any = step.cfg
        drops_scores = getattr(cfg, "attention_dropout", 0) > 0
        mask = "a N C" if step.device == "cpu" else "N C"
        return cls(
            autocast=step.compute_type != step.weights,
            wide=BYTES[step.weights] == 4,
            inputs=learns or step.lora_rank is not None,
            lora=step.lora_rank is not None,
            scores=step.attention == "by-hand" or (step.device == "cpu" and drops_scores),
            drops_scores=drops_scores,
            mask=mask if getattr(cfg, "shortcut_dropout", 0) > 0 else "",
        )

    def into(self, layers: int) -> str:
        """Return the formula of what a given number of layers keep of their shared input."""
        if not self.inputs:
            return ""
        return f"{layers} a N C" if self.autocast and layers > 1 else "a N C"

    @property
    def norm(self) -> str:
        """The formula of what RMSNorm's backward pass allocates besides the gradient it gets."""
        return "4 4 N C" if self.wide else "6 4 N C"


def block_of(step: TrainingStep, learns: bool = True) -> Block:
    """Return the formulas of a block's memory.

    Args:
        step: the step.
        learns: whether the block's matrices learn, rather than only pass gradients through.

    Raises:
        ValueError: if there are no formulas for the model's family.
    """
    ways = Ways.of(step, learns)
    if isinstance(step.cfg, GPTConfig):
        return _gpt_block(ways)
    if not isinstance(step.cfg, LlamaConfig):
        raise ValueError(
            f"no formulas of memory are known for the family {family_name(step.cfg)}; use "
            "llm-scratch memory measure, which takes steps and looks"
        )
    return _experts_block(step.cfg, ways) if step.cfg.num_experts else _llama_block(step.cfg, ways)


def added(*formulas: str) -> str:
    """Return the sum of the formulas that are not empty; "0" if all are."""
    return " + ".join(formula for formula in formulas if formula) or "0"


def _fused(queries: str, keys: str) -> tuple[str, str]:
    """Return formulas: what fused attention keeps (queries, keys, values, output) and makes."""
    return f"2 a N {queries} + 2 a N {keys} + 4 N H", f"2 a N {queries} + 2 a N {keys}"


def _scored(ways: Ways, queries: str) -> tuple[str, str]:
    """Return formulas: what attention with all scores, softmax and dropout keeps and makes."""
    copies = 3 if ways.drops_scores else 1  # with dropout also its mask and output
    more = 1 if ways.drops_scores else 2
    return f"3 s N {queries} + {copies} s N H T", f"s N {queries} + {more} s N H T"


def _gpt_block(ways: Ways) -> Block:
    """Return GPT's block: LayerNorm, attention, LayerNorm, two matrices with GELU between them."""
    attention, made = _scored(ways, "C") if ways.scores else _fused("C", "C")
    out = "a N C" if ways.scores and ways.inputs else ""
    kept = {
        SHORTCUTS: added("2 e N C + 16 N", ways.mask and f"2 ({ways.mask})"),
        ATTENTION: added(ways.into(3), attention, out),
        NETWORK: added(ways.into(1), "4 a N C", "4 a N C" if ways.inputs else ""),
    }
    handed = "a N C" if ways.autocast or ways.mask else ""
    network = Work(NETWORK, added(*kept.values()), added(handed, "4 a N C"), "4 C C")
    if ways.lora:
        kept[THIN] = "6 a N r"
        left = added(kept[SHORTCUTS], kept[ATTENTION], ways.into(1), "4 a N C", kept[THIN])
        network = Work(NETWORK, left, "12 a N C", "0")
    first = added("e N C + 8 N", ways.into(3), attention)
    norm = Work("first norm", "e N C + 8 N", "2 e N C", "12 C C")
    return Block(kept, (network, Work(ATTENTION, first, made, "9 C C"), norm))


def _llama_block(cfg: LlamaConfig, ways: Ways) -> Block:
    """Return Llama's block: RMSNorm, attention in groups, RMSNorm, a gated network."""
    attention, made = _scored(ways, "H D") if ways.scores else _fused("H D", "G D")
    # Queries and keys before their norms. Normed ones are ordered by head: the output is copied.
    before = "a N H D + a N G D" if cfg.qk_norm else ""
    out = "a N H D" if ways.inputs and (ways.scores or cfg.qk_norm) else ""
    kept = {
        SHORTCUTS: "2 e N C",
        ATTENTION: added(ways.into(3), attention, before, out),
        NETWORK: added(ways.into(2), "2 a N F", "a N F" if ways.inputs else ""),
    }
    thin = ""
    if ways.lora:
        thin = kept[THIN] = "7 a N r"
    first = added("e N C", ways.into(3), attention, before)
    second = added(first, out, "e N C")
    gates = added(second, ways.into(2), "2 a N F", thin)
    norm = f"e N C + {ways.norm}"
    projections = "C H D + 2 C G D"
    works = (
        Work(NETWORK, gates, "4 a N F", "C F"),
        Work("second norm", second, norm, "3 C F"),
        Work(ATTENTION, first, made, "3 C F + C H D"),
        Work("first norm", "e N C", norm, f"3 C F + C H D + {projections}"),
    )
    return Block(kept, works)


def _experts_block(cfg: LlamaConfig, ways: Ways) -> Block:
    """Return a block of Llama's kind with experts, each of which gets equally many tokens."""
    dense = _llama_block(cfg, ways)
    experts = added("2 a k N C" if ways.inputs else "", "3 a k N F",
                    "a k N F" if ways.inputs else "", "a k N C + e k N C")  # fmt: skip
    shares = added("a N C" if ways.inputs else "", "4 N E + 28 k N")
    kept = {**dense.kept, NETWORK: shares, EXPERTS: experts}
    others = added(*(formula for name, formula in kept.items() if name != EXPERTS))
    left = f"{others} + (E - 1) ({experts}) / E"  # after the first expert's backward pass
    work = Work(EXPERTS, left, "3 e N C + e k N C / E", "3 C F")
    return Block(kept, (work, *(_of_all_experts(each) for each in dense.works[1:])))


def _of_all_experts(work: Work) -> Work:
    return Work(work.name, work.kept, work.temporary, work.done.replace("3 C F", "3 E C F"))
