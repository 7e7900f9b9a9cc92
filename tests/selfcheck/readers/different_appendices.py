"""The same as appendices D and E, right, and written as differently as can be."""

import copy
import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn


def find_highest_gradient(net):
    """Without the sign, over one long vector."""
    gradients = [p.grad.reshape(-1) for p in net.parameters() if p.grad is not None]
    return torch.cat(gradients).norm(p=math.inf).item()


def _rates(count, rising, low, high, end):
    """All rates at once; the peak is the last of warm-up, and the last one of all is `end`."""
    up = torch.linspace(low, high, rising + 1)[1:].tolist()
    turns = torch.linspace(0, math.pi, count - rising + 1)[1:].tolist()
    return up + [(high + end) / 2 + (high - end) / 2 * math.cos(turn) for turn in turns]


@torch.no_grad()
def _mean_loss(net, pairs):
    net.eval()
    losses = [F.cross_entropy(net(x).mT, y).item() for x, y in pairs]
    net.train()
    return sum(losses) / len(losses)


def train_model(
    net, data, held_out, opt, where, epochs, every, few, prompt, tok, rising, low=3e-5, end=1e-6
):
    """Clips from the first step on; needs no other function of the book."""
    rates = _rates(len(data) * epochs, rising, low, opt.param_groups[0]["lr"], end)
    told, seen = ([], [], []), 0
    net.train()
    for number, (x, y) in enumerate(itertools.chain.from_iterable([data] * epochs)):
        for group in opt.param_groups:
            group.update(lr=rates[number])
        F.cross_entropy(net(x.to(where)).mT, y.to(where)).backward()
        with torch.no_grad():
            gradients = [p.grad for p in net.parameters() if p.grad is not None]
            norm = sum(float(g.square().sum()) for g in gradients) ** 0.5
            for gradient in gradients:
                gradient /= max(norm, 1.0)
        opt.step()
        opt.zero_grad()
        seen += x.shape[0] * x.shape[1]
        if number % every == 0:
            looks = (_mean_loss(net, itertools.islice(part, few)) for part in (data, held_out))
            for kept, value in zip(told, (*looks, seen), strict=True):
                kept.append(value)
    return *told, torch.tensor(rates)


class LoRALayer(nn.Module):
    """Two linear layers, so that both matrices lie the other way round."""

    def __init__(self, wide, out, thin, weight):
        super().__init__()
        self.down = nn.Linear(wide, thin, bias=False)
        self.up = nn.Linear(thin, out, bias=False)
        nn.init.zeros_(self.up.weight)
        self.register_buffer("factor", torch.tensor(weight / thin))

    def forward(self, x):
        return self.up(self.down(self.factor * x))


class LinearWithLoRA(nn.Module):
    """A frozen copy of the layer, with the change kept in this module itself."""

    def __init__(self, layer, thin, weight):
        super().__init__()
        self.base = copy.deepcopy(layer).requires_grad_(False)
        self.change = nn.ParameterList(
            [torch.randn(thin, layer.in_features), torch.zeros(layer.out_features, thin)]
        )
        self.factor = weight / thin

    def forward(self, x):
        down, up = self.change
        return torch.einsum("...i,ri,or->...o", x, down, up) * self.factor + self.base(x)


class LinearWithLoRAMerged(LinearWithLoRA):
    def forward(self, x):
        down, up = self.change
        y = x @ torch.addmm(self.base.weight, up, down, alpha=self.factor).T
        return y if self.base.bias is None else y + self.base.bias


def replace_linear_with_lora(net, thin, weight):
    """Over a list of all layers, and the model comes back."""
    for path, layer in list(net.named_modules()):
        if type(layer) is nn.Linear:
            place, _, name = path.rpartition(".")
            net.get_submodule(place)._modules[name] = LinearWithLoRA(layer, thin, weight)
    return net
