"""Appendix E: parameter-efficient fine-tuning with LoRA.

    python chapters/appendix_e_lora.py            a small model, made here: 2 to 3 minutes
    python chapters/appendix_e_lora.py --quick    a smaller one: less than a minute

Times are for two cores of a laptop. Nothing is downloaded: without the SMS Spam Collection it uses
messages that are part of this project, and without GPT-2's weights a small model that it pretrains
first. With both, the numbers are the book's, and it takes half an hour.
"""

# %%
import json
import math
import time
from copy import deepcopy
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from llm_scratch import chapter
from llm_scratch.finetuning.dpo_training import finetune_preferences, preference_score
from llm_scratch.finetuning.labelled_rows import create_balanced_dataset, random_split, read_sms
from llm_scratch.finetuning.preference_rows import (
    load_preferences,
    measure_reference,
    preference_rows,
)
from llm_scratch.finetuning.spam_classifier import (
    SpamDataset,
    calc_accuracy_loader,
    train_classifier_simple,
)
from llm_scratch.finetuning.text_classifier import replace_head
from llm_scratch.generation.decoding import generate_text_simple
from llm_scratch.lora.layers import (
    LinearWithLoRA,
    LoRALayer,
    freeze,
    lora_layers,
    merge_lora,
    replace_linear_with_lora,
    unmerge_lora,
)
from llm_scratch.lora.loading import load_adapter
from llm_scratch.lora.saving import save_adapter
from llm_scratch.model.config import gpt2_config
from llm_scratch.model.device import pick_device
from llm_scratch.model.gpt import GPTModel
from llm_scratch.plotting.learning import plot_values
from llm_scratch.text.corpora import find_data, load_text
from llm_scratch.text.token_rows import TokenRows
from llm_scratch.tokenizers.any_tokenizer import encode, text_to_token_ids, token_ids_to_text
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.gpt2 import END_OF_TEXT, GPT2Tokenizer
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.loop import train
from llm_scratch.weights.gpt2 import load_gpt2
from llm_scratch.weights.gpt2_files import find_gpt2

settings = chapter.settings(__doc__, epochs=5, device="auto")
device = pick_device(settings.device)
out = Path(settings.out)

# %% [markdown]
# # E.1 Introduction to LoRA
#
# Fine-tuning adds a change to every weight matrix: W becomes W + dW, and dW has as many numbers as
# W. LoRA (low-rank adaptation) bets that a good change is simple, and writes it as a product of two
# thin matrices: dW = A B. With rank 16, a 768 by 768 matrix is changed by 24,576 numbers instead of
# 589,824.
#
# W itself does not change, and since x (W + A B) = x W + x A B, the change can be computed beside
# it. So one model serves many tasks, each with a small file of its own. And the optimizer, which
# keeps two averages for each trained number, needs little memory.

# %%
width, rank = 768, 16
print(f"A whole change of one matrix: {width * width:,} numbers")
print(f"The same as a product of rank {rank}: {2 * width * rank:,} numbers")

# %% [markdown]
# # E.2 Preparing the dataset
#
# The task is that of chapter 6: spam or not? So is the data, which is balanced, split and padded in
# the same way.

# %%
try:
    path = find_data("SMSSpamCollection.tsv")
except FileNotFoundError:
    command = "llm-scratch fetch sms-spam"
    chapter.missing("The SMS Spam Collection", command, "continuing with our own messages")
    path = find_data("messages.tsv")
try:
    gpt2_folder = find_gpt2("124M")
except FileNotFoundError:
    gpt2_folder = None

balanced = create_balanced_dataset(read_sms(path))
if settings.quick:
    balanced = balanced[::2]
train_rows, val_rows, test_rows = random_split(balanced, 0.7, 0.1)

# %% [markdown]
# GPT-2 has its own tokenizer. A small model learns more from a small vocabulary, so without GPT-2
# one is built from the training messages and this project's story.

# %%
tokenizer = GPT2Tokenizer()
if gpt2_folder is None:
    story = load_text("the-tide-clock")
    tokenizer = BytePairTokenizer.train([*(text for _, text in train_rows), story], vocab_size=768)
(pad_id,) = encode(tokenizer, END_OF_TEXT)

train_dataset = SpamDataset(train_rows, tokenizer, pad_token_id=pad_id)
length = train_dataset.max_length
val_dataset = SpamDataset(val_rows, tokenizer, max_length=length, pad_token_id=pad_id)
test_dataset = SpamDataset(test_rows, tokenizer, max_length=length, pad_token_id=pad_id)

torch.manual_seed(123)
train_loader = DataLoader(train_dataset, batch_size=8, shuffle=True, drop_last=True)
val_loader = DataLoader(val_dataset, batch_size=8)
test_loader = DataLoader(test_dataset, batch_size=8)
input_batch, target_batch = list(train_loader)[-1]
print("Input batch dimensions:", input_batch.shape)
print("Label batch dimensions", target_batch.shape)
print(f"{len(train_loader)} training batches")
print(f"{len(val_loader)} validation batches")
print(f"{len(test_loader)} test batches")

# %% [markdown]
# # E.3 Initializing the model
#
# LoRA changes little, so the model has to know something already. It is GPT-2, or a small model
# that is first pretrained on our texts, as in chapter 5.


# %%
def pretrained():
    """Return a small model pretrained on the story and the messages, without their labels."""
    sizes = {"emb_dim": 64, "n_heads": 4, "n_layers": 2} if settings.quick else {
        "emb_dim": 128, "n_heads": 4, "n_layers": 4}  # fmt: skip
    sizes |= {"vocab_size": tokenizer.n_vocab, "context_length": 256, "drop_rate": 0.1}
    torch.manual_seed(123)
    model = GPTModel({**sizes, "qkv_bias": True, "tie_weights": True}).to(device)
    pages = encode(tokenizer, story)
    texts = [pages[i : i + 128] for i in range(0, len(pages), 128)]
    texts += [encode(tokenizer, text, "text")[:256] for _, text in train_rows]
    rows = [(ids, [*ids[1:], pad_id]) for ids in texts]
    data = TokenRows(rows, pad_id=pad_id, vocab_size=tokenizer.n_vocab)
    steps = 40 if settings.quick else 400
    run = TrainConfig(
        steps=steps,
        micro_batch=16 if settings.quick else 32,
        learning_rate=3e-3,
        log_every=steps // 4,
    )
    train(model, data, run)
    return model.eval()


start = time.perf_counter()
if gpt2_folder is None:
    chapter.missing("GPT-2 (124M), about 550 MB,", "llm-scratch weights fetch gpt2",
                    "pretraining a small model instead")  # fmt: skip
    base = pretrained()
else:
    base = load_gpt2(gpt2_folder, device=device, tie_weights=False)
print(f"{base.num_parameters():,} parameters, {time.perf_counter() - start:.0f} seconds")

prompt = text_to_token_ids("Every effort moves you", tokenizer).to(device)
token_ids = generate_text_simple(base, prompt, 15, context_size=base.cfg.context_length)
print(token_ids_to_text(token_ids, tokenizer))

# %% [markdown]
# The head for two classes is that of chapter 6. It is not trained yet, so its outputs are guesses.

# %%
model = deepcopy(base)
torch.manual_seed(123)
replace_head(model, num_classes=2, train="all")
with torch.no_grad():
    print("Outputs of the last token:", model(prompt)[:, -1, :])

loaders = {"Training": train_loader, "Validation": val_loader, "Test": test_loader}
torch.manual_seed(123)
for name, loader in loaders.items():
    print(f"{name} accuracy: {calc_accuracy_loader(loader, model, device, 10):.2%}")

# %% [markdown]
# # E.4 Parameter-efficient fine-tuning with LoRA
#
# The two matrices form a layer of their own. A starts from random numbers and B from zeros, so
# their product is zero: nothing changes until B has learned something. (If both were zero, neither
# would ever get a gradient.) The product is scaled by alpha / rank, so a different rank does not
# need a different alpha.

# %%
random_state = torch.get_rng_state()  # the examples here draw nothing that the training needs
lora = LoRALayer(in_dim=4, out_dim=3, rank=2, alpha=4)
print(lora, "scaled by", lora.scaling)
print("A:", lora.A.shape, "B:", lora.B.shape)
print("Its first output:", lora(torch.ones(1, 4)))

# %% [markdown]
# `LinearWithLoRA` puts it beside a linear layer and adds the outputs. At first, the sum equals the
# linear layer's output.

# %%
linear = torch.nn.Linear(4, 3)
print(
    torch.equal(
        LinearWithLoRA(linear, rank=2, alpha=4)(torch.ones(1, 4)), linear(torch.ones(4))[None]
    )
)
torch.set_rng_state(random_state)

# %% [markdown]
# `replace_linear_with_lora` does that for every linear layer of a model, the head included. The
# existing parameters are frozen first, so that only the new matrices are trained.

# %%
print(f"Total trainable parameters before: {model.num_parameters(trainable_only=True):,}")
freeze(model)
print(f"Total trainable parameters after: {model.num_parameters(trainable_only=True):,}")
replace_linear_with_lora(model, rank=16, alpha=16)
print(f"Total trainable LoRA parameters: {model.num_parameters(trainable_only=True):,}")

# %% [markdown]
# The book's model is GPT-2 with 124 million parameters. Counting needs no weights:

# %%
random_state = torch.get_rng_state()
counted = replace_head(GPTModel.empty(gpt2_config("124M")), num_classes=2, train="all")
print(f"Total trainable parameters before: {counted.num_parameters(trainable_only=True):,}")
replace_linear_with_lora(counted, rank=16, alpha=16, freeze_base=True)
share = counted.num_parameters(trainable_only=True)
print(f"Total trainable LoRA parameters: {share:,}, {share / 124_441_346:.1%} of them")
del counted
torch.set_rng_state(random_state)

# %%
print(model.trf_blocks[0].att)

# %% [markdown]
# With B at zero, the accuracies are exactly those from before.

# %%
torch.manual_seed(123)
for name, loader in loaders.items():
    print(f"{name} accuracy: {calc_accuracy_loader(loader, model, device, 10):.2%}")

# %% [markdown]
# The training is that of chapter 6. The rate is higher than for a whole model, because the new
# matrices start from nothing and have far to go.

# %%
rate = 8e-4 if gpt2_folder else 3e-3
epochs = 3 if settings.quick else settings.epochs
start = time.perf_counter()
torch.manual_seed(123)
optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.1)
train_losses, val_losses, _, _, examples_seen = train_classifier_simple(
    model, train_loader, val_loader, optimizer, device, epochs, eval_freq=50, eval_iter=5
)
model.eval()
print(f"Training completed in {(time.perf_counter() - start) / 60:.2f} minutes.")

# %%
epochs_seen = torch.linspace(0, epochs, len(train_losses))
examples = torch.linspace(0, examples_seen, len(train_losses))
chapter.show(
    settings, "appendix-e-loss", plot_values, epochs_seen, examples, train_losses, val_losses,
    label="loss",
)  # fmt: skip

# %%
for name, loader in loaders.items():
    print(f"{name} accuracy: {calc_accuracy_loader(loader, model, device):.2%}")

# %% [markdown]
# # Beyond the book: adapters on disk
#
# The trained matrices are small and can be saved without the base model, as an adapter.
# `save_adapter` writes it in the format of the PEFT library, which can load it too. The head is
# new, so it is saved as well. The file's header holds a fingerprint of the base.

# %%
folder = save_adapter(model, out / "appendix-e-adapter", tokenizer)
size = sum(path.stat().st_size for path in folder.glob("adapter_*"))
print(
    f"The adapter: {size / 1e6:.2f} MB; the whole model: {model.num_parameters() * 4 / 1e6:.1f} MB"
)

fresh = deepcopy(base)  # still a language model, without a head for classes
load_adapter(fresh, folder)
with torch.no_grad():
    print("The same answers:", torch.allclose(fresh(prompt), model(prompt), atol=1e-5))

# %% [markdown]
# On another base it would be nonsense. The error says what differs.

# %%
other = deepcopy(base)
with torch.no_grad():
    other.trf_blocks[1].norm1.scale[0] += 0.01
try:
    load_adapter(other, folder)
except ValueError as error:
    print(str(error).partition(": ")[2])

# %% [markdown]
# # Beyond the book: merging
#
# Two parallel paths cost time at every token. `merge_lora` adds the product to the weights. The
# sums are taken in a different order, so the last digit may differ. `unmerge_lora` restores the
# base exactly, since its weights were never touched.

# %%
with torch.no_grad():
    before = model(prompt)
    merge_lora(model)
    print(f"Largest difference when merged: {(model(prompt) - before).abs().max():.1e}")
    unmerge_lora(model)
    print("Unmerged, the outputs are equal:", torch.equal(model(prompt), before))

# %% [markdown]
# With `unwrap=True` the LoRA layers are removed and a plain model is left. `save_model` accepts it,
# and it generates as fast as any other.

# %%
merge_lora(model, unwrap=True)
print(f"{len(lora_layers(model))} LoRA layers are left:", model.trf_blocks[0].att.W_query)

# %% [markdown]
# # Beyond the book: which layers, and what rank?
#
# `targets` names the layers. One epoch shows how far a fraction of the numbers gets.


# %%
def accuracy_with(targets, rank):
    """Return the number of trained numbers and the validation accuracy after one epoch."""
    torch.manual_seed(123)
    model = replace_head(deepcopy(base), 2)
    replace_linear_with_lora(model, rank, alpha=rank, targets=targets, freeze_base=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.1)
    train_classifier_simple(
        model, train_loader, val_loader, optimizer, device, 1, 10**6, 1, log=lambda line: None
    )
    count = model.num_parameters(trainable_only=True)
    return count, calc_accuracy_loader(val_loader, model, device)


if gpt2_folder is None:
    for targets, rank in (
        (["W_query", "W_value", "out_head"], 1),
        (["ff", "out_head"], 4),
        (None, 16),
    ):
        count, accuracy = accuracy_with(targets, rank)
        print(f"{targets or 'all layers'}, rank {rank}: {count:,} numbers, {accuracy:.1%}")

# %% [markdown]
# # Beyond the book: preference tuning
#
# Instructions (chapter 7) teach what to answer. Preferences teach which of two answers is better:
# for each prompt, one is marked as chosen and one as rejected. Direct preference optimisation (DPO)
# makes the chosen answer likelier and the rejected one less likely, relative to a reference: the
# model before training. The reference's log-probabilities never change, so they are computed once
# and no second model has to stay in memory.

# %%
pairs = load_preferences(find_data("preferences.json"))
print(json.dumps(pairs[0], indent=1, ensure_ascii=False))
held_out = pairs[::6]
learned_from = [pair for number, pair in enumerate(pairs) if number % 6]

policy = deepcopy(base)
torch.manual_seed(123)
replace_linear_with_lora(policy, 8, 16, targets="trf_blocks", freeze_base=True)
rows = preference_rows(held_out, tokenizer, length=policy.cfg.context_length)
measure_reference(policy, rows)
score = preference_score(policy, rows)
print(f"Before: loss {score.loss:.4f} (ln 2 = {math.log(2):.4f}), margin {score.margin:.2f}")

# %%
steps = 18 if settings.quick else 120
run = TrainConfig(
    steps=steps, micro_batch=4, learning_rate=2e-3 if gpt2_folder is None else 1e-4,
    eval_every=steps // 3, log_every=0,
)  # fmt: skip
finetune_preferences(policy, tokenizer, learned_from, held_out, run, beta=0.1)
score = preference_score(policy, rows)
print(
    f"After: loss {score.loss:.4f}, margin {score.margin:.2f} nats; the chosen answer has gained "
    f"in {score.accuracy:.0%} of the held-out pairs"
)
