"""Appendix A: PyTorch, from a single number to a small network that learns.

Run it with

    python chapters/appendix_a_pytorch.py

It takes two seconds and downloads nothing. The trained network is saved in the folder that --out
names.
"""

# %% [markdown]
# # Appendix A: an introduction to PyTorch
#
# All other chapters rest on four things. Tensors hold numbers. Autograd works out how a result
# changes with each number that went into it. Layers are assembled into networks. Loaders deliver
# the data in batches. Here they are one by one, small enough to check by hand.

# %%
import time
from pathlib import Path

import numpy as np
import torch
from torch.autograd import grad
from torch.nn import functional as F
from torch.utils.data import DataLoader

from llm_scratch.appendix_a import NeuralNetwork, ToyDataset, compute_accuracy
from llm_scratch.chapter import settings
from llm_scratch.model.device import pick_device

args = settings(__doc__)

# %% [markdown]
# ## A.1 Is everything here?
#
# Exercises A.1 and A.2 ask for an environment in which PyTorch runs. `llm-scratch doctor` checks
# all of it. These are the two lines that matter most:

# %%
print("torch version:", torch.__version__)
print("CUDA device here:", torch.cuda.is_available())

# %% [markdown]
# ## A.2 Tensors
#
# ### A.2.1 From one number to a box of numbers
#
# A tensor has any number of dimensions: none for a single number, one for a row of numbers, two for
# a table, three for a stack of tables.

# %%
tensor0d = torch.tensor(1)
tensor1d = torch.tensor([1, 2, 3])
tensor2d = torch.tensor([[1, 2], [3, 4]])
tensor3d = torch.tensor([[[1, 2], [3, 4]], [[5, 6], [7, 8]]])
for tensor in (tensor0d, tensor1d, tensor2d, tensor3d):
    print(f"{tensor.dim()} dimensions, shape {tuple(tensor.shape)}")

# %% [markdown]
# `torch.tensor` copies its argument. `torch.from_numpy` shares the array's memory, so a change in
# the array shows up in the tensor.

# %%
array = np.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]])
copied = torch.tensor(array)
shared = torch.from_numpy(array)
array[0, 0, 0] = 999
print("Copied:", copied)
print("Shared:", shared)

# %% [markdown]
# ### A.2.2 Types of numbers
#
# Whole numbers become 64-bit integers, and fractions become 32-bit floats (NumPy would use 64
# bits). Networks compute in 32 bits or fewer: 64 cost twice the memory and time, and hardly help.

# %%
tensor1d = torch.tensor([1, 2, 3])
print(tensor1d.dtype)

# %%
floatvec = torch.tensor([1.0, 2.0, 3.0])
print(floatvec.dtype)

# %%
floatvec = tensor1d.to(torch.float32)
print(floatvec.dtype)

# %% [markdown]
# ### A.2.3 The most common tensor operations
#
# Look at a shape, change it, swap rows and columns, multiply matrices.

# %%
tensor2d = torch.tensor([[1, 2, 3], [4, 5, 6]])
print(tensor2d)
print(tensor2d.shape)

# %% [markdown]
# `reshape` and `view` arrange the same six numbers differently. `view` never copies: where it would
# have to, it raises an error. `reshape` copies when it must.

# %%
print(tensor2d.reshape(3, 2))
print(tensor2d.view(3, 2))

# %% [markdown]
# Transposing is different: the numbers change places.

# %%
print(tensor2d.T)

# %%
print(tensor2d.matmul(tensor2d.T))
print(tensor2d @ tensor2d.T)

# %% [markdown]
# ## A.3 A computation as a graph
#
# One example with one feature, one weight and one bias is logistic regression at its smallest. The
# loss says how far the prediction is from the truth. PyTorch records the steps along the way.

# %%
y = torch.tensor([1.0])  # the truth
x1 = torch.tensor([1.1])  # the feature
w1 = torch.tensor([2.2])  # the weight
b = torch.tensor([0.0])  # the bias
z = x1 * w1 + b
a = torch.sigmoid(z)  # the prediction, between 0 and 1
loss = F.binary_cross_entropy(a, y)
print(loss)

# %% [markdown]
# ## A.4 Gradients without tears
#
# With `requires_grad=True`, PyTorch can walk the graph backwards and say how the loss changes with
# the weight and the bias. First, we ask for each gradient explicitly:

# %%
w1 = torch.tensor([2.2], requires_grad=True)
b = torch.tensor([0.0], requires_grad=True)
loss = F.binary_cross_entropy(torch.sigmoid(x1 * w1 + b), y)
slope_w1 = grad(loss, w1, retain_graph=True)
slope_b = grad(loss, b, retain_graph=True)
print(slope_w1)
print(slope_b)

# %% [markdown]
# The usual way is `backward`, which stores the gradient with each parameter.

# %%
loss.backward()
print(w1.grad)
print(b.grad)

# %% [markdown]
# The chain rule gives the same by hand. For this loss, the gradients are (a - y) times the feature
# for the weight, and (a - y) for the bias.

# %%
error = torch.sigmoid(x1 * w1 + b) - y
print("By hand:", (error * x1).item(), error.item())

# %% [markdown]
# ## A.5 A network of several layers
#
# `NeuralNetwork` has two hidden layers, each followed by ReLU. Without it, three linear layers in a
# row could do no more than one.

# %%
model = NeuralNetwork(50, 3)
print(model)

# %%
num_params = sum(p.numel() for p in model.parameters() if p.requires_grad)
print("Total number of trainable model parameters:", num_params)

# %% [markdown]
# Its weights start as small random numbers, different in every layer and unit. If they were equal,
# all units of a layer would learn the same thing. A seed makes them the same in every run.

# %%
torch.manual_seed(123)
model = NeuralNetwork(50, 3)
print(model.layers[0].weight)
print(model.layers[0].weight.shape)

# %% [markdown]
# One example goes in, and three scores come out, with a note of the last operation (`grad_fn`):

# %%
torch.manual_seed(123)
X = torch.rand((1, 50))
out = model(X)
print(out)

# %% [markdown]
# When nothing is to be learned, `no_grad` saves the bookkeeping. Softmax turns scores into
# probabilities.

# %%
with torch.no_grad():
    out = model(X)
print(out)

with torch.no_grad():
    out = torch.softmax(model(X), dim=1)
print(out)

# %% [markdown]
# ## A.6 Data in batches
#
# There are five examples for training and two for testing, in two classes that a child could tell
# apart.

# %%
X_train = torch.tensor([[-1.2, 3.1], [-0.9, 2.9], [-0.5, 2.6], [2.3, -1.1], [2.7, -1.5]])
y_train = torch.tensor([0, 0, 0, 1, 1])
X_test = torch.tensor([[-0.8, 2.8], [2.6, -1.6]])
y_test = torch.tensor([0, 1])

train_ds = ToyDataset(X_train, y_train)
test_ds = ToyDataset(X_test, y_test)
print(len(train_ds))

# %% [markdown]
# A loader shuffles the examples and makes batches. Five examples in batches of two leave one over.

# %%
torch.manual_seed(123)
train_loader = DataLoader(train_ds, batch_size=2, shuffle=True)
test_loader = DataLoader(test_ds, batch_size=2, shuffle=False)
for idx, (x, y) in enumerate(train_loader):
    print(f"Batch {idx + 1}:", x, y)

# %% [markdown]
# A last batch that is much smaller than the others can disturb training, so it is dropped.

# %%
train_loader = DataLoader(train_ds, batch_size=2, shuffle=True, drop_last=True)
for idx, (x, y) in enumerate(train_loader):
    print(f"Batch {idx + 1}:", x, y)

# %% [markdown]
# ## A.7 The training loop
#
# Every training run in the book has this form: predict, measure the loss, clear the old gradients,
# compute the new ones, take a step. Three passes through the data are enough here.


# %%
def train(device: torch.device) -> NeuralNetwork:
    """Train a network for three epochs, print the loss of each batch, and return the network."""
    torch.manual_seed(123)
    model = NeuralNetwork(num_inputs=2, num_outputs=2).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    num_epochs = 3
    for epoch in range(num_epochs):
        model.train()
        for batch_idx, (features, labels) in enumerate(train_loader):
            features, labels = features.to(device), labels.to(device)
            loss = F.cross_entropy(model(features), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            print(
                f"Epoch: {epoch + 1:03d}/{num_epochs:03d}"
                f" | Batch {batch_idx:03d}/{len(train_loader):03d}"
                f" | Train Loss: {loss:.2f}"
            )
    return model.eval()


model = train(torch.device("cpu"))

# %%
with torch.no_grad():
    outputs = model(X_train)
print(outputs)

# %%
torch.set_printoptions(sci_mode=False)
probas = torch.softmax(outputs, dim=1)
print(probas)
predictions = torch.argmax(probas, dim=1)
print(predictions)

# %% [markdown]
# The largest score and the largest probability are at the same position, so softmax can be omitted.

# %%
predictions = torch.argmax(outputs, dim=1)
print(predictions)
print(predictions == y_train)
print(torch.sum(predictions == y_train))

# %% [markdown]
# `compute_accuracy` counts over a whole loader.

# %%
print(compute_accuracy(model, train_loader))
print(compute_accuracy(model, test_loader))

# %% [markdown]
# ## A.8 Saving and loading
#
# The file holds the state dict: a name and a tensor for each parameter. The class stays in the
# code. To load the file, build a network of the same sizes and fill it. `weights_only=True` refuses
# files that contain arbitrary Python objects.

# %%
path = Path(args.out) / "appendix-a-model.pth"
path.parent.mkdir(parents=True, exist_ok=True)
torch.save(model.state_dict(), path)
print("Saved:", path)

# %%
loaded = NeuralNetwork(2, 2)
print(loaded.load_state_dict(torch.load(path, weights_only=True)))
print("Accuracy of the loaded network:", compute_accuracy(loaded, test_loader))

# %% [markdown]
# ## A.9 Faster hardware
#
# ### A.9.1 Tensors on a device
#
# Tensors in one computation must be on the same device. This takes an NVIDIA GPU if there is one,
# and the CPU otherwise.

# %%
device = pick_device("auto")
print("Device:", device)
tensor_1 = torch.tensor([1.0, 2.0, 3.0])
tensor_2 = torch.tensor([4.0, 5.0, 6.0])
print(tensor_1 + tensor_2)
print(tensor_1.to(device) + tensor_2.to(device))

# %% [markdown]
# ### A.9.2 Training on it
#
# The loop needs just three calls of `.to(device)`: for the network, the features and the labels.
# The losses are the same.

# %%
model = train(device)
print(compute_accuracy(model, train_loader, device))
print(compute_accuracy(model, test_loader, device))

# %% [markdown]
# ### A.9.3 Training in several processes
#
# With several GPUs, each gets its own process and its own share of the data. A notebook can't show
# that, so it is in a separate script, which also runs on CPUs alone:
#
#     torchrun --nproc-per-node 2 chapters/appendix_a_distributed.py
#
# ## Exercise A.3: how many parameters does the small network have?
#
# There are 2 x 30 + 30 in the first layer, 30 x 20 + 20 in the second and 20 x 2 + 2 in the last.

# %%
model = NeuralNetwork(2, 2)
num_params = sum(p.numel() for p in model.parameters() if p.requires_grad)
print("Total number of trainable model parameters:", num_params)
print("By hand:", (2 * 30 + 30) + (30 * 20 + 20) + (20 * 2 + 2))

# %% [markdown]
# ## Exercise A.4: how long does a matrix product take?
#
# We take the shortest of many runs, since anything else that the machine does only adds time. A GPU
# works in the background while Python continues, so the clock has to wait for it. With matrices as
# small as these, a GPU may lose: launching the work takes longer than doing it.


# %%
def microseconds(device: torch.device, runs: int) -> float:
    """Return the shortest time, of `runs`, to multiply a 100 x 200 by a 200 x 300 matrix."""
    first, second = torch.rand(100, 200, device=device), torch.rand(200, 300, device=device)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        first @ second
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times) * 1e6


runs = 100 if args.quick else 1000
for place in dict.fromkeys((torch.device("cpu"), device)):
    print(f"{place}: {microseconds(place, runs):.1f} microseconds")
