"""Chapter 6: fine-tuning for classification.

    python chapters/ch06_classify.py              a small model, made here: 2 to 3 minutes
    python chapters/ch06_classify.py --quick      a smaller one: less than a minute
    llm-scratch fetch sms-spam                    fetches the book's messages (0.2 MB)
    python chapters/ch06_classify.py --full       the exercises with GPT-2 too: hours

Times are for two cores of a laptop. Nothing is downloaded unless asked for: without the SMS Spam
Collection it uses messages that are part of this project, and without GPT-2's weights a small model
that it pretrains first. With both, the numbers are the book's, and it takes half an hour.
"""

# %%
import json
import math
import subprocess
import sys
import tempfile
import time
from collections import Counter
from copy import deepcopy
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from llm_scratch import chapter
from llm_scratch.finetuning.labelled_rows import (
    create_balanced_dataset,
    random_split,
    read_sms,
)
from llm_scratch.finetuning.labelled_texts import ClassificationDataset
from llm_scratch.finetuning.scores import accuracy, score_table
from llm_scratch.finetuning.spam_classifier import (
    SpamDataset,
    calc_accuracy_loader,
    classify_review,
    last_position_loss,
    train_classifier_simple,
)
from llm_scratch.finetuning.text_classifier import (
    classify_texts,
    evaluate_classifier,
    finetune_classifier,
    load_classifier,
    replace_head,
    save_classifier,
)
from llm_scratch.generation.decoding import generate_text_simple
from llm_scratch.model.device import pick_device
from llm_scratch.model.gpt import GPTModel
from llm_scratch.plotting.learning import plot_confusion, plot_values
from llm_scratch.text.corpora import find_data, load_text
from llm_scratch.text.token_rows import TokenRows
from llm_scratch.tokenizers.any_tokenizer import encode, text_to_token_ids, token_ids_to_text
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.gpt2 import END_OF_TEXT, GPT2Tokenizer
from llm_scratch.tokenizers.simple import split_words
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.loop import train
from llm_scratch.training.losses import calc_loss_loader
from llm_scratch.weights.gpt2 import load_gpt2
from llm_scratch.weights.gpt2_files import find_gpt2

settings = chapter.settings(__doc__, epochs=5, full=False, device="auto")
device = pick_device(settings.device)
out = Path(settings.out)

# %% [markdown]
# # 6.1 Different categories of fine-tuning
#
# A pretrained model continues text. Fine-tuning adapts it to a task. There are two kinds. With
# *instructions* (chapter 7) the answer is text again, and one model serves many tasks. With
# *classification*, this chapter, the answer is one of a few known classes. A classifier can say
# nothing else, but it needs less data and compute, and its answers can be counted.
#
# The task is an old one: is this message spam?

# %% [markdown]
# # 6.2 Preparing the dataset
#
# The book uses a collection of 5,572 text messages, one per line, each preceded by its label.
# Anybody may download it and nobody may redistribute it, so `llm-scratch fetch sms-spam` gets it.
# Without it, this chapter uses messages written for this project, in the same format.

# %%
SMS_FILE = "SMSSpamCollection.tsv"
try:
    path = find_data(SMS_FILE)
except FileNotFoundError:
    command = "llm-scratch fetch sms-spam"
    chapter.missing("The SMS Spam Collection", command, "continuing with our own messages")
    path = find_data("messages.tsv")
rows = read_sms(path)
for number in (*range(3), *range(len(rows) - 3, len(rows))):
    label, text = rows[number]
    print(f"{number:5} {label:5} {text[:80]}")
print(f"Rows and columns: ({len(rows)}, 2)")
print("Labels:", dict(Counter(label for label, _ in rows)))

# %% [markdown]
# Where most messages are ham, a model that always says "ham" looks good. So equal numbers of both
# kinds are taken and shuffled: 70 % are for training, 10 % for validation, and the rest for the
# final test. pandas is not needed: NumPy draws the same rows.

# %%
balanced = create_balanced_dataset(rows)
print("Balanced:", dict(Counter(label for label, _ in balanced)))
train_rows, val_rows, test_rows = random_split(balanced, 0.7, 0.1)
print("Training, validation, test:", len(train_rows), len(val_rows), len(test_rows))

# %% [markdown]
# ## What counting words achieves
#
# Before any model is trained, we need a number to beat. A word that is more frequent in spam than
# in ham is evidence for spam, by the logarithm of the ratio. A message is spam if the evidence of
# its words adds up to more than zero. (This is naive Bayes on a bag of words: word order is
# ignored.) Single words give spam away, so this baseline is hard to beat, and it costs nothing.


# %%
def words_of(text):
    """Return the words and punctuation of a message, in lower case."""
    return split_words(text.lower())


counts = {label: Counter() for label in ("ham", "spam")}
for label, text in train_rows:
    counts[label].update(words_of(text))
totals = {label: sum(counter.values()) + len(counter) for label, counter in counts.items()}
evidence = {
    word: math.log((counts["spam"][word] + 1) / totals["spam"])
    - math.log((counts["ham"][word] + 1) / totals["ham"])
    for word in counts["ham"] | counts["spam"]
}
said = [sum(evidence.get(word, 0.0) for word in words_of(text)) > 0 for _, text in test_rows]
right = [spam == (label == "spam") for spam, (label, _) in zip(said, test_rows, strict=True)]
print(f"Test accuracy of counted words: {sum(right) / len(right):.2%}")

# %% [markdown]
# # 6.3 Creating data loaders
#
# The messages of a batch must have one length. The book pads all of them to the length of the
# longest training message with the end-of-text token, id 50256 in GPT-2's vocabulary.

# %%
gpt2_tokenizer = GPT2Tokenizer()
print(gpt2_tokenizer.encode(END_OF_TEXT, allowed_special={END_OF_TEXT}))

try:
    gpt2_folder = find_gpt2("124M")
except FileNotFoundError:
    gpt2_folder = None

# %% [markdown]
# A small model learns more from a small vocabulary, in which most tokens are frequent. So where
# GPT-2's weights are missing, a byte-pair encoding is trained on this project's story and on all
# messages that are not held out, including those left over by the balancing. It needs no labels.

# %%
tokenizer = gpt2_tokenizer
if gpt2_folder is None:
    story = load_text("the-tide-clock")
    held_out = {text for _, text in val_rows + test_rows}
    texts = [text for _, text in rows if text not in held_out]
    tokenizer = BytePairTokenizer.train([*texts, story], vocab_size=768)
(pad_id,) = encode(tokenizer, END_OF_TEXT)

train_dataset = SpamDataset(train_rows, tokenizer, pad_token_id=pad_id)
length = train_dataset.max_length
print("Longest training message:", length)
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
# # 6.4 Initializing a model with pretrained weights
#
# We load GPT-2 as in section 5.5. Where its weights are missing, a small model is pretrained on the
# same texts: on next tokens, as in chapter 5, with `train`, the loop for real runs.


# %%
def next_token_row(ids):
    """Return the inputs and targets of a text; the last target is the end-of-text token."""
    return ids, [*ids[1:], pad_id]


def pretrained():
    """Return a small model pretrained on the story and the messages, and nothing else."""
    sizes = {"emb_dim": 64, "n_heads": 4, "n_layers": 2} if settings.quick else {
        "emb_dim": 128, "n_heads": 4, "n_layers": 4}  # fmt: skip
    context = max(128, length)
    config = {"vocab_size": tokenizer.n_vocab, "context_length": context, "drop_rate": 0.1}
    torch.manual_seed(123)
    model = GPTModel({**config, **sizes, "qkv_bias": True, "tie_weights": True}).to(device)
    pages = encode(tokenizer, story)
    chunks = [pages[i : i + context] for i in range(0, len(pages), context)]
    chunks += [encode(tokenizer, text, "text") for text in texts]
    data = TokenRows(
        [next_token_row(ids) for ids in chunks], pad_id=pad_id, vocab_size=tokenizer.n_vocab
    )
    steps = 60 if settings.quick else 400
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
context_length = base.cfg.context_length

# %%
prompt = text_to_token_ids("Every effort moves you", tokenizer).to(device)
print(token_ids_to_text(generate_text_simple(base, prompt, 15, context_length), tokenizer))

# %% [markdown]
# Can we simply ask it? It continues the question instead of answering it: it was never taught to
# follow instructions.

# %%
SPAM = "You are a winner you have been specially selected to receive $1000 cash or a $2000 award."
HAM = "Hey, just wanted to check if we're still on for dinner tonight? Let me know!"
question = f"Is the following text 'spam'? Answer with 'yes' or 'no': '{SPAM}'"
prompt = text_to_token_ids(question, tokenizer).to(device)
print(token_ids_to_text(generate_text_simple(base, prompt, 23, context_length), tokenizer))

# %% [markdown]
# # 6.5 Adding a classification head
#
# The head of a language model has one row per token of the vocabulary. The new head has one row per
# class. It starts from random numbers, but everything below it knows something already. So all is
# frozen except the last block, the final norm and the head.

# %%
model = deepcopy(base)
torch.manual_seed(123)
replace_head(model, num_classes=2, train="last block")
print(model.out_head)
trained = model.num_parameters(trainable_only=True)
print(f"{trained:,} of {model.num_parameters():,} parameters are trained")

inputs = text_to_token_ids("Do you have time", tokenizer).to(device)
print("Inputs:", inputs)
print("Inputs dimensions:", inputs.shape)
with torch.no_grad():
    outputs = model(inputs)
print("Outputs:\n", outputs)
print("Outputs dimensions:", outputs.shape)

# %% [markdown]
# Now there are two numbers for every token. Which row should we take? A token sees those before it
# and not those after it, so only the last one has read the whole text.

# %%
print("Last output token:", outputs[:, -1, :])

# %% [markdown]
# # 6.6 Calculating the classification loss and accuracy
#
# The larger of the two numbers is the answer. Softmax turns them into probabilities and keeps their
# order.

# %%
probas = torch.softmax(outputs[:, -1, :], dim=-1)
print("Class label:", torch.argmax(probas).item())
print("Class label:", torch.argmax(outputs[:, -1, :]).item())

# %% [markdown]
# Accuracy is the share of correct answers. Before training it is no better than a coin toss.

# %%
loaders = {"Training": train_loader, "Validation": val_loader, "Test": test_loader}
torch.manual_seed(123)
for name, loader in loaders.items():
    print(f"{name} accuracy: {calc_accuracy_loader(loader, model, device, 10):.2%}")

# %% [markdown]
# Accuracy moves in jumps and has no slope, so training minimises the cross entropy at the last
# position instead. The functions are those of chapter 5, with another loss.

# %%
for name, loader in loaders.items():
    loss = calc_loss_loader(loader, model, device, 5, loss_fn=last_position_loss)
    print(f"{name} loss: {loss:.3f}")

# %% [markdown]
# # 6.7 Fine-tuning the model on supervised data
#
# This is the loop of chapter 5, except that it counts examples instead of tokens, and measures
# accuracy after each epoch instead of writing text.

# %%
rate = 5e-5 if gpt2_folder else 1e-3
epochs = 2 if settings.quick else settings.epochs


def fine_tuned(
    train="last block", loaders=(train_loader, val_loader), log=print, epochs=epochs, **options
):
    """Train a copy of the pretrained model as the book does; return it and the run's results."""
    torch.manual_seed(123)
    model = replace_head(deepcopy(base), 2, train)
    torch.manual_seed(123)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.1
    )
    results = train_classifier_simple(
        model, *loaders, optimizer, device, epochs, eval_freq=50, eval_iter=5, log=log, **options
    )
    return model.eval(), results


start = time.perf_counter()
model, (train_losses, val_losses, train_accs, val_accs, examples_seen) = fine_tuned()
print(f"Training completed in {(time.perf_counter() - start) / 60:.2f} minutes.")

# %%
for name, values in (("loss", (train_losses, val_losses)), ("accuracy", (train_accs, val_accs))):
    epochs_seen = torch.linspace(0, epochs, len(values[0]))
    examples = torch.linspace(0, examples_seen, len(values[0]))
    picture = f"ch06-{name}"
    chapter.show(settings, picture, plot_values, epochs_seen, examples, *values, label=name)

# %%
for name, loader in loaders.items():
    print(f"{name} accuracy: {calc_accuracy_loader(loader, model, device):.2%}")

# %% [markdown]
# ## Reading at the last real token
#
# So far, a message is read at the end of its padding, as in the book. The padding takes part, so
# the verdict depends on the amount of padding. Look at the probability of spam:


# %%
def spam_probability(text, padding):
    """Return the model's probability that a message is spam, with `padding` tokens after it."""
    ids = encode(tokenizer, text, "text")
    row = torch.tensor([ids + [pad_id] * padding], device=device)
    with torch.no_grad():
        return torch.softmax(model(row)[0, -1], dim=-1)[1].item()


for text in (SPAM, HAM):
    shares = [f"{spam_probability(text, padding):.4f}" for padding in (0, 5, 20, 40)]
    print(f"{text[:24]}... padded by 0, 5, 20, 40:", *shares)

# %% [markdown]
# `ClassificationDataset` sets a target at the last real token of each text and nowhere else.
# Padding comes after that token, which never sees it, and a batch is as long as its own longest
# message. So the result is exact, and takes less time too.
#
# `finetune_classifier` trains on it in the loop for real runs. It evaluates, keeps the best model
# with its tokenizer and class names, and can be stopped and resumed.

# %%
parts = [
    ClassificationDataset(part, tokenizer, class_names=("ham", "spam"), max_length=context_length)
    for part in (train_rows, val_rows, test_rows)
]
print(parts[0])
torch.manual_seed(123)
# The book's settings for GPT-2; a small model trains all layers, in larger batches.
layers, batch, passes, peak = "last block", 8, epochs, rate
if gpt2_folder is None:
    layers, batch, passes, peak = "all", 16, 3 if settings.quick else 8, 5e-4
exact = replace_head(deepcopy(base), 2, layers)
steps = passes * len(parts[0]) // batch
run = TrainConfig(
    steps=steps, micro_batch=batch, learning_rate=peak, eval_every=steps // passes,
    eval_batches=None, save_every=steps, log_every=0,
)  # fmt: skip
start = time.perf_counter()
with tempfile.TemporaryDirectory() as run_folder:
    finetune_classifier(exact, tokenizer, *parts[:2], run, folder=run_folder)
    exact = load_classifier(run_folder, device=device).model
print(f"Training completed in {(time.perf_counter() - start) / 60:.2f} minutes.")

# %% [markdown]
# Where does it go wrong? Precision is the share of messages called spam that are spam. Recall is
# the share of spam that was found.

# %%
matrix = evaluate_classifier(exact, parts[2])
print(f"Test accuracy: {accuracy(matrix):.2%}")
print(score_table(matrix, parts[2].class_names))
chapter.show(settings, "ch06-confusion", plot_confusion, matrix, parts[2].class_names)

# %% [markdown]
# # 6.8 Using the LLM as a spam classifier
#
# `classify_review` pads a message like the training messages, and reads at the end. With GPT-2 that
# works well. With a small model the padding may flip the answer, as seen above. `classify_texts`
# reads at the last real token, so padding has no effect.

# %%
for text in (SPAM, HAM):
    print(classify_review(text, model, tokenizer, device, length, pad_id))
found = classify_texts(exact, tokenizer, [SPAM, HAM], parts[0].class_names)
for name, probabilities in zip(found.classes, found.probabilities, strict=True):
    print(f"{name} ({probabilities.max():.2%})")

# %% [markdown]
# A state dict, saved as in the book, fits any model with the same head.

# %%
out.mkdir(parents=True, exist_ok=True)
torch.save(model.state_dict(), out / "review_classifier.pth")
loaded = replace_head(GPTModel.empty(model.cfg), 2).to(device)
loaded.load_state_dict(torch.load(out / "review_classifier.pth", weights_only=True))
print([classify_review(text, loaded, tokenizer, device, length, pad_id) for text in (SPAM, HAM)])

# %% [markdown]
# `save_classifier` keeps everything in one folder: sizes, weights, the tokenizer and the class
# names. Another process, given only the folder, says the same.

# %%
folder = save_classifier(exact, out / "ch06-classifier", tokenizer, parts[0].class_names)
ELSEWHERE = """
import json, sys
from llm_scratch.finetuning.text_classifier import load_classifier
print(json.dumps(load_classifier(sys.argv[1]).classify(json.load(sys.stdin)).classes))
"""
test_texts = [text for _, text in test_rows]
here = classify_texts(exact, tokenizer, test_texts, parts[0].class_names).classes
there = subprocess.run(
    [sys.executable, "-c", ELSEWHERE, str(folder)],
    input=json.dumps(test_texts), check=True, capture_output=True, encoding="utf-8",
).stdout  # fmt: skip
same = json.loads(there) == here
print(f"Another process says the same of all {len(here)} test messages: {same}")

# %% [markdown]
# # Exercises
#
# ## 6.1 Padding to the whole context
#
# The longer the padding between the message and the place where it is read, the further the model
# has to carry what it knows, and the more each step costs.


# %%
def exercise(what, **options):
    """Train again with other options and print the accuracy on the test messages."""
    if gpt2_folder and not settings.full:
        print(f"{what}: --full runs it with GPT-2")
        return
    parts = options.pop("parts", (train_dataset, val_dataset, test_dataset))
    torch.manual_seed(123)
    loaders = [
        DataLoader(parts[0], batch_size=8, shuffle=True, drop_last=True),
        *(DataLoader(part, batch_size=8) for part in parts[1:]),
    ]
    passes = 1 if settings.quick else epochs
    model, _ = fine_tuned(loaders=loaders[:2], log=lambda line: None, epochs=passes, **options)
    position = options.get("position", -1)
    share = calc_accuracy_loader(loaders[2], model, device, position=position)
    print(f"{what}: test accuracy {share:.2%}")


padded = [
    SpamDataset(part, tokenizer, max_length=context_length, pad_token_id=pad_id)
    for part in (train_rows, val_rows, test_rows)
]
share = calc_accuracy_loader(test_loader, model, device)
print(f"Padded to the longest training message (section 6.7): test accuracy {share:.2%}")
exercise(f"Padded to the whole context of {context_length}", parts=padded)

# %% [markdown]
# ## 6.2 Training the whole model
#
# All layers may change, so the model can learn more, at about three times the work. A small model
# that has read little gains most.

# %%
exercise("All layers trained", train="all")

# %% [markdown]
# ## 6.3 Classifying by the first token
#
# The first token sees only itself, so all that can be read there is the message's first token.

# %%
exercise("Read at the first token", position=0)
