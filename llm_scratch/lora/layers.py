"""LoRA: two thin matrices are trained beside each frozen one (book appendix E).

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

    B starts at zero, so that at first nothing changes. The factor alpha / rank keeps the size of
    the change about the same for every rank. (The first printing of the book multiplies by alpha
    alone; pass `alpha * rank` for that.)

    Args:
        in_dim: size of the input vectors.
        out_dim: size of the output vectors.
        rank: the number of A's columns and of B's rows.
        alpha: the weight of the change, before it is divided by the rank.

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
        """The number of A's columns and of B's rows."""
        return self.A.shape[1]

    @property
    def scaling(self) -> float:
        """The factor of the product of the two matrices."""
        return self.alpha / self.rank

    def forward(self, x: Tensor) -> Tensor:
        """Compute the change that is added to a layer's output: (..., in) -> (..., out)."""
        return self.thin(x) @ self.B

    def thin(self, x: Tensor) -> Tensor:
        """Apply the first matrix and the scale: (..., in) -> (..., rank)."""
        return x @ self.A * self.scaling

    def extra_repr(self) -> str:
        """Return the sizes, for `print`."""
        in_dim, out_dim = self.A.shape[0], self.B.shape[1]
        return f"{in_dim}, {out_dim}, rank={self.rank}, alpha={self.alpha:g}"


class LinearWithLoRA(nn.Module):
    """A linear layer plus the change from LoRA: (..., in) -> (..., out).

    The LoRA matrices have the device and the type of the layer.

    Args:
        linear: the layer, which is used itself, not copied.
        rank: the rank of the LoRA matrices.
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
            ValueError: if it is merged but in training mode, in which it would learn nothing.
        """
        if self.merged_weight is not None:
            if self.training:
                raise ValueError("a merged LoRA can't learn; call unmerge_lora(model) to train it")
            return F.linear(x, self.merged_weight, self.linear.bias)
        # linear(x) + lora(x), summed in place, which saves the memory of two outputs per layer.
        rows = x.reshape(-1, x.shape[-1])  # (n, in)
        output = self.linear(rows)  # (n, out)
        thin = self.lora.thin(rows).to(output.dtype)  # (n, rank)
        output = output.addmm_(thin, self.lora.B.to(output.dtype))
        return output.view(*x.shape[:-1], -1)

    @torch.no_grad()
    def whole_weight(self) -> Tensor:
        """Compute the weight of the single linear layer that does the same: (out, in)."""
        weight, (A, B) = self.linear.weight, (self.lora.A.float(), self.lora.B.float())
        change = (A @ B).T * self.lora.scaling  # (out, in)
        return change.add_(weight).to(weight.dtype)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.merged_weight = None  # it belongs to the previous matrices
        super()._load_from_state_dict(*args, **kwargs)


class LinearWithLoRAMerged(nn.Module):
    """A `LinearWithLoRA` by another formula, which sums the weights first, at every call.

    It is for reading; `merge_lora` sums only once.

    Args:
        linear: the layer, which is used itself, not copied.
        rank: the rank of the LoRA matrices.
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
    """Add LoRA to linear layers, in place; nothing is returned, and no result changes yet.

    By default every `Linear` gets LoRA, the head included, as in the book. A head that is tied to
    the token embedding is skipped with a warning, since it cannot be changed alone.

    Args:
        model: a `GPTModel`, or any module.
        rank: the rank of the LoRA matrices.
        alpha: see `LoRALayer`.
        targets: names of the layers, or of parts of the model that contain them: "W_query", "att",
            "ff", "out_head", "trf_blocks.11". None means all.
        freeze_base: whether all other parameters are frozen.

    Raises:
        ValueError: before anything is changed, if rank or alpha are out of range, a target does
            not name a linear layer (the message lists them), or a layer already has LoRA.

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
    """Freeze all parameters of a model, in place."""
    for parameter in model.parameters():
        parameter.requires_grad = False


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that training changes, by name, a shared one once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def merge_lora(model: nn.Module, *, unwrap: bool = False) -> None:
    """Merge every LoRA into its layer's weights, in place: the same function, but faster.

    Merging again after the matrices have changed uses the new ones. To train a model, unmerge it
    first.

    Args:
        model: a model with layers from `replace_linear_with_lora`.
        unwrap: whether plain linear layers replace those with LoRA. The model can then be saved and
            exported, and generates as fast as one without LoRA; this cannot be undone. Without it,
            the base's weights are kept, and `unmerge_lora` restores them.

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
    """Undo `merge_lora`, in place, which restores the base's weights bit for bit.

    Raises:
        ValueError: if the model has no LoRA, or merged layers were unwrapped.
    """
    for layer in _some_lora_layers(model).values():
        layer.merged_weight = None


def lora_layers(model: nn.Module) -> dict[str, LinearWithLoRA]:
    """Return the layers of a model that have LoRA, by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, LinearWithLoRA) and n}


def _parent_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that holds a part of a model, and the part's name in it."""
    path, _, attribute = name.rpartition(".")
    return model.get_submodule(path), attribute


def check_rank(rank: int, alpha: float) -> None:
    """Refuse an invalid rank or alpha.

    Raises:
        ValueError: naming the value.
    """
    check_count("rank", rank, note="8 or 16 are common")
    if not is_number(alpha, 0) or alpha == 0:
        raise ValueError(f"{alpha=} must be above 0; often it equals the rank")


def _some_lora_layers(model: nn.Module) -> dict[str, LinearWithLoRA]:
    layers = lora_layers(model)
    if not layers:
        raise ValueError("the model has no LoRA; add it with replace_linear_with_lora")
    return layers


def _linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return all linear layers, with or without LoRA, in the model's order."""
    layers: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = name.removesuffix(".linear") in layers
        if isinstance(module, nn.Linear | LinearWithLoRA) and name and not inside:
            layers[name] = module
    return layers


def _chosen(model: nn.Module, targets: Sequence[str] | str | None) -> list[str]:
    """Return the names of the layers that get LoRA; see `replace_linear_with_lora`."""
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
            f"{wrapped[0]}{more} LoRA already; name other targets, or merge it first with "
            "merge_lora(model, unwrap=True)"
        )
    tied = [name for name in names if _is_tied(model, layers[name])]
    names = [name for name in names if name not in tied]
    if not names:
        kept = f" but {tied[0]}, which is tied to the token embedding" if tied else ""
        raise ValueError(f"the model has no linear layer{kept}, so there is nothing to add LoRA to")
    if tied:
        warnings.warn(
            f"{tied[0]} is tied to the token embedding and gets no LoRA; load the model with "
            "tie_weights=False to add it there",
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
    """Return whether a layer's name is a target, or contains it as a part between dots."""
    return f".{target}." in f".{name}."


def _is_tied(model: nn.Module, layer: nn.Module) -> bool:
    """Return whether a layer shares its weight with an embedding."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return isinstance(layer, nn.Linear) and id(layer.weight) in embeddings
