"""Presets: complete settings for runs of several sizes; the vocabulary comes from the data."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from llm_scratch.model.config import GPT2_CONFIGS, GPTConfig
from llm_scratch.model.families import FAMILIES
from llm_scratch.training.config import TrainConfig


@dataclass(frozen=True)
class Preset:
    """A model without its vocabulary, and the settings to train it with."""

    model: GPTConfig
    train: TrainConfig

    def sizes(self, family: str = "gpt2", **given: Any) -> Any:
        """Return the configuration of a model to train.

        Models of other families have the width and depth of the GPT. A Llama has half as many
        key-value heads as query heads if the number is even, and a gated feed-forward network with
        about as many parameters as GPT-2's.

        Args:
            family: a family's name in `FAMILIES`.
            given: sizes that replace the preset's.

        Raises:
            ValueError: if the family or a size is unknown, or two sizes are incompatible.
        """
        if family not in FAMILIES:
            raise ValueError(f"{family=} is unknown; use {', '.join(FAMILIES)}")
        kind = FAMILIES[family].config
        if odd := sorted(given.keys() - {field.name for field in fields(kind)}):
            raise ValueError(f"a model of the family {family} has no {', '.join(odd)}")
        if family == "gpt2":
            return replace(self.model, **given)
        names = ("vocab_size", "context_length", "emb_dim", "n_heads", "n_layers", "tie_weights")
        sizes = {name: self.model[name] for name in names} | given
        return kind(**{**(_shaped(**sizes) if family == "llama" else {}), **sizes})


def _shaped(emb_dim: int, n_heads: int, **_: Any) -> dict[str, int]:
    """Return the additional sizes of a `LlamaModel`."""
    groups = n_heads if n_heads % 2 else n_heads // 2
    return {"hidden_dim": -(-8 * emb_dim // 3 // 32) * 32, "n_kv_groups": groups}


_model = partial(GPTConfig, vocab_size=50257, tie_weights=True)

PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        # A test that everything works: seconds on a laptop.
        _model(emb_dim=64, n_layers=2, n_heads=4, context_length=64),
        TrainConfig(steps=300, micro_batch=4, learning_rate=3e-3, eval_every=50, save_every=50),
    ),
    "small": Preset(
        # A model that writes in the style of its training data: an evening on a laptop.
        _model(emb_dim=384, n_layers=6, n_heads=6, context_length=256),
        TrainConfig(
            steps=3000,
            micro_batch=8,
            tokens_per_step=4096,
            learning_rate=1e-3,
            eval_every=250,
            save_every=100,
        ),
    ),
    "124M": Preset(
        # The smallest GPT-2: days on one GPU.
        GPT2_CONFIGS["124M"],
        TrainConfig(
            steps=20000,
            micro_batch=4,
            tokens_per_step=131072,
            learning_rate=6e-4,
            warmup_steps=700,
            eval_every=250,
            save_every=250,
        ),
    ),
    "163M": Preset(
        # The base model of the series "Writing an LLM from scratch" (parts 28 to 32), with the
        # settings that the series arrives at: no dropout, gradients clipped at 3.5, a scheduled
        # rate, less weight decay; 96 rows of 1,024 tokens per step, 20 tokens per parameter.
        # Settings it does not name follow its trainer (AdamW's second decay rate) or this library
        # (the initial weights).
        # Source: gpjt/ddp-base-model-from-scratch, runs/1xrtx3090-stacked-interventions.
        GPTConfig(
            vocab_size=50257,
            context_length=1024,
            emb_dim=768,
            n_layers=12,
            n_heads=12,
            drop_rate=0.0,
            qkv_bias=False,
            tie_weights=False,
        ),
        TrainConfig(
            steps=33165,  # the fewest that reach 3,260,190,720 tokens at 98,304 per step
            micro_batch=6,
            tokens_per_step=96 * 1024,
            learning_rate=1.4e-3,  # by default reached after 5 % of the steps, then down to a tenth
            weight_decay=0.01,
            beta2=0.999,
            clip=3.5,
            eval_every=617,
            eval_batches=200,
            save_every=617,
        ),
    ),
}
"""The presets by name."""
