"""The interface that a language model of any family offers to the rest of the library.

It is for type checkers and for readers: training, generation, weights, LoRA and fine-tuning need no
more of a model than this. Nothing inherits from it, and nothing calls `isinstance`; `families` has
the particulars of each family.

Shape letters: B batch, T tokens, S tokens in a cache, C emb_dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from llm_scratch.model.cache import KVCache


class ModelConfig(Protocol):
    """The sizes of a model; each family's frozen dataclass has further options."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def vocab_size(self) -> int:
        """V, number of token ids."""

    @property
    def context_length(self) -> int:
        """The maximum T."""

    @property
    def emb_dim(self) -> int:
        """C, width of the residual stream."""

    @property
    def n_layers(self) -> int:
        """Number of transformer blocks."""

    @property
    def n_heads(self) -> int:
        """Number of attention heads per block."""

    @property
    def n_kv_heads(self) -> int:
        """Number of heads with their own keys and values."""

    @property
    def head_dim(self) -> int:
        """Width of a head."""

    @property
    def tie_weights(self) -> bool:
        """Whether the output head is the token embedding."""


class LanguageModel(Protocol):
    """An `nn.Module` that maps token ids (B, T) to logits (B, T, V)."""

    @property
    def cfg(self) -> ModelConfig:
        """The sizes and options."""

    tok_emb: nn.Embedding
    trf_blocks: nn.Sequential
    final_norm: nn.Module
    out_head: nn.Module
    checkpoint_blocks: int
    class_names: tuple[str, ...] | None
    training: bool

    def __call__(
        self,
        in_idx: Tensor,
        *,
        cache: KVCache | None = None,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Predict the next token at every position: (B, T) ids -> (B, T, V) logits."""

    def hidden_states(
        self,
        in_idx: Tensor,
        *,
        cache: KVCache | None = None,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Compute everything but the head: (B, T) ids -> (B, T, C)."""

    def new_cache(
        self, batch: int, length: int | None = None, dtype: torch.dtype | None = None
    ) -> KVCache:
        """Make an empty cache for B rows of `length` tokens, on the model's device."""

    def init_weights(self) -> None:
        """Initialise all weights as the family's training does, in place."""

    def tie_weights(self) -> None:
        """Make the output head and the token embedding one parameter."""

    def num_parameters(self, *, head: bool = True, trainable_only: bool = False) -> int:
        """Count the parameters, a shared one once."""

    # The methods of every nn.Module that the library uses.

    def train(self, mode: bool = True) -> Any:
        """Set train mode."""

    def eval(self) -> Any:
        """Set evaluation mode."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Yield the parameters."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the parameters by name."""
