"""The small network of appendix A, its data and its accuracy."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llm_scratch.appendix_a import NeuralNetwork, ToyDataset, compute_accuracy


class Echo(nn.Module):
    """Takes its input for the logits."""

    def forward(self, x):
        return x


def test_neural_network_keys_and_layers_are_the_books():
    model = NeuralNetwork(50, 3)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes == {
        "layers.0.weight": (30, 50),
        "layers.0.bias": (30,),
        "layers.2.weight": (20, 30),
        "layers.2.bias": (20,),
        "layers.4.weight": (3, 20),
        "layers.4.bias": (3,),
    }


def test_neural_network_refuses_sizes_below_one():
    with pytest.raises(ValueError, match="num_inputs=0 must be 1 or more"):
        NeuralNetwork(0, 2)


def test_toy_dataset_gives_examples_with_their_classes():
    features, labels = torch.rand(5, 2), torch.arange(5)
    dataset = ToyDataset(features, labels)
    assert len(dataset) == 5
    for index in (0, 3, -1):
        example, label = dataset[index]
        assert torch.equal(example, features[index])
        assert label == labels[index]
    assert dataset.features is features
    assert dataset.labels is labels


def test_toy_dataset_refuses_other_numbers_of_classes():
    with pytest.raises(ValueError, match="3 examples and 2 classes"):
        ToyDataset(torch.rand(3, 2), torch.tensor([0, 1]))


def test_compute_accuracy_weighs_every_example_alike():
    logits = torch.eye(3)
    batches = [(logits, torch.tensor([0, 1, 0])), (logits[:1], torch.tensor([0]))]
    assert compute_accuracy(Echo(), batches) == 3 / 4


def test_compute_accuracy_leaves_the_mode_as_found():
    model = NeuralNetwork(2, 2)
    for training in (True, False):
        model.train(training)
        compute_accuracy(model, [(torch.rand(1, 2), torch.tensor([0]))], "cpu")
        assert model.training is training


def test_compute_accuracy_refuses_an_empty_loader():
    with pytest.raises(ValueError, match="no example"):
        compute_accuracy(Echo(), [])
