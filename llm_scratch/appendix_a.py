"""The small network of the book's introduction to PyTorch (appendix A)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from llm_scratch.checks import check_count
from llm_scratch.model.modes import evaluation_mode


class NeuralNetwork(nn.Module):
    """Two hidden layers of 30 and 20 units with ReLU: (B, num_inputs) -> (B, num_outputs) logits.

    Args:
        num_inputs: width of an example.
        num_outputs: N, number of classes.

    Source:
        Book A.5.
    """

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        check_count("num_inputs", num_inputs)
        check_count("num_outputs", num_outputs)
        self.layers = nn.Sequential(
            nn.Linear(num_inputs, 30),
            nn.ReLU(),
            nn.Linear(30, 20),
            nn.ReLU(),
            nn.Linear(20, num_outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Score every class: (B, num_inputs) -> (B, num_outputs)."""
        return self.layers(x)


class ToyDataset(Dataset[tuple[Tensor, Tensor]]):
    """Examples and their classes: item i is (X[i], y[i]).

    Args:
        X: features, one example per row.
        y: the class of each example.

    Raises:
        ValueError: if the two differ in length.

    Source:
        Book A.6.
    """

    def __init__(self, X: Tensor, y: Tensor) -> None:
        if len(X) != len(y):
            raise ValueError(f"{len(X)} examples and {len(y)} classes; give one class for each")
        self.features = X
        self.labels = y

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.features[index], self.labels[index]

    def __len__(self) -> int:
        return len(self.labels)


@torch.no_grad()
def compute_accuracy(
    model: nn.Module,
    dataloader: Iterable[tuple[Tensor, Tensor]],
    device: torch.device | str | None = None,
) -> float:
    """Return the share of examples whose most likely class is correct, 0.0 to 1.0.

    The model keeps the mode it was in (the book leaves it in eval mode).

    Args:
        model: maps (B, ...) features to (B, N) logits.
        dataloader: yields (features, classes).
        device: where the batches are moved to; None leaves them where they are.

    Raises:
        ValueError: if the loader yields no examples.

    Source:
        Book A.7 and A.9.2.
    """
    correct = total = 0
    with evaluation_mode(model):
        for features, labels in dataloader:
            features, labels = features.to(device), labels.to(device)
            correct += int((model(features).argmax(dim=1) == labels).sum())
            total += len(labels)
    if not total:
        raise ValueError("the loader yields no examples, so there is no accuracy")
    return correct / total
