"""Every figure of book appendix A, computed with this library."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from book_figures import Chapter
from torch.nn import functional as F
from torch.utils.data import DataLoader

from llm_scratch.appendix_a import NeuralNetwork, ToyDataset, compute_accuracy
from llm_scratch.model.device import pick_device

figure = Chapter("appA")

TENSOR_2D = torch.tensor([[1, 2, 3], [4, 5, 6]])
X_TRAIN = torch.tensor([[-1.2, 3.1], [-0.9, 2.9], [-0.5, 2.6], [2.3, -1.1], [2.7, -1.5]])
Y_TRAIN = torch.tensor([0, 0, 0, 1, 1])
X_TEST = torch.tensor([[-0.8, 2.8], [2.6, -1.6]])
Y_TEST = torch.tensor([0, 1])
TRAINING_SET = ToyDataset(X_TRAIN, Y_TRAIN)
TEST_SET = ToyDataset(X_TEST, Y_TEST)


def training_loader(drop_last: bool) -> DataLoader:
    return DataLoader(TRAINING_SET, batch_size=2, shuffle=True, drop_last=drop_last)


def seeded_network(num_inputs: int, num_outputs: int) -> NeuralNetwork:
    torch.manual_seed(123)
    return NeuralNetwork(num_inputs, num_outputs)


def trained(device: torch.device) -> SimpleNamespace:
    """The network after three epochs, and the loss of each of its batches, with two decimals."""
    model = seeded_network(2, 2).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loader = training_loader(drop_last=True)
    losses = []
    for _ in range(3):
        for features, labels in loader:
            loss = F.cross_entropy(model(features.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(round(loss.item(), 2))
    return SimpleNamespace(model=model, losses=losses)


@pytest.fixture(scope="module")
def on_cpu():
    return trained(torch.device("cpu"))


@pytest.fixture(scope="module")
def on_device():
    return trained(pick_device("auto"))


@pytest.fixture(scope="module")
def logits(on_cpu):
    with torch.no_grad():
        return on_cpu.model.eval()(X_TRAIN)


@figure("appA.numpy.shared")
def tensor_that_shares_memory():
    array = np.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]])
    view = torch.from_numpy(array)
    array[0, 0, 0] = 999
    return view


@figure("appA.dtypes")
def types_of_numbers():
    whole, fractions = torch.tensor([1, 2, 3]), torch.tensor([1.0, 2.0, 3.0])
    return [whole.dtype, fractions.dtype, whole.to(torch.float32).dtype]


@figure("appA.tensor2d")
def tensor_2d():
    return TENSOR_2D


@figure("appA.tensor2d.shape")
def tensor_2d_shape():
    return TENSOR_2D.shape


@figure("appA.tensor2d.reshape")
def tensor_2d_reshaped():
    assert torch.equal(TENSOR_2D.reshape(3, 2), TENSOR_2D.view(3, 2))
    return TENSOR_2D.reshape(3, 2)


@figure("appA.tensor2d.transpose")
def tensor_2d_transposed():
    return TENSOR_2D.T


@figure("appA.tensor2d.matmul")
def tensor_2d_product():
    return TENSOR_2D @ TENSOR_2D.T


def logistic_regression() -> SimpleNamespace:
    """A loss with one weight and one bias, and its gradients."""
    w1 = torch.tensor([2.2], requires_grad=True)
    b = torch.tensor([0.0], requires_grad=True)
    loss = F.binary_cross_entropy(torch.sigmoid(torch.tensor([1.1]) * w1 + b), torch.tensor([1.0]))
    loss.backward()
    return SimpleNamespace(loss=loss, grad_w1=w1.grad.item(), grad_b=b.grad.item())


@figure("appA.graph.loss")
def loss_of_one_example():
    return logistic_regression().loss


@figure("appA.autograd.grad_w1")
def gradient_of_the_weight():
    return logistic_regression().grad_w1


@figure("appA.autograd.grad_b")
def gradient_of_the_bias():
    return logistic_regression().grad_b


def trainable(model: NeuralNetwork) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@figure("appA.mlp.params")
def parameters():
    return trainable(NeuralNetwork(50, 3))


@figure("appA.mlp.weight0_corners")
def first_weights():
    return seeded_network(50, 3).layers[0].weight


@figure("appA.mlp.output")
def output_for_random_input():
    model = seeded_network(50, 3)
    torch.manual_seed(123)
    return model(torch.rand((1, 50)))


@figure("appA.toy.len")
def training_examples():
    return len(TRAINING_SET)


def features_of(loader: DataLoader) -> list[torch.Tensor]:
    return [features for features, _ in loader]


@figure("appA.loader.keep_last_features")
def batches_with_the_last_one():
    torch.manual_seed(123)
    return features_of(training_loader(drop_last=False))


@figure("appA.loader.drop_last")
def batches_without_the_last_one():
    torch.manual_seed(123)
    features_of(training_loader(drop_last=False))
    return features_of(training_loader(drop_last=True))


@figure("appA.train.losses")
def losses(on_cpu):
    return on_cpu.losses


@figure("appA.train.logits")
def trained_logits(logits):
    return logits


@figure("appA.train.probas")
def trained_probabilities(logits):
    return logits.softmax(dim=1)


@figure("appA.train.predictions")
def predictions(logits):
    return logits.argmax(dim=1)


@figure("appA.train.correct")
def correct_predictions(logits):
    return (logits.argmax(dim=1) == Y_TRAIN).sum()


def accuracies(model: NeuralNetwork, device: torch.device | None = None) -> list[float]:
    loaders = training_loader(drop_last=True), DataLoader(TEST_SET, batch_size=2)
    return [compute_accuracy(model, loader, device) for loader in loaders]


@figure("appA.train.accuracy")
def accuracy(on_cpu):
    return accuracies(on_cpu.model)


@figure("appA.part2.add")
def sum_on_a_device():
    device = pick_device("auto")
    first, second = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0, 6.0])
    return first.to(device) + second.to(device)


@figure("appA.part2.losses")
def losses_on_a_device(on_device):
    return on_device.losses


@figure("appA.part2.accuracy")
def accuracy_on_a_device(on_device):
    return accuracies(on_device.model, pick_device("auto"))


@figure("appA.exA.3.params")
def parameters_of_the_small_network():
    return trainable(NeuralNetwork(2, 2))


@pytest.mark.parametrize("entry", figure.parameters())
def test_figure_comes_out_as_printed(entry, request):
    figure.check(entry, request)
