"""Complete settings for runs of three sizes; the vocabulary comes from the data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from llm_scratch.model.config import GPT2_CONFIGS, GPTConfig
from llm_scratch.training.config import TrainConfig


@dataclass(frozen=True)
class Preset:
    """A model without its vocabulary, and the settings to train it with."""

    model: GPTConfig
    train: TrainConfig


_model = partial(GPTConfig, vocab_size=50257, tie_weights=True)

PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        # To see that everything works: seconds on a laptop.
        _model(emb_dim=64, n_layers=2, n_heads=4, context_length=64),
        TrainConfig(steps=300, micro_batch=4, learning_rate=3e-3, eval_every=50, save_every=50),
    ),
    "small": Preset(
        # A model that writes in the manner of its text: an evening on a laptop.
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
        # GPT-2's smallest: days on one GPU.
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
}
"""The presets by name."""
