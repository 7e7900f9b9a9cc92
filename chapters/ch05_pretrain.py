"""Chapter 5: pretraining on unlabeled data.

    python chapters/ch05_pretrain.py            a small model on our own story: 1 to 2 minutes
    python chapters/ch05_pretrain.py --book     the book's model and settings: 10 to 20 minutes
    python chapters/ch05_pretrain.py --quick    a smaller model, one epoch: less than a minute
    python chapters/ch05_pretrain.py --full     the same, exercise 5.4 too: 2 minutes more

Times are for two cores of a laptop. Nothing is downloaded. The book's model is also used if the
book's story is found. It needs 4 GB of memory and, saved with its optimizer, 2 GB of disk under
--out. On our own story it trains for 7 epochs instead of 10. --epochs N sets the number.
"""

# %%
import math
import time
from pathlib import Path

import torch
from tqdm import tqdm

from llm_scratch import chapter
from llm_scratch.generation.decoding import generate, generate_text_simple
from llm_scratch.generation.sampling import keep_top_k, next_probabilities
from llm_scratch.model.config import GPT_CONFIG_124M
from llm_scratch.model.device import pick_device
from llm_scratch.model.gpt import GPTModel
from llm_scratch.plotting.choices import plot_sampling, plot_temperatures
from llm_scratch.plotting.learning import plot_losses
from llm_scratch.text.windows import create_dataloader_v1, split_text
from llm_scratch.tokenizers.any_tokenizer import text_to_token_ids, token_ids_to_text
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer
from llm_scratch.training.losses import calc_loss_batch, calc_loss_loader
from llm_scratch.training.simple import load_checkpoint, save_checkpoint, train_model_simple
from llm_scratch.weights.gpt2 import load_gpt2
from llm_scratch.weights.gpt2_files import find_gpt2

settings = chapter.settings(__doc__, book=False, epochs=0, full=False, device="auto")
title, text_data = chapter.story()
books_story = "Verdict" in title

SMALL = {"emb_dim": 64, "n_heads": 4, "n_layers": 2}
evaluation = {"eval_freq": 5, "eval_iter": 5}
if settings.quick:
    config = {**GPT_CONFIG_124M, **SMALL, "context_length": 64}
    epochs, learning_rate, evaluation = 1, 4e-3, {"eval_freq": 5, "eval_iter": 2}
    print("A small model (--quick): its numbers are not the book's.")
elif settings.book or settings.full or books_story:
    config = {**GPT_CONFIG_124M, "context_length": 256}
    epochs, learning_rate = 10 if books_story else 7, 4e-4
else:
    sizes = {"emb_dim": 128, "n_heads": 4, "n_layers": 4, "context_length": 128}
    config = {**GPT_CONFIG_124M, **sizes}
    epochs, learning_rate, evaluation = 15, 2e-3, {"eval_freq": 20, "eval_iter": 5}
    print("A small model: its numbers are not the book's; --book uses the book's model.")
epochs = settings.epochs or epochs

context_length = config["context_length"]
device = pick_device(settings.device)
tokenizer = GPT2Tokenizer()

# %% [markdown]
# # 5.1 Evaluating generative text models
#
# A newly built model has seen nothing. This section measures how bad it is, with a number that
# training can then push down.
#
# ## 5.1.1 Using GPT to generate text
#
# The book's model is the one of chapter 4 with one change: a context of 256 instead of 1,024
# tokens, so that a laptop can train it. Without the book's story, this script uses a smaller model.
# `text_to_token_ids` and `token_ids_to_text` convert text to ids and back. The output is noise: 10
# of 50,257 tokens, chosen by random weights.

# %%
torch.manual_seed(123)
model = GPTModel(config).to(device)
model.eval()

start_context = "Every effort moves you"
prompt = text_to_token_ids(start_context, tokenizer).to(device)
token_ids = generate_text_simple(model, prompt, max_new_tokens=10, context_size=context_length)
print("Output text:\n", token_ids_to_text(token_ids, tokenizer))

# %% [markdown]
# ## 5.1.2 Calculating the text generation loss
#
# The targets are the inputs shifted by one token: after "every effort moves" comes "you". Softmax
# turns each row of logits into a probability for every token of the vocabulary, and the likeliest
# token is the model's answer. It is wrong everywhere.

# %%
# "every effort moves" and "I really like"; their targets end with " you" and " chocolate".
inputs = torch.tensor([[16833, 3626, 6100], [40, 1107, 588]])
targets = torch.tensor([[3626, 6100, 345], [1107, 588, 11311]])

with torch.no_grad():
    logits = model(inputs.to(device)).cpu()  # (B, T, V)
probas = torch.softmax(logits, dim=-1)
print(probas.shape)

token_ids = torch.argmax(probas, dim=-1, keepdim=True)
print("Token IDs:\n", token_ids)
print(f"Targets batch 1: {token_ids_to_text(targets[0], tokenizer)}")
print(f"Outputs batch 1: {token_ids_to_text(token_ids[0].flatten(), tokenizer)}")

# %% [markdown]
# How wrong is it? Look at the probability of each *target*. Training means raising these.

# %%
target_probas_1, target_probas_2 = probas.gather(-1, targets[..., None])[..., 0]  # (T,) each
print("Text 1:", target_probas_1)
print("Text 2:", target_probas_2)

# %% [markdown]
# Products of such small numbers are awkward; sums of their logarithms are not. The mean logarithm
# with its sign flipped, so that less is better, is the cross entropy.

# %%
log_probas = torch.log(torch.cat((target_probas_1, target_probas_2)))
print(log_probas)
avg_log_probas = torch.mean(log_probas)
print(avg_log_probas)
print(-avg_log_probas)

# %% [markdown]
# PyTorch does all of this in one call. It expects one row of logits per target, so batch and tokens
# become one dimension. `calc_loss_batch` does the same, and calls the model too.

# %%
print("Logits shape:", logits.shape)
print("Targets shape:", targets.shape)
logits_flat = logits.flatten(0, 1)  # (B * T, V)
targets_flat = targets.flatten()  # (B * T,)
print("Flattened logits:", logits_flat.shape)
print("Flattened targets:", targets_flat.shape)

loss = torch.nn.functional.cross_entropy(logits_flat, targets_flat)
print(loss)
with torch.no_grad():
    print("calc_loss_batch:", calc_loss_batch(inputs, targets, model, device).cpu())

# %% [markdown]
# Perplexity is the exponential of the loss: the number of equally likely tokens among which the
# model hesitates.
#
# Is a loss near 10.8 a good start? A model that gives each of the V tokens the same probability has
# a loss of ln V. A first loss far above that points to a bug, such as a wrong initialisation or
# wrong targets. One far below it means that the model sees what it should predict.

# %%
print(torch.exp(loss))
print(f"Expected at the start: ln {config['vocab_size']} = {math.log(config['vocab_size']):.2f}")

# %% [markdown]
# ## 5.1.3 Calculating the training and validation set losses
#
# One short story is all the data, so that the whole run takes minutes. The first 90 % is for
# training. The rest shows whether the model learned language or just learned the story by heart.

# %%
print(f"{title}:")
print(text_data[:99])
print(text_data[-99:])
print("Characters:", len(text_data))
print("Tokens:", len(tokenizer.encode(text_data)))

# %% [markdown]
# The windows are as long as the context and do not overlap; two make a batch. The validation part
# is neither shuffled nor cut to whole batches.

# %%
used = text_data[: len(text_data) // 3] if settings.quick else text_data
train_text, val_text = split_text(used, train_frac=0.9)
torch.manual_seed(123)
windows = {"batch_size": 2, "max_length": context_length, "stride": context_length}
train_loader = create_dataloader_v1(train_text, **windows)
val_loader = create_dataloader_v1(val_text, **windows, shuffle=False, drop_last=False)

for name, loader in (("Train", train_loader), ("Validation", val_loader)):
    print(f"{name} loader:")
    for x, y in loader:
        print(x.shape, y.shape)

tokens = [sum(x.numel() for x, _ in loader) for loader in (train_loader, val_loader)]
print("Training tokens:", tokens[0])
print("Validation tokens:", tokens[1])
print("All tokens:", sum(tokens))

# %% [markdown]
# Before training, the loss over all the data is close to the ln V from above, in both parts.
# `calc_loss_loader` averages over tokens, so a short last batch counts for its tokens only.

# %%
torch.manual_seed(123)  # the order of the training batches changes the last digits
print("Training loss:", calc_loss_loader(train_loader, model, device))
print("Validation loss:", calc_loss_loader(val_loader, model, device))

# %% [markdown]
# # 5.2 Training an LLM
#
# The loop is short: a batch, its loss, the gradients, an optimizer step. Every few steps it logs
# both losses, and after each epoch 50 tokens of text. "Step 000000" is logged after the first step,
# so its losses are lower than those above.
#
# Expect two things. First, the text after the early epochs repeats one word or comma. The samples
# are greedy: they always take the likeliest token, and a model that has only learned which tokens
# are frequent picks the same one every time. Nothing is broken; section 5.3 shows what sampling
# changes. Second, while the training loss keeps falling, the validation loss stops near 6: a few
# thousand tokens, repeated, are learned by heart.
#
# `fused=True` runs AdamW's arithmetic in one pass over the memory. The digits are the same, and a
# tenth of the training time is saved.

# %%
torch.manual_seed(123)
model = GPTModel(config).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.1, fused=True)
evaluation |= {"start_context": start_context, "tokenizer": tokenizer}
start = time.perf_counter()
with tqdm(total=epochs * len(train_loader), unit="step", disable=None) as bar:
    optimizer.register_step_post_hook(lambda *_: bar.update())
    train_losses, val_losses, tokens_seen = train_model_simple(
        *(model, train_loader, val_loader, optimizer, device),
        **{"num_epochs": epochs, **evaluation, "log": bar.write},
    )
print(f"Training took {time.perf_counter() - start:.0f} seconds.")

# %%
epochs_seen = torch.linspace(0, epochs, len(train_losses))
curves = (epochs_seen, tokens_seen, train_losses, val_losses)
chapter.show(settings, "ch05-losses", plot_losses, *curves)

# %% [markdown]
# # 5.3 Decoding strategies to control randomness
#
# Greedy decoding gives the same text every time, and after this training it quotes much of the
# story word for word.

# %%
model.eval()
greedy_ids = generate_text_simple(model, prompt, max_new_tokens=25, context_size=context_length)
print("Output text:\n", token_ids_to_text(greedy_ids, tokenizer))

# %% [markdown]
# ## 5.3.1 Temperature scaling
#
# A vocabulary of nine words shows the effect of sampling. These are the logits for the word after
# "every effort moves you".

# %%
words = ["closer", "every", "effort", "forward", "inches", "moves", "pizza", "toward", "you"]
next_token_logits = torch.tensor([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])
probas = torch.softmax(next_token_logits, dim=0)
print(words[torch.argmax(probas).item()])

# %% [markdown]
# `multinomial` draws each word with its probability. One draw looks like greedy decoding; a
# thousand do not.


# %%
def print_sampled_tokens(probas):
    """Draw 1000 words, print the count of each, and return the counts."""
    torch.manual_seed(123)
    draws = [torch.multinomial(probas, num_samples=1).item() for _ in range(1000)]
    counts = torch.bincount(torch.tensor(draws), minlength=len(probas))
    for word, count in zip(words, counts.tolist(), strict=True):
        print(f"{count} x {word}")
    return counts


torch.manual_seed(123)
print(words[torch.multinomial(probas, num_samples=1).item()])
print_sampled_tokens(probas)

# %% [markdown]
# Dividing the logits by a temperature before softmax flattens the distribution (above 1) or
# sharpens it (below 1). Close to 0 only the likeliest word is left, so in this library a
# temperature of 0 means greedy decoding.


# %%
def softmax_with_temperature(logits, temperature):
    """Return probabilities, flatter as the temperature grows: (V,) logits -> (V,)."""
    return torch.softmax(logits / temperature, dim=0)


temperatures = (1, 0.1, 5)
scaled_probas = {t: softmax_with_temperature(next_token_logits, t) for t in temperatures}
chapter.show(settings, "ch05-temperatures", plot_temperatures, scaled_probas, words)

print("Temperature 0.1:")
print_sampled_tokens(scaled_probas[0.1])
print("Temperature 5:")
counts_5 = print_sampled_tokens(scaled_probas[5])

# %% [markdown]
# ## 5.3.2 Top-k sampling
#
# A high temperature also brings nonsense ("every effort moves you pizza"). Top-k sampling keeps
# only the k likeliest words. The others get a logit of minus infinity, which softmax turns into a
# probability of exactly 0.

# %%
top_logits, top_pos = torch.topk(next_token_logits, k=3)
print("Top logits:", top_logits)
print("Top positions:", top_pos)
new_logits = keep_top_k(next_token_logits[None], top_k=3)[0]
print(new_logits)
print(torch.softmax(new_logits, dim=0))

# %% [markdown]
# ## 5.3.3 Modifying the text generation function
#
# `generate` offers both, and can stop at an end-of-text id. The text below is less of a quotation
# and less of a sentence.

# %%
torch.manual_seed(123)
token_ids = generate(model, prompt, 15, context_length, temperature=1.4, top_k=25)
print("Output text:\n", token_ids_to_text(token_ids, tokenizer))

# %% [markdown]
# Here is what each setting does to the model's own distribution after "Every effort moves you".
# Top-k cuts at a rank and top-p at a share of the probability; a temperature shifts probability
# without cutting.

# %%
with torch.no_grad():
    next_logits = model(prompt)[:, -1]  # (1, V)
ways = {
    "the model's own": {},
    "temperature 1.4": {"temperature": 1.4},
    "top_k 25": {"top_k": 25},
    "top_p 0.8": {"top_p": 0.8},
}
distributions = {
    name: next_probabilities(next_logits, **{"temperature": 1.0, **options})[0].cpu()
    for name, options in ways.items()
}
pieces = [tokenizer.decode([i]) for i in range(tokenizer.n_vocab)]
chapter.show(settings, "ch05-sampling", plot_sampling, distributions, pieces)

# %% [markdown]
# `generate` caches the keys and values of the tokens that it has read. Without the cache, as in the
# book, the same text takes longer.

# %%
for use_cache in (False, True):
    began = time.perf_counter()
    token_ids = generate(model, prompt, 40, context_length, use_cache=use_cache)
    print(f"use_cache={use_cache}: 40 tokens in {time.perf_counter() - began:.2f} s")

# %% [markdown]
# # 5.4 Loading and saving model weights in PyTorch
#
# A state dict holds the weights by name. To continue training later, the optimizer's state must be
# saved too. AdamW keeps two numbers for every weight, so the file is three times as large.
# `save_checkpoint` writes a new file beside the old one and renames it when it is complete.
#
# `load_checkpoint` reads plain tensors only, since a pickle file can run any code. `GPTModel.empty`
# builds the model that it fills, without drawing random numbers for weights that are replaced
# anyway. The book's own files, a state dict alone or both, are read in the same way.

# %%
trained, checkpoint = config, Path(settings.out) / "model_and_optimizer.pth"
save_checkpoint(checkpoint, model, optimizer)
print(f"Saved: {checkpoint} ({checkpoint.stat().st_size / 1e6:,.0f} MB)")
print("Validation loss when saved:", calc_loss_loader(val_loader, model, device))

del model, optimizer  # avoid having them in memory twice
model = GPTModel.empty(config).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.1, fused=True)
load_checkpoint(checkpoint, model, optimizer)
model.eval()
print("Validation loss when loaded:", calc_loss_loader(val_loader, model, device))

# %% [markdown]
# # 5.5 Loading pretrained weights from OpenAI
#
# GPT-2, whose weights OpenAI has published, differs from this model in three settings: a context of
# 1,024 tokens, a bias in the query, key and value projections, and an output head that is the token
# embedding. Loading puts each of OpenAI's tensors in its place. The three projections are one
# matrix there, which is split, and matrices, stored as (input, output), are transposed.
#
# `load_gpt2` does all of that with OpenAI's, Hugging Face's or the book's files, without TensorFlow
# and with the memory of one model. The weights are not downloaded here: if they are missing, one
# line names the command that fetches them.

# %%
gpt2 = None
try:
    folder = find_gpt2("124M")
except FileNotFoundError:
    chapter.missing("GPT-2 (124M), about 550 MB,", "llm-scratch weights fetch gpt2")
else:
    gpt2 = load_gpt2(folder, device=device)
    print(f"{gpt2.num_parameters():,} parameters from {folder}")
    torch.manual_seed(123)
    token_ids = generate(gpt2, prompt, 25, gpt2.cfg.context_length, temperature=1.5, top_k=50)
    print("Output text:\n", token_ids_to_text(token_ids, tokenizer))

# %% [markdown]
# # Exercises
#
# ## 5.1 How often is "pizza" drawn?
#
# At temperatures 1 and 0.1, never. At 5, about as often as its probability says, which can be
# computed without any draws.

# %%
pizza = words.index("pizza")
print(f"Drawn {counts_5[pizza]} times in 1000 at temperature 5")
print(f"Probability at temperature 5: {scaled_probas[5][pizza]:.4f}")

# %% [markdown]
# ## 5.2 Temperatures and top-k settings
#
# Low values suit text with one right answer. High values suit text where the unexpected is welcome.
# If they are too high, the sentence falls apart.

# %%
for temperature, top_k in ((0.3, 10), (1.0, 50), (2.0, None)):
    torch.manual_seed(123)
    token_ids = generate(model, prompt, 15, context_length, temperature=temperature, top_k=top_k)
    text = token_ids_to_text(token_ids, tokenizer).replace("\n", " ")
    print(f"temperature {temperature}, top_k {top_k}: {text}")

# %% [markdown]
# ## 5.3 Making sampling deterministic
#
# A temperature of 0 is greedy and draws no random numbers; top_k=1 leaves a choice of one token.
# Both give the text of 5.3 again, whatever the seed.

# %%
for options in ({"temperature": 0.0}, {"temperature": 1.4, "top_k": 1}):
    token_ids = generate(model, prompt, 25, context_length, **options)
    print(options, "gives the greedy text:", torch.equal(token_ids, greedy_ids))

# %% [markdown]
# ## 5.4 Continuing training from a saved state
#
# A new model and optimizer load the file of 5.4 and train for one more epoch. The losses continue
# where they were. The book's model takes a minute for this (`--full`). With `--book` alone, a small
# model trains for an epoch, is saved, and continues.

# %%
del model, optimizer
again = checkpoint
if config["emb_dim"] == GPT_CONFIG_124M["emb_dim"] and not settings.full:
    config = {**config, **SMALL}
    again = checkpoint.with_name("small_model_and_optimizer.pth")
    torch.manual_seed(123)
    model = GPTModel(config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.1)
    train_model_simple(
        model, train_loader, val_loader, optimizer, device, num_epochs=1, **evaluation
    )
    save_checkpoint(again, model, optimizer)

model = GPTModel.empty(config).to(device)
optimizer = torch.optim.AdamW(model.parameters())  # its settings come from the file
load_checkpoint(again, model, optimizer)
print(f"One more epoch from {again}:")
train_model_simple(model, train_loader, val_loader, optimizer, device, num_epochs=1, **evaluation)

# %% [markdown]
# ## 5.5 The loss of GPT-2 on the story
#
# GPT-2 was never trained on these pages, and its loss on both parts is about the same. It predicts
# the story, while the model above has learned one part of it by heart.

# %%
if gpt2 is None:
    chapter.missing("GPT-2 (124M)", "llm-scratch weights fetch gpt2")
else:
    torch.manual_seed(123)
    print("Training loss:", calc_loss_loader(train_loader, gpt2, device))
    print("Validation loss:", calc_loss_loader(val_loader, gpt2, device))

# %% [markdown]
# ## 5.6 A larger GPT-2
#
# The largest has 48 blocks and 1,558 million parameters; the call is the same. In bfloat16 it would
# take 3 GB of memory; in float32, as here, it takes twice that.

# %%
del model, optimizer, gpt2
try:
    gpt2 = load_gpt2(find_gpt2("1558M"), device=device)
except FileNotFoundError:
    chapter.missing("GPT-2 (1558M), about 6.4 GB,", "llm-scratch weights fetch gpt2-xl")
else:
    torch.manual_seed(123)
    token_ids = generate(gpt2, prompt, 25, gpt2.cfg.context_length, temperature=1.5, top_k=50)
    print("Output text:\n", token_ids_to_text(token_ids, tokenizer))

# %% [markdown]
# # What it has learned
#
# The model of section 5.2, loaded from its file, continues three beginnings. A few thousand tokens
# are enough to learn how this story is told, and to learn much of it by heart.

# %%
model = GPTModel.empty(trained).to(device)
load_checkpoint(checkpoint, model)
torch.manual_seed(123)
for beginning in ("The clock", "Every effort moves you", "In the morning"):
    prompt = text_to_token_ids(beginning, tokenizer).to(device)
    token_ids = generate(model, prompt, 40, context_length, temperature=0.7, top_k=20)
    print("*", token_ids_to_text(token_ids, tokenizer).replace("\n", " "))
