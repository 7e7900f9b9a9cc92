"""The moments of a step under DeepSpeed's ZeRO, with 16-bit transformers models as in the series.

Gathered weights, buckets and the optimizer's peak are fitted to the series' measurements, not
derived from DeepSpeed's source: the terms say which.

Source:
    Rajbhandari et al. 2020, arXiv:1910.02054 (states); DeepSpeed's defaults
    stage3_max_live_parameters = 1e9 and reduce_bucket_size = 5e8; the measurements of the posts
    "Messing around with fine-tuning LLMs", parts 6 to 9 (gpjt/fine-tune-2024-04).
"""

from __future__ import annotations

from collections.abc import Iterator

from llm_scratch.memory.moments import (
    ACTIVATIONS,
    GATHERED,
    GRADIENTS,
    OPTIMIZER,
    PARAMETERS,
    TEMPORARY,
    letters_of,
)
from llm_scratch.memory.states import parameters_of
from llm_scratch.memory.step import TrainingStep
from llm_scratch.memory.terms import Letters, Peak, Term
from llm_scratch.model.llama_config import LlamaConfig

LIVE, BUCKET = 1_000_000_000, 500_000_000  # parameters, DeepSpeed's defaults


class DeepSpeedMoments:
    """The moments of a step under DeepSpeed.

    Args:
        step: the step. `shard="full"` is ZeRO-3, with `reshard=False` ZeRO-2; "optimizer" is
            ZeRO-1; with "none" each process holds everything. The types are DeepSpeed's: 16-bit
            weights and gradients, with 32-bit copies and states.

    Raises:
        ValueError: if the formulas do not cover such a step.
    """

    left_out: tuple[str, ...] = (
        "under DeepSpeed gathered weights, buckets and the optimizer's peak are fits on the "
        "series' measurements, not proofs",
    )

    def __init__(self, step: TrainingStep) -> None:
        known = isinstance(step.cfg, LlamaConfig) and not step.cfg.num_experts
        if not known:
            raise ValueError("--engine deepspeed knows models of Llama's family without experts")
        if step.lora_rank or step.last_blocks or step.optimizer != "adamw":
            raise ValueError("--engine deepspeed knows AdamW on all parameters")
        if step.attention != "fused" or step.device != "cuda":
            raise ValueError("--engine deepspeed knows fused attention on a GPU (--device cuda)")
        if step.division.mesh is not None:
            raise ValueError("--engine deepspeed has no --mesh; leave it out")
        self.step, self.offload = step, step.division.offload
        self.parameters = parameters_of(step)
        self.numbers = letters_of(step, self.parameters) | {"a": 2, "p": 2, "e": 2}
        self.zero = {"none": 0, "optimizer": 1, "full": 3}[step.division.shard]
        if self.zero == 3 and not step.division.reshard:
            self.zero = 2
        if self.offload:
            self.left_out += (
                "offloading takes some 6 GiB of DeepSpeed's own buffers on each GPU (21,340 MiB "
                "were measured where the weights take 15,316), which no formula here gives",
            )

    def backward(self) -> Peak:
        """Return the larger of the peaks at the loss and in a recomputed block."""
        return max(self._moments(), key=lambda peak: peak.bytes)

    def update(self) -> Peak:
        """Return what is held while the optimizer steps."""
        letters = Letters(self.numbers)
        terms = list(self._states(letters))
        if not self.offload:
            terms.append(
                letters.term("gradients in four bytes, once more (fitted)", TEMPORARY,
                             "4 P / R" if self.zero else "4 P"))  # fmt: skip
        terms.append(letters.term("reduce bucket", TEMPORARY, f"2 {BUCKET}"))
        return Peak("the optimizer's step", tuple(terms))

    def host(self) -> Iterator[Term]:
        """Yield the terms in the host's memory, for one process."""
        if self.offload:
            letters = Letters(self.numbers)
            yield letters.term("weights, gradients and states in four bytes", OPTIMIZER,
                               "16 P / R")  # fmt: skip

    def _states(self, letters: Letters) -> Iterator[Term]:
        """Yield weights, gradients and states: 2, 4 and 12 bytes per parameter."""
        divided = " / R"
        weights = "2 P" + (divided if self.zero == 3 else "")
        if not (self.offload and self.zero == 3):
            yield letters.term("weights in two bytes", PARAMETERS, weights)
        if self.offload:
            return
        gradients = "4 P" + (divided if self.zero >= 2 else "")
        yield letters.term("gradients in four bytes", GRADIENTS, gradients)
        states = "12 P" + (divided if self.zero else "")
        yield letters.term("weights in four bytes, and AdamW's states", OPTIMIZER, states)

    def _moments(self) -> Iterator[Peak]:
        every = self.step.checkpoint_blocks
        letters = Letters(self.numbers)
        blocks = self.step.cfg.n_layers
        entries = 0 if not every else len(range(0, blocks, every))
        letters.numbers |= {"c": entries, "l": blocks - entries}
        common = [*self._states(letters), *self._gathered(letters, every > 0)]
        for name, formula in BLOCK.items():
            common.append(letters.term(f"blocks: {name}", ACTIVATIONS, f"l ({formula})"))
        common.append(letters.term("what recomputed blocks get", ACTIVATIONS, "c 2 N C"))
        loss = [
            letters.term("logarithms of probabilities", ACTIVATIONS, "4 N V"),
            letters.term("logits and their gradient", TEMPORARY, "8 N V"),
        ]
        if self.step.loss_chunk is not None:
            chunk = "12 K V"
            loss = [letters.term("logits of a chunk, and gradients", TEMPORARY, chunk)]
        yield Peak("the loss", (*common, *loss))
        if entries:
            again = [
                letters.term(f"this block: {name}", ACTIVATIONS, formula)
                for name, formula in BLOCK.items()
            ]
            yield Peak("a block that is computed again", (*common, *again))

    def _gathered(self, letters: Letters, checkpointing: bool) -> Iterator[Term]:
        """Yield the weights gathered at the peak and the reduce bucket, if anything is divided."""
        if self.zero == 3 and self.step.ranks > 1:
            if not checkpointing:
                yield letters.term("gathered weights, all of them (fitted)", GATHERED, "2 P")
                return
            ends = "2 V C" if self.parameters.tied else "4 V C"
            yield letters.term("gathered embedding and head", GATHERED, ends)
            live = min(LIVE, self.parameters.count)
            yield letters.term("live parameters, DeepSpeed's limit", GATHERED, f"2 {live}")
            yield letters.term("reduce bucket", TEMPORARY, f"2 {BUCKET}")
        elif self.step.ranks > 1 and self.zero:
            yield letters.term("reduce bucket", TEMPORARY, f"2 {BUCKET}")


# A block of transformers' Llama in 16 bits, with PyTorch's fused attention.
BLOCK = {
    "norms by hand": "16 N C",
    "attention": "4 N H D + 4 N G D",
    "feed-forward network": "8 N F",
}
