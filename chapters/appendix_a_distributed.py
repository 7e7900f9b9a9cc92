"""Appendix A.9.3: the small network, trained in several processes at once.

With two processes, on processors or on two GPUs of one machine:

    torchrun --nproc-per-node 2 chapters/appendix_a_distributed.py

In one process, for comparison or a first look (also as a notebook):

    python chapters/appendix_a_distributed.py

It takes a few seconds and downloads nothing.
"""

# %% [markdown]
# # Training in several processes
#
# Each process has a copy of the network and its own part of the data. After every backward pass the
# processes average their gradients. So all take the same step, and the copies stay equal, as if a
# single process had seen all the batches together as one.

# %%
import gc
import os
import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from llm_scratch.appendix_a import NeuralNetwork, ToyDataset, compute_accuracy
from llm_scratch.chapter import settings

args = settings(__doc__, epochs=3)

# %% [markdown]
# ## Who am I, and how many are we?
#
# `torchrun` starts the processes and tells each one who it is by setting environment variables.
# Without it, none of them is set and this is the only process. If only some are set, the setup is
# wrong. Waiting for processes that never come would be the worst answer.

# %%
VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def read_place() -> tuple[int, int, int]:
    """Return this process's rank, its rank on this machine, and the number of processes."""
    found = [name for name in VARIABLES if name in os.environ]
    if not found:
        return 0, 0, 1
    if missing := [name for name in VARIABLES if name not in found]:
        raise ValueError(
            f"{', '.join(found)} set but not {', '.join(missing)}: start with torchrun, which sets "
            "all of them, or unset them for one process"
        )
    return tuple(int(os.environ[name]) for name in VARIABLES[:3])


# %% [markdown]
# ## Introducing the processes to each other
#
# GPUs talk through NCCL, CPUs through gloo. Windows only has gloo, and most PyTorch builds for it
# lack libuv. A single process needs no group.


# %%
def pick_backend(world_size: int) -> tuple[str, str]:
    """Return the backend ("nccl" or "gloo") and the device ("cuda" or "cpu")."""
    has_gpus = torch.cuda.is_available() and torch.cuda.device_count() >= world_size
    if not has_gpus or not dist.is_nccl_available():
        return "gloo", "cpu"
    return "nccl", "cuda"


def ddp_setup(rank: int, world_size: int, local_rank: int = 0) -> torch.device:
    """Join the group of all processes and return this one's device."""
    backend, kind = pick_backend(int(os.environ.get("LOCAL_WORLD_SIZE", world_size)))
    device = torch.device(kind, local_rank) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(device)
    if world_size > 1:
        if sys.platform == "win32":
            os.environ.setdefault("USE_LIBUV", "0")
        dist.init_process_group(backend, rank=rank, world_size=world_size)
    return device


# %% [markdown]
# ## A share of the data for each
#
# The sampler deals the examples out like cards. All processes must take the same number of steps,
# or one would wait for the others for ever. So where the examples don't divide evenly, the sampler
# repeats some from the beginning. It does its own shuffling, and the order changes from epoch to
# epoch only if the sampler is told the epoch.


# %%
def prepare_dataset(rank: int, world_size: int) -> tuple[DataLoader, DataLoader]:
    """Return loaders of this process's share of the training examples, and of all test examples."""
    X_train = torch.tensor([[-1.2, 3.1], [-0.9, 2.9], [-0.5, 2.6], [2.3, -1.1], [2.7, -1.5]])
    train_ds = ToyDataset(X_train, torch.tensor([0, 0, 0, 1, 1]))
    test_ds = ToyDataset(torch.tensor([[-0.8, 2.8], [2.6, -1.6]]), torch.tensor([0, 1]))
    sampler = DistributedSampler(train_ds, num_replicas=world_size, rank=rank, seed=123)
    train_loader = DataLoader(train_ds, batch_size=2, sampler=sampler)
    return train_loader, DataLoader(test_ds, batch_size=2)


# %% [markdown]
# ## The training loop
#
# This is the loop of A.7 with three additions. The network is wrapped, which takes care of the
# averaging. The sampler is told the epoch. And at the end the processes say goodbye.


# %%
def average(value: Tensor, world_size: int) -> Tensor:
    """Return the mean of a tensor over all processes, as a new tensor."""
    total = value.detach().clone()
    if world_size > 1:
        dist.all_reduce(total)
    return total / world_size


def say(line: str) -> None:
    """Print a line in one piece, so that the lines of two processes don't get mixed."""
    print(f"{line}\n", end="", flush=True)


def train(model: nn.Module, loader: DataLoader, device: torch.device, rank: int) -> None:
    """Train for some epochs and print the loss of each of this process's batches."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for epoch in range(args.epochs):
        loader.sampler.set_epoch(epoch)
        model.train()
        for features, labels in loader:
            features, labels = features.to(device), labels.to(device)
            loss = F.cross_entropy(model(features), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            say(
                f"[Process {rank}] Epoch: {epoch + 1:03d}/{args.epochs:03d}"
                f" | Batch size {len(labels):03d} | Train Loss: {loss:.2f}"
            )


def main(rank: int, world_size: int, local_rank: int = 0) -> None:
    """Train in this process together with the others; the first one reports."""
    device = ddp_setup(rank, world_size, local_rank)
    train_loader, test_loader = prepare_dataset(rank, world_size)
    torch.manual_seed(123)
    network = NeuralNetwork(num_inputs=2, num_outputs=2).to(device)
    model = DistributedDataParallel(network) if world_size > 1 else network
    train(model, train_loader, device, rank)

    own_accuracy = compute_accuracy(network, train_loader, device)
    train_accuracy = average(torch.tensor(own_accuracy, device=device), world_size)
    weights = nn.utils.parameters_to_vector(network.parameters())
    same = torch.allclose(weights, average(weights, world_size))
    if rank == 0:
        say(f"Processes: {world_size}, on {device.type}")
        say(f"Training accuracy, averaged over the processes: {train_accuracy.item()}")
        say(f"Test accuracy: {compute_accuracy(network, test_loader, device)}")
        say(f"All copies of the network are the same: {same}")
    if world_size > 1:
        # The wrapper is part of a reference cycle and keeps the group alive. If it lived until the
        # interpreter exits, the group's threads would still be running when they are torn down.
        del model, network
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()


# %%
rank, local_rank, world_size = read_place()
if world_size == 1:
    print("One process; torchrun --nproc-per-node 2 chapters/appendix_a_distributed.py uses two")
main(rank, world_size, local_rank)
