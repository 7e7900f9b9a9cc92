"""The same as chapters 3 and 4, right, and written as differently as can be."""

import math

import torch
import torch.nn.functional as F
from torch import einsum, nn


def softmax_naive(x):
    shifted = (x - x.max(dim=0, keepdim=True).values).exp()
    return shifted / shifted.sum(dim=0, keepdim=True)


class SelfAttention_v1(nn.Module):
    """One fused parameter instead of three."""

    def __init__(self, d_in, d_out):
        super().__init__()
        self.fused = nn.Parameter(torch.randn(3, d_out, d_in) * 0.02)

    def forward(self, x):
        q, k, v = einsum("td,nod->nto", x, self.fused)
        return einsum("ts,so->to", (q @ k.mT * q.size(-1) ** -0.5).softmax(1), v)


class SelfAttention_v2(nn.Module):
    def __init__(self, d_in, d_out, qkv_bias=False):
        super().__init__()
        self.everything = nn.Linear(d_in, 3 * d_out, bias=qkv_bias)

    def forward(self, x):
        q, k, v = self.everything(x).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q[None], k[None], v[None])[0]


class CausalAttention(nn.Module):
    """Masked after the softmax, and renormalised: that is right as well."""

    def __init__(self, width_in, width_out, longest, p, bias=False):
        super().__init__()
        self.mix = nn.Linear(width_in, 3 * width_out, bias=bias)
        self.p = p

    def forward(self, x):
        q, k, v = self.mix(x).chunk(3, dim=-1)
        weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1).tril()
        weights = weights / weights.sum(-1, keepdim=True)
        return F.dropout(weights, self.p, self.training) @ v


class MultiHeadAttentionWrapper(nn.Module):
    """All heads in one product, their outputs side by side."""

    def __init__(self, width_in, width_out, longest, p, count, bias=False):
        super().__init__()
        self.q, self.k, self.v = (
            nn.Parameter(torch.randn(count, width_in, width_out)) for _ in range(3)
        )
        self.b = nn.Parameter(torch.zeros(3, count, 1, width_out)) if bias else None
        self.p = p

    def forward(self, x):
        q, k, v = (einsum("btd,hdo->bhto", x, w) for w in (self.q, self.k, self.v))
        if self.b is not None:
            q, k, v = q + self.b[0], k + self.b[1], v + self.b[2]
        rate = self.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
        return mixed.permute(0, 2, 1, 3).flatten(2)


class MultiHeadAttention(nn.Module):
    """A fused product in the order head, kind, column; attention by einsum."""

    def __init__(self, width_in, width_out, longest, p, count, bias=False):
        super().__init__()
        if width_out % count:
            raise ValueError("the heads can't share this width")
        self.count = count
        self.qkv = nn.Linear(width_in, 3 * width_out, bias=bias)
        self.last = nn.Linear(width_out, width_out)
        self.forget = nn.Dropout(p)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, self.count, 3, -1).unbind(3)
        scores = einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
        ahead = torch.arange(t)[None, :] > torch.arange(t)[:, None]
        weights = self.forget((scores - 1e9 * ahead).softmax(-1))
        return self.last(einsum("bhts,bshd->bthd", weights, v).reshape(b, t, -1))


class LayerNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.offset = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], self.gain, self.offset)


class GELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3)))


class FeedForward(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        n = sizes["emb_dim"]
        self.up, self.down, self.bend = nn.Linear(n, n * 4), nn.Linear(n * 4, n), GELU()

    def forward(self, x):
        return self.down(self.bend(self.up(x)))


class ExampleDeepNeuralNetwork(nn.Module):
    def __init__(self, widths, add):
        super().__init__()
        self.steps = nn.ModuleList(map(nn.Linear, widths, widths[1:]))
        self.add = add

    def forward(self, x):
        for step in self.steps:
            y = F.gelu(step(x), approximate="tanh")
            x = y + x if self.add and y.size() == x.size() else y
        return x


class TransformerBlock(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        n, p = sizes["emb_dim"], sizes["drop_rate"]
        self.look = MultiHeadAttention(
            n, n, sizes["context_length"], p, sizes["n_heads"], sizes["qkv_bias"]
        )
        self.think = FeedForward(sizes)
        self.before = nn.ModuleList([LayerNorm(n), LayerNorm(n)])
        self.p = p

    def forward(self, x):
        for norm, part in zip(self.before, (self.look, self.think), strict=True):
            x = x + F.dropout(part(norm(x)), self.p, self.training)
        return x


class GPTModel(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        n = sizes["emb_dim"]
        self.words = nn.Parameter(torch.randn(sizes["vocab_size"], n) * 0.02)
        self.places = nn.Parameter(torch.randn(sizes["context_length"], n) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(sizes) for _ in range(sizes["n_layers"]))
        self.top = nn.Linear(n, sizes["vocab_size"], bias=False)
        self.end = LayerNorm(n)
        self.p = sizes["drop_rate"]

    def forward(self, ids):
        x = F.dropout(self.words[ids] + self.places[: ids.size(1)], self.p, self.training)
        for block in self.blocks:
            x = block(x)
        return self.top(self.end(x))


@torch.inference_mode()
def generate_text_simple(net, ids, count, window):
    room = torch.cat([ids, ids.new_zeros(len(ids), count)], dim=1)
    for end in range(ids.size(1), room.size(1)):
        room[:, end] = net(room[:, max(0, end - window) : end])[:, -1].argmax(-1)
    return room
