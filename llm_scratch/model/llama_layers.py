"""The parts of a Llama block around attention: RMSNorm, gated networks, experts.

As in `layers`, each operation exists as a plain function that reads like its formula and as a
module that calls PyTorch's own kernels. Tests compare the two.

Shape letters: B batch, T tokens, C emb_dim, F hidden_dim, E experts, N tokens in all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm_scratch.model.linear import Linear, recorded
from llm_scratch.model.llama_config import LlamaConfig
from llm_scratch.model.together import outputs_of


def rms_norm_by_hand(x: Tensor, scale: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalise every vector to a mean square of 1, then scale: (..., C) -> (..., C).

    Source:
        Zhang and Sennrich 2019, arXiv:1910.07467.
    """
    return scale * x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + eps)


def swiglu_by_hand(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Widen x twice, let one gate the other, and narrow: (..., C) -> (..., C).

    Args:
        x: (..., C).
        gate: (F, C); its output goes through z / (1 + exp(-z)), which is SiLU.
        up: (F, C).
        down: (C, F).

    Source:
        Shazeer 2020, arXiv:2002.05202.
    """
    gates = x @ gate.T  # (..., F)
    return (gates / (1 + torch.exp(-gates)) * (x @ up.T)) @ down.T


class RMSNorm(nn.Module):
    """Normalisation by the root of the mean square, over the last dimension: (..., C) -> (..., C).

    Args:
        emb_dim: C.
        eps: the number that keeps it from dividing by 0.

    Source:
        Computed by PyTorch's `rms_norm`, see `rms_norm_by_hand`.
    """

    def __init__(self, emb_dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(emb_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every vector: (..., C) -> (..., C)."""
        scale = self.scale.to(x.dtype)
        if x.requires_grad and torch.is_grad_enabled() and not recorded():
            return _Normalise.apply(x, scale, self.eps)
        return F.rms_norm(x, scale.shape, scale, self.eps)


class _Normalise(torch.autograd.Function):
    """An RMSNorm that keeps only its input for the backward pass; PyTorch's keeps it twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.eps = eps
        return F.rms_norm(x, scale.shape, scale, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        saved = ctx.saved_tensors  # once: recomputed blocks do not return them a second time
        x, scale = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in saved)
        grad = grads[0].to(x.dtype)
        inverse = torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + ctx.eps)
        normed = x * inverse
        shared = (grad * normed).flatten(0, -2)  # (N, C)
        along = (shared @ scale).view(*x.shape[:-1], 1) / x.shape[-1]
        grad_x = torch.addcmul(grad * scale, normed, along, value=-1).mul(inverse)
        return grad_x.to(saved[0].dtype), shared.sum(dim=0).to(saved[1].dtype), None


class GatedFeedForward(nn.Module):
    """A SwiGLU network: two parallel layers, one gating the other, and a third: (B, T, C) -> same.

    Args:
        emb_dim: C.
        hidden_dim: F.

    Source:
        `swiglu_by_hand`; the names fc1 (gate), fc2 (up) and fc3 (down) are the book's package's.
    """

    one_input = ("fc1", "fc2")

    def __init__(self, emb_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = Linear(emb_dim, hidden_dim, bias=False)
        self.fc2 = Linear(emb_dim, hidden_dim, bias=False)
        self.fc3 = Linear(hidden_dim, emb_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform every token on its own: (B, T, C) -> (B, T, C)."""
        gates, values = outputs_of((self.fc1, self.fc2), x)  # (B, T, F) each
        if gates.requires_grad and not recorded():
            return self.fc3(_Gate.apply(gates, values))
        return self.fc3(F.silu(gates) * values)


class _Gate(torch.autograd.Function):
    """The SiLU of the gates times the values; it keeps both, but not the SiLU in between."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(gates, values)
        return F.silu(gates).mul_(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gates, values = ctx.saved_tensors
        grad = grads[0] * values
        if torch.is_grad_enabled():  # a second derivative, which the kernel below does not have
            share = torch.sigmoid(gates)
            grad = grad * (share + gates * share * (1 - share))
        else:
            grad = torch.ops.aten.silu_backward(grad, gates)
        return grad, grads[0] * F.silu(gates)


class ExpertsFeedForward(nn.Module):
    """A mixture of experts, gated networks of which each token uses a few: (B, T, C) -> same.

    A linear layer computes each token's share of every expert; the experts with the largest shares
    take part.

    Args:
        cfg: a `LlamaConfig` with experts.

    Source:
        Shazeer et al. 2017, arXiv:1701.06538; the names are those of the book's package.
    """

    def __init__(self, cfg: LlamaConfig) -> None:
        super().__init__()
        C, width = cfg.emb_dim, cfg.moe_intermediate_size
        self.per_token, self.sum_to_one = cfg.num_experts_per_tok, cfg.norm_topk_prob
        self.gate = Linear(C, cfg.num_experts, bias=False)
        self.fc1, self.fc2, self.fc3 = (
            nn.ModuleList(Linear(*sizes, bias=False) for _ in range(cfg.num_experts))
            for sizes in ((C, width), (C, width), (width, C))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Send every token through its experts, weighted by its shares: (B, T, C) -> (B, T, C)."""
        tokens = x.flatten(0, -2)  # (N, C)
        shares = self.gate(tokens).float().softmax(dim=-1)  # (N, E)
        shares, chosen = shares.topk(self.per_token, dim=-1)  # (N, K) each
        if self.sum_to_one:
            shares = shares / shares.sum(dim=-1, keepdim=True)
        out = torch.zeros_like(tokens)
        for number in chosen.unique().tolist():
            rows, places = (chosen == number).nonzero(as_tuple=True)
            gate, up, down = self.fc1[number], self.fc2[number], self.fc3[number]
            made = down(F.silu(gate(tokens[rows])) * up(tokens[rows]))
            made = made * shares[rows, places, None].to(made.dtype)
            out = out.index_add(0, rows, made.to(out.dtype))
        return out.view(x.shape)
