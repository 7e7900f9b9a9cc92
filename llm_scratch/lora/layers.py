"""LoRA: two thin matrices learn beside each frozen one (book appendix E).

Shape letters: B batch, T tokens; `in_dim` and `out_dim` are a layer's, `rank` is between them.

Source:
    Hu et al. 2021, arXiv:2106.09685.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm_scratch.checks import check_count, is_number


class LoRALayer(nn.Module):
    """The change that LoRA learns, a product of two thin matrices: (..., in) -> (..., out).

    B starts at zero, so that at first nothing changes. The factor alpha / rank keeps the change
    about as large when the rank is another one. (The first printing of the book multiplies by
    alpha alone; `alpha * rank` gives that.)

    Args:
        in_dim: size of the input vectors.
        out_dim: size of the output vectors.
        rank: how many columns A and how many rows B has.
        alpha: how much the change weighs, before it is divided by the rank.

    Raises:
        ValueError: if a size or the rank is below 1, or alpha is not above 0.

    Source:
        Book appendix E.4.
    """

    def __init__(self, in_dim: int, out_dim: int, rank: int, alpha: float) -> None:
        super().__init__()
        check_rank(rank, alpha)
        self.A = nn.Parameter(torch.empty(in_dim, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.B = nn.Parameter(torch.zeros(rank, out_dim))
        self.alpha = alpha

    @property
    def rank(self) -> int:
        """How many columns A and how many rows B has."""
        return self.A.shape[1]

    @property
    def scaling(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return self.alpha / self.rank

    def forward(self, x: Tensor) -> Tensor:
        """What is added to a layer's output: (..., in) -> (..., out)."""
        return self.thin(x) @ self.B

    def thin(self, x: Tensor) -> Tensor:
        """What comes between the two matrices, scaled: (..., in) -> (..., rank)."""
        return x @ self.A * self.scaling

    def extra_repr(self) -> str:
        """Sizes for `print`."""
        in_dim, out_dim = self.A.shape[0], self.B.shape[1]
        return f"{in_dim}, {out_dim}, rank={self.rank}, alpha={self.alpha:g}"


class LinearWithLoRA(nn.Module):
    """A linear layer and what LoRA adds to it: (..., in) -> (..., out).

    The LoRA matrices are on the device and of the type of the layer.

    Args:
        linear: the layer; it is used as it is, not copied.
        rank: of the LoRA matrices.
        alpha: see `LoRALayer`.

    Source:
        Book appendix E.4.
    """

    merged_weight: Tensor | None

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.linear = linear
        self.lora = LoRALayer(linear.in_features, linear.out_features, rank, alpha)
        # Drawn on the CPU whatever the device: the same seed, the same matrices.
        like, drawn = linear.weight, self.lora.A
        if (drawn.device, drawn.dtype) != (like.device, like.dtype):
            self.lora.to(like.device, like.dtype)
        self.register_buffer("merged_weight", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer and its LoRA: (..., in) -> (..., out).

        Raises:
            ValueError: if it is to be trained while it is merged, which would teach it nothing.
        """
        if self.merged_weight is not None:
            if self.training:
                raise ValueError("a merged LoRA can't learn; call unmerge_lora(model) to train it")
            return F.linear(x, self.merged_weight, self.linear.bias)
        # linear(x) + lora(x), summed in place: of two more outputs for every layer, only their
        # memory would be noticed.
        rows = x.reshape(-1, x.shape[-1])  # (n, in)
        output = self.linear(rows)  # (n, out)
        thin = self.lora.thin(rows).to(output.dtype)  # (n, rank)
        output = output.addmm_(thin, self.lora.B.to(output.dtype))
        return output.view(*x.shape[:-1], -1)

    @torch.no_grad()
    def whole_weight(self) -> Tensor:
        """The weight of the one linear layer that does the same: (out, in)."""
        weight, (A, B) = self.linear.weight, (self.lora.A.float(), self.lora.B.float())
        change = (A @ B).T * self.lora.scaling  # (out, in)
        return change.add_(weight).to(weight.dtype)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.merged_weight = None  # it would be that of the matrices before
        super()._load_from_state_dict(*args, **kwargs)


class LinearWithLoRAMerged(nn.Module):
    """`LinearWithLoRA` by another formula: the sum of the weights first, at every call.

    To look at; `merge_lora` sums once.

    Args:
        linear: the layer; it is used as it is, not copied.
        rank: of the LoRA matrices.
        alpha: see `LoRALayer`.

    Source:
        Book chapter 6, bonus material on LoRA.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.linear = linear
        self.lora = LoRALayer(linear.in_features, linear.out_features, rank, alpha)
        self.lora.to(linear.weight.device, linear.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer with the changed weight: (..., in) -> (..., out)."""
        change = (self.lora.A @ self.lora.B).T * self.lora.scaling  # (out, in)
        return F.linear(x, self.linear.weight + change, self.linear.bias)


def replace_linear_with_lora(
    model: nn.Module,
    rank: int,
    alpha: float,
    *,
    targets: Sequence[str] | str | None = None,
    freeze_base: bool = False,
) -> None:
    """Put LoRA beside linear layers, in place: nothing comes back, and nothing changes yet.

    By default every `Linear` gets one, the head too, as in the book. A head that is one with the
    token embedding is passed over with a warning, since it can't be changed alone.

    Args:
        model: a `GPTModel`, or any module.
        rank: of the LoRA matrices.
        alpha: see `LoRALayer`.
        targets: names of the layers, or of parts of the model that they are in: "W_query", "att",
            "ff", "out_head", "trf_blocks.11". None is all.
        freeze_base: whether everything else stops learning.

    Raises:
        ValueError: before anything is changed, if rank or alpha are out of range, a target names
            no linear layer (those there are are listed), or a layer has a LoRA already.

    Source:
        Book appendix E.4.
    """
    check_rank(rank, alpha)
    names = _chosen(model, targets)
    if freeze_base:
        freeze(model)
    for name in names:
        wrap_linear(model, name, rank, alpha)


def wrap_linear(model: nn.Module, name: str, rank: int, alpha: float) -> LinearWithLoRA:
    """Put LoRA beside one linear layer of a model, in place: the layer that is there now."""
    parent, attribute = _parent_of(model, name)
    linear = getattr(parent, attribute)
    layer = LinearWithLoRA(linear, rank, alpha).train(linear.training)
    setattr(parent, attribute, layer)
    return layer


def freeze(model: nn.Module) -> None:
    """Let no parameter of a model learn any more, in place."""
    for parameter in model.parameters():
        parameter.requires_grad = False


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name; a shared one once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def merge_lora(model: nn.Module, *, unwrap: bool = False) -> None:
    """Let every layer with a LoRA compute with one matrix, in place: the same function, faster.

    Merging again after the matrices have changed takes the new ones. Models that learn have to be
    unmerged first.

    Args:
        model: with layers from `replace_linear_with_lora`.
        unwrap: whether plain linear layers take the place of those with LoRA: the model can be
            saved, exported and generates as fast as one that never had any; there is no way back.
            Without it, the base's weights are kept and `unmerge_lora` returns to them.

    Raises:
        ValueError: if the model has no LoRA.
    """
    for name, layer in _some_lora_layers(model).items():
        if not unwrap:
            layer.merged_weight = layer.whole_weight()
            continue
        linear = layer.linear
        learns = linear.weight.requires_grad
        linear.weight = nn.Parameter(layer.whole_weight(), requires_grad=learns)
        parent, attribute = _parent_of(model, name)
        setattr(parent, attribute, linear)


def unmerge_lora(model: nn.Module) -> None:
    """Undo `merge_lora`, in place: the base's weights are those of before, bit by bit.

    Raises:
        ValueError: if the model has no LoRA, or merged layers were unwrapped.
    """
    for layer in _some_lora_layers(model).values():
        layer.merged_weight = None


def lora_layers(model: nn.Module) -> dict[str, LinearWithLoRA]:
    """Every layer of a model that has a LoRA, by its name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, LinearWithLoRA) and n}


def _parent_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a part of a model, and the part's name in it."""
    path, _, attribute = name.rpartition(".")
    return model.get_submodule(path), attribute


def check_rank(rank: int, alpha: float) -> None:
    """Refuse a rank or an alpha that LoRA can't work with.

    Raises:
        ValueError: naming the value.
    """
    check_count("rank", rank, note="8 or 16 are common")
    if not is_number(alpha, 0) or alpha == 0:
        raise ValueError(f"{alpha=} must be above 0; as large as the rank is common")


def _some_lora_layers(model: nn.Module) -> dict[str, LinearWithLoRA]:
    layers = lora_layers(model)
    if not layers:
        raise ValueError("the model has no LoRA; replace_linear_with_lora puts it in")
    return layers


def _linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer that could have a LoRA, and those that have one, in the model's order."""
    layers: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = name.removesuffix(".linear") in layers
        if isinstance(module, nn.Linear | LinearWithLoRA) and name and not inside:
            layers[name] = module
    return layers


def _chosen(model: nn.Module, targets: Sequence[str] | str | None) -> list[str]:
    """The names of the layers that get a LoRA; see `replace_linear_with_lora`."""
    layers = _linear_layers(model)
    names = list(layers)
    if targets is not None:
        wanted = [targets] if isinstance(targets, str) else list(targets)
        _check_targets(wanted, names)
        names = [name for name in names if any(_is_in(target, name) for target in wanted)]
    wrapped = [name for name in names if isinstance(layers[name], LinearWithLoRA)]
    if wrapped:
        more = f" and {len(wrapped) - 1} more layers have" if wrapped[1:] else " has"
        raise ValueError(
            f"{wrapped[0]}{more} a LoRA already; name other targets, or merge it first with "
            "merge_lora(model, unwrap=True)"
        )
    tied = [name for name in names if _is_tied(model, layers[name])]
    names = [name for name in names if name not in tied]
    if not names:
        kept = f" but {tied[0]}, which is one with the token embedding" if tied else ""
        raise ValueError(f"the model has no linear layer{kept}, so there is nothing to put LoRA to")
    if tied:
        warnings.warn(
            f"{tied[0]} is one with the token embedding and gets no LoRA; a model that is loaded "
            "with tie_weights=False can have one there",
            stacklevel=3,
        )
    return names


def _check_targets(targets: Sequence[str], names: Sequence[str]) -> None:
    unknown = [t for t in targets if not any(_is_in(t, name) for name in names)]
    if unknown or not targets:
        parts = dict.fromkeys(part for n in names for part in n.split(".") if not part.isdigit())
        what = f"targets {unknown} name" if unknown else "an empty list of targets names"
        raise ValueError(f"{what} no linear layer; there are {', '.join(parts)}")


def _is_in(target: str, name: str) -> bool:
    """Whether a layer's name is a target, or has it as a part between its dots."""
    return f".{target}." in f".{name}."


def _is_tied(model: nn.Module, layer: nn.Module) -> bool:
    """Whether a layer's weight is that of an embedding, too."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return isinstance(layer, nn.Linear) and id(layer.weight) in embeddings
