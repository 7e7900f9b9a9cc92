"""The moments of a step that can be its peak, each as a list of terms.

Tensors kept for the backward pass add up in the forward pass and are freed in the backward pass, in
which gradients grow: the peak is at the loss, in a block near one of the two ends, at the
embedding, or, where parameters are divided, when they are gathered.

Source:
    `training.steps`, `training.sharding`; PyTorch's FSDP2 for what is gathered when: a block while
    it computes, the next one in advance, and the one gathered last until then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from llm_scratch.memory.blocks import SHORTCUTS, Block, Ways, Work, block_of
from llm_scratch.memory.ends import at_loss, chunk_of, embedded, sums_in
from llm_scratch.memory.states import (
    EMBEDDING,
    Parameters,
    largest_share,
    matrices_of_block,
    muon_groups,
    numbers_in,
    parameters_of,
    rows_of_a_part,
)
from llm_scratch.memory.step import BYTES, TrainingStep
from llm_scratch.memory.terms import Letters, Peak, Term

PARAMETERS, GATHERED, GRADIENTS = "parameters", "gathered", "gradients"
OPTIMIZER, ACTIVATIONS, TEMPORARY, OTHER = "optimizer", "activations", "temporary", "other"
KINDS = (PARAMETERS, GATHERED, GRADIENTS, OPTIMIZER, ACTIVATIONS, TEMPORARY, OTHER)
STEP = "the optimizer's step"
HELD = "parameters", "the optimizer's state", "gradients, divided"
ALIGNMENT = 64


def letters_of(step: TrainingStep, parameters: Parameters) -> dict[str, int]:
    """Return the numbers that the letters of a step's formulas stand for."""
    cfg: Any = step.cfg
    p, a = BYTES[step.weights], BYTES[step.compute_type]
    share = share_of(step, parameters)
    experts = getattr(cfg, "num_experts", 0)
    width = getattr(cfg, "moe_intermediate_size" if experts else "hidden_dim", 0)
    sizes = {"B": step.rows, "T": step.tokens_a_row, "N": step.tokens, "C": cfg.emb_dim}
    sizes |= {"L": cfg.n_layers, "H": cfg.n_heads, "G": cfg.n_kv_heads, "D": cfg.head_dim}
    sizes |= {"F": width or 4 * cfg.emb_dim, "V": cfg.vocab_size, "A": step.accumulation}
    sizes |= {"W": -(-cfg.vocab_size // ALIGNMENT) * ALIGNMENT, "K": chunk_of(step, parameters)}
    sizes |= {"E": experts, "k": getattr(cfg, "num_experts_per_tok", 0), "r": step.lora_rank or 0}
    sizes |= {"P": parameters.count, "Q": parameters.learned, "R": parts_of(step), **share}
    sizes |= {"X": matrices_of_block(parameters), "Z": numbers_in(parameters, "trf_blocks.0.")}
    sizes["Y"] = parameters.count - sizes["Z"] * cfg.n_layers
    gathered = min(p, a) if step.division.shard == "full" else p
    return sizes | {"p": p, "a": a, "e": p, "s": 4, "g": sums_in(step), "h": gathered}


def parts_of(step: TrainingStep) -> int:
    """Return how many processes tensors are divided among."""
    mesh = step.division.mesh
    return mesh[1] if mesh is not None else step.ranks


def share_of(step: TrainingStep, parameters: Parameters) -> dict[str, int]:
    """Return S, U, O and M: one process's share of parameters, gradients and states."""
    shapes, learning, parts = parameters.shapes, parameters.learning, parts_of(step)
    muons = set()
    if step.optimizer == "muon":
        muons = {n for n in learning if n.startswith("trf_blocks.") and len(shapes[n]) == 2}
    if step.division.shard == "full":
        held = {name: rows_of_a_part(shape, parts) for name, shape in shapes.items()}
    else:
        held = {name: prod(shape) for name, shape in shapes.items()}
    sizes = [[held[n] for n in names] for names in (learning - muons, muons)]
    whole, of_muon = map(sum, sizes)
    if step.division.shard == "optimizer":
        whole, of_muon = (largest_share(each, step.ranks) for each in sizes)
    return {"S": sum(held.values()), "U": sum(held[name] for name in learning),
            "O": whole + of_muon, "M": of_muon}  # fmt: skip


@dataclass(frozen=True)
class Kept:
    """The numbers of blocks that keep something at one moment.

    Args:
        whole: learning blocks that keep everything.
        passing: frozen blocks that keep everything, to pass gradients through.
        entries: recomputed blocks, which keep only their input.
    """

    whole: int
    passing: int
    entries: int


class Moments:
    """All moments of a step of this library's own engine.

    Args:
        step: the step.
    """

    left_out: tuple[str, ...] = ()

    def __init__(self, step: TrainingStep) -> None:
        self.step, self.parameters = step, parameters_of(step)
        self.numbers = letters_of(step, self.parameters)
        self.divided = step.division.shard == "full"
        self.in_buckets = step.ranks > 1 and not self.divided  # DDP's, which always exist
        self.adds = step.accumulation > 1
        self.are_there = self.adds or self.in_buckets  # gradients exist from the start
        self.learns = step.lora_rank is None
        self.first = self.parameters.first_block
        last = step.last_blocks
        self.first_learning = 0 if last is None else step.cfg.n_layers - last
        self.ways = Ways.of(step, self.learns)
        self.block, self.passing = block_of(step), block_of(step, learns=False)
        self.blocks = step.cfg.n_layers
        self.of_block = [self.parameters.of_block(number) for number in range(self.blocks)]
        self.of_ends = self.parameters.learned - sum(self.of_block)

    def backward(self) -> Peak:
        """Return the peak of the forward and backward passes."""
        return max(map(self._on_device, self._candidates()), key=lambda peak: peak.bytes)

    def update(self) -> Peak:
        """Return what is held while the optimizers step."""
        return self._on_device(self._update())

    def host(self) -> tuple[Term, ...]:
        """Return the terms in the host's memory: with `offload`, all that is divided."""
        terms = self._update().terms if self.step.division.offload else ()
        return tuple(term for term in terms if term.kind != OTHER)

    def _on_device(self, peak: Peak) -> Peak:
        """Return a moment without the terms in the host's memory."""
        if not self.step.division.offload:
            return peak
        if peak.moment == STEP:  # the host computes it
            return Peak(peak.moment, ())
        return Peak(peak.moment, tuple(t for t in peak.terms if t.name not in HELD))

    def _update(self) -> Peak:
        letters = Letters(self.numbers)
        terms = [*self._static(letters), letters.term("gradients", GRADIENTS, "p U")]
        if self.step.optimizer == "muon":
            terms.append(self._muon(letters))
        return Peak(STEP, tuple(terms))

    def _candidates(self) -> Iterator[Peak]:
        if self.divided:
            yield from self._gatherings()
        yield from self._losses()
        if self.parameters.learned_of("final_norm.") or self.first < self.blocks:
            yield self._last_norm()
        every = max(1, self.step.checkpoint_blocks)
        numbers = range(self.first, self.blocks)
        ends = {*numbers[: every + 1], *numbers[-every - 1 :], self.first_learning}
        for number in sorted(ends & set(numbers)):
            for work in self._block(number).works:
                yield self._at_block(number, work)
        if EMBEDDING in self.parameters.learning:
            yield self._at_embedding()

    def _static(self, letters: Letters) -> Iterator[Term]:
        """Yield the terms that are held all the time."""
        yield letters.term(HELD[0], PARAMETERS, "p S" if self.divided else "p P")
        states = "p (2 O - M)" if self.step.optimizer == "muon" else "2 p O"
        yield letters.term(HELD[1], OPTIMIZER, states)
        yield letters.term("ids and targets", OTHER, "16 N A")

    def _muon(self, letters: Letters) -> Term:
        """Return the term of Muon's largest group of matrices: updates, their stack, products."""
        groups = muon_groups(self.parameters)
        own = f"/ {self.numbers['R']}" if self.divided else ""
        formulas = [
            f"p {count} (3 {n} {m} + {n} {m} {own} + 2 {min(n, m)} {min(n, m)})"
            for (n, m), count in groups.items()
        ]
        largest = max(formulas, key=letters.value)
        return letters.term("Muon's work on matrices of one shape", TEMPORARY, largest)

    def _block(self, number: int) -> Block:
        return self.block if number >= self.first_learning else self.passing

    def _recomputed(self, number: int) -> bool:
        every = self.step.checkpoint_blocks
        return every > 0 and number % every == 0

    def _kept_below(self, number: int) -> Kept:
        """Count the blocks before one by what they keep."""
        below = range(self.first, number)
        entries = sum(map(self._recomputed, below))
        passing = sum(n < self.first_learning and not self._recomputed(n) for n in below)
        return Kept(len(below) - entries - passing, passing, entries)

    def _activations(self, number: int, letters: Letters) -> Iterator[Term]:
        """Yield what the ends and the blocks before one have kept for the backward pass."""
        kept = self._kept_below(number)
        letters.numbers |= {"l": kept.whole, "c": kept.entries, "j": kept.passing}
        for name, formula in embedded(self.step).items():
            yield letters.term(name, ACTIVATIONS, formula)
        # With LoRA nothing learns before the first block, so that block's first norm keeps nothing.
        spared = " - e N C" if not self.learns and number and not self._recomputed(0) else ""
        for name, formula in self.block.kept.items():
            less = spared if name == SHORTCUTS else ""
            yield letters.term(f"blocks: {name}", ACTIVATIONS, f"l ({formula}){less}")
        for name, formula in self.passing.kept.items():
            yield letters.term(f"frozen blocks: {name}", ACTIVATIONS, f"j ({formula})")
        yield letters.term("what recomputed blocks get", ACTIVATIONS, "c e N C")

    def _casts(self, letters: Letters, more: int = 0) -> Iterator[Term]:
        """Yield two-byte copies of four-byte weights, which blocks keep for the backward pass.

        Divided weights are gathered in two bytes.
        """
        if self.ways.autocast and not self.divided:
            letters.numbers["w"] = letters.numbers["l"] + letters.numbers["j"] + more
            yield letters.term("weights in a bytes", ACTIVATIONS, "a w X")

    def _gathered(self, letters: Letters, blocks: int, ends: int = 1) -> Iterator[Term]:
        """Yield the parameters that are gathered or being gathered, if they are divided."""
        if self.divided:
            letters.numbers["m"] = blocks
            formula = "p Y + h m Z" if ends == 1 else f"{ends} p Y + h m Z"
            yield letters.term("gathered parameters", GATHERED, formula)

    def _gradients(self, letters: Letters, done: int, sent: int = 0, sending: int = 0,
                   own: int = 0, whole: int | None = None) -> Iterator[Term]:  # fmt: skip
        """Yield the terms of gradients.

        Args:
            letters: the letters of the formulas.
            done: how many numbers have a gradient from this micro batch.
            sent: how many of them are divided by now, if gradients are divided.
            sending: how many gradients are being sent.
            own: how many belong to the block at work.
            whole: how many gradients of earlier micro batches wait to be sent.
        """
        if self.divided:
            if self.adds:  # this micro batch's gradients are added to the waiting ones
                whole = self.parameters.learned if whole is None else whole
            else:
                whole = max(done - sent - own, 0)
                letters.numbers["t"] = own
                yield letters.term("gradients of this block", GRADIENTS, "h t")
            letters.numbers["q"] = whole + sending
            yield letters.term("gradients, whole or being sent", GRADIENTS, "p q")
            letters.numbers["u"] = sent
            yield letters.term(HELD[2], GRADIENTS, "p u / R")
            return
        letters.numbers["q"] = self.parameters.learned if self.are_there else done
        if self.adds and self.in_buckets:  # they enter the buckets with the last micro batch
            letters.numbers["q"] += self.parameters.learned if whole is None else whole
        yield letters.term("gradients", GRADIENTS, "p q")
        if self.are_there and done and self._tied_head():
            yield letters.term("the head's gradient, to be added", GRADIENTS, "p V C")

    def _gatherings(self) -> Iterator[Peak]:
        """Yield the gathering of the ends and the first block, and that of the last block."""
        letters = Letters(self.numbers)
        terms = [*self._static(letters), *self._gradients(letters, 0)]
        terms += self._gathered(letters, 2, 2)
        terms.append(letters.term("what the first block gets", ACTIVATIONS, "e N C"))
        yield Peak("gathering the first block", tuple(terms))
        letters = Letters(self.numbers)
        terms = [*self._static(letters), *self._gradients(letters, 0)]
        terms += self._activations(self.blocks - 1, letters)
        terms += self._casts(letters)
        terms += self._gathered(letters, 3 if self.step.division.reshard else self.blocks + 2)
        terms.append(letters.term("what the last block gets", ACTIVATIONS, "e N C"))
        yield Peak("gathering the last block", tuple(terms))

    def _losses(self) -> Iterator[Peak]:
        whole = 1 if self.step.division.reshard else self.blocks + 1
        for kinds in at_loss(self.step, self.ways, self.parameters):
            letters = Letters(self.numbers)
            terms = [*self._static(letters), *self._gradients(letters, 0)]
            terms += self._activations(self.blocks, letters)
            terms += self._casts(letters)
            terms += self._gathered(letters, whole)
            terms.append(letters.term("what the last norm gets", ACTIVATIONS, "e N C"))
            terms += [letters.term(name, *found) for name, found in kinds.items()]
            yield Peak("the loss", tuple(terms))

    def _last_norm(self) -> Peak:
        letters = Letters(self.numbers)
        terms = [*self._static(letters), *self._gradients(letters, self._of_head())]
        terms += self._activations(self.blocks, letters)
        terms += self._casts(letters)
        terms += self._gathered(letters, 1 if self.step.division.reshard else self.blocks)
        terms.append(letters.term("what the last norm gets", ACTIVATIONS, "e N C"))
        is_gpt = "shift" in " ".join(self.parameters.shapes)
        work = "2 e N C" if is_gpt else f"e N C + {self.ways.norm}"
        terms.append(letters.term("the last norm's backward pass", TEMPORARY, work))
        return Peak("the backward pass of the last norm", tuple(terms))

    def _of_head(self) -> int:
        """Return how many numbers the head's gradient has."""
        size = self.numbers["V"] * self.numbers["C"]
        return size if self._tied_head() else self.parameters.learned_of("out_")

    def _tied_head(self) -> bool:
        return self.parameters.tied and EMBEDDING in self.parameters.learning

    def _at_block(self, number: int, work: Work) -> Peak:
        letters = Letters(self.numbers)
        terms = list(self._static(letters))
        terms += self._activations(number, letters)
        terms += self._casts(letters, more=1)
        sent = sum(self.of_block[number + 1 :])
        learns = self.learns and number >= self.first_learning
        done = letters.value(work.done) if learns else 0
        ends = self._of_head() + self.parameters.learned_of("final_norm.")
        sending = self.of_block[number + 1] if number + 1 < self.blocks and self.divided else 0
        waiting = sum(self.of_block[: number + 1]) + self.of_ends
        terms += self._gradients(letters, sent + done + ends, sent, sending, done, waiting)
        if learns and self.are_there:
            letters.numbers["t"] = letters.value(self._block(number).works[0].done)
            terms.append(letters.term("a matrix's gradient, to be added", TEMPORARY, "p t"))
        whole = (1 + (number > 0)) if self.step.division.reshard else number + 1
        terms += self._gathered(letters, whole)
        terms.append(letters.term("gradient of what comes out", TEMPORARY, "e N C"))
        terms.append(letters.term("this block: what is still kept", ACTIVATIONS, work.kept))
        terms.append(letters.term("this block: temporary", TEMPORARY, work.temporary))
        return Peak(f"the backward pass of block {number}: {work.name}", tuple(terms))

    def _at_embedding(self) -> Peak:
        letters = Letters(self.numbers)
        terms = [*self._static(letters)]
        sent = sum(self.of_block)
        more = 2 if self.parameters.tied else int(self.are_there)
        sending = self.of_block[0] if self.divided else 0
        terms += self._gradients(letters, sent + self.of_ends, sent, sending, 0, self.of_ends)
        terms += self._gathered(letters, 0)
        terms.append(letters.term("gradient of what comes out", TEMPORARY, "e N C"))
        terms.append(
            letters.term("the embedding's gradient, to be added", TEMPORARY, f"{more} p V C")
        )
        return Peak("the backward pass of the embedding", tuple(terms))
