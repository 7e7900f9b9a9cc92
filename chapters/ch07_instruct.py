"""Chapter 7: fine-tuning to follow instructions.

    python chapters/ch07_instruct.py             a small model, made here: 3 to 5 minutes
    python chapters/ch07_instruct.py --quick     a smaller one: less than a minute
    python chapters/ch07_instruct.py --download  fetches the book's instructions (0.2 MB) first
    python chapters/ch07_instruct.py --judge llama3  lets a model that Ollama runs score the answers

Times are for two cores of a laptop. Nothing is downloaded unless asked for: without the book's
instructions it uses 1,100 that are part of this project, and without GPT-2's weights (355M) a small
model that it pretrains first. With both it is the book's run, which calls for a GPU.
"""

# %%
import json
import tempfile
import time
from collections import defaultdict
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from llm_scratch import chapter
from llm_scratch.download import cache_folder
from llm_scratch.finetuning.instruction_rows import instruction_rows, show_mask
from llm_scratch.finetuning.instruction_tuning import (
    answer,
    finetune_instructions,
    stopped_share,
)
from llm_scratch.finetuning.instructions import (
    InstructionDataset,
    InstructionDatasetPhi,
    InstructionDatasetWithMasking,
    custom_collate_draft_1,
    custom_collate_draft_2,
    custom_collate_fn,
    custom_collate_with_masking_fn,
    download_and_load_file,
    load_instructions,
)
from llm_scratch.finetuning.prompts import BOOK_PHI, extract_response, format_input, prompt_text
from llm_scratch.generation.decoding import generate
from llm_scratch.judging.client import JudgeError
from llm_scratch.judging.judge import exact_match, judge, token_f1
from llm_scratch.lora.layers import merge_lora, replace_linear_with_lora, trainable_parameters
from llm_scratch.model.device import pick_device
from llm_scratch.model.gpt import GPTModel
from llm_scratch.plotting.learning import plot_runs
from llm_scratch.text.corpora import find_data
from llm_scratch.text.token_rows import TokenRows
from llm_scratch.tokenizers.any_tokenizer import encode, text_to_token_ids, token_ids_to_text
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.gpt2 import END_OF_TEXT, GPT2Tokenizer
from llm_scratch.training.config import TrainConfig
from llm_scratch.training.loop import train
from llm_scratch.training.losses import calc_loss_loader
from llm_scratch.training.run_folder import read_metrics
from llm_scratch.weights.folder import load_model, save_model
from llm_scratch.weights.gpt2 import load_gpt2
from llm_scratch.weights.gpt2_files import find_gpt2

settings = chapter.settings(__doc__, download=False, judge="", device="auto")
device = pick_device(settings.device)
out = Path(settings.out)
out.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# # 7.1 Introduction to instruction fine-tuning
#
# A pretrained model continues a text. Asked a question, it may well continue with more questions.
# To make it answer, we train it further, in the same way as before, on pairs of an instruction and
# the desired answer: *supervised fine-tuning* on instructions. The steps of this chapter are data,
# model, training and, since the answers are free text, judging how good they are.

# %% [markdown]
# # 7.2 Preparing a dataset for supervised instruction fine-tuning
#
# An entry has an instruction, often an input that it refers to, and the correct output. The entries
# made for this project also name their kind, such as "conversion". Many of them follow a rule, so a
# model can be right about a question that it has never seen.

# %%
URL = (
    "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/main/ch07/01_main-chapter-code/"
    "instruction-data.json"
)
BOOK_FILE = "instruction-data.json"
if settings.download:
    download_and_load_file(cache_folder() / BOOK_FILE, URL)
try:
    path = find_data(BOOK_FILE)
except FileNotFoundError:
    command = "python chapters/ch07_instruct.py --download"
    chapter.missing("The book's instructions", command, "continuing with our own")
    path = find_data("instructions.json")
data = load_instructions(path)
print("Number of entries:", len(data))
print("Example entry:", data[50])
print("Another example entry:", data[999])

# %% [markdown]
# The model needs one text in which it can tell the parts apart. The book uses the style of
# Stanford's Alpaca: a fixed sentence, then a heading before each part. An entry without an input
# has no heading for it.

# %%
for entry in (data[50], data[999]):
    print(format_input(entry) + f"\n\n### Response:\n{entry['output']}")
    print("-" * 40)

# %% [markdown]
# Of the entries, 85 % are for training, 10 % for the test, and the rest for validation.

# %%
train_portion, test_portion = int(len(data) * 0.85), int(len(data) * 0.1)
train_data = data[:train_portion]
test_data = data[train_portion : train_portion + test_portion]
val_data = data[train_portion + test_portion :]
print("Training set length:", len(train_data))
print("Validation set length:", len(val_data))
print("Test set length:", len(test_data))

# %% [markdown]
# # 7.3 Organizing data into training batches
#
# First, texts become ids. GPT-2's vocabulary is too large for a small model, which would never see
# most of its tokens. So where GPT-2's weights are missing, a byte-pair encoding is trained on the
# entries that are not held out.

# %%
gpt2_tokenizer = GPT2Tokenizer()
print(gpt2_tokenizer.encode(END_OF_TEXT, allowed_special={END_OF_TEXT}))
try:
    gpt2_folder = find_gpt2("355M")
except FileNotFoundError:
    gpt2_folder = None

tokenizer = gpt2_tokenizer
if gpt2_folder is None:
    texts = [prompt_text(entry) + entry["output"] for entry in train_data]
    tokenizer = BytePairTokenizer.train(texts, vocab_size=1000)
(pad_id,) = encode(tokenizer, END_OF_TEXT)
first = InstructionDataset(train_data, tokenizer)[0]
print(f"{len(first)} tokens, the first ones: {first[:8]}")

# %% [markdown]
# ## Batches, in three drafts
#
# The texts of a batch differ in length. Padding brings them to the length of the batch's longest
# one. The first draft gives inputs only.

# %%
batch = ([0, 1, 2, 3, 4], [5, 6], [7, 8, 9])
print(custom_collate_draft_1(batch))

# %% [markdown]
# Targets are the inputs shifted by one. In the second draft they end with an end-of-text token,
# from which the model learns to stop. But it also learns the padding after that token.

# %%
inputs, targets = custom_collate_draft_2(batch)
print(inputs)
print(targets)

# %% [markdown]
# The third draft keeps the first end-of-text token of a row and replaces all others by -100.

# %%
inputs, targets = custom_collate_fn(batch)
print(inputs)
print(targets)

# %% [markdown]
# Why -100? PyTorch's cross entropy ignores targets of this value. A third example changes the mean;
# with the target -100 it has no effect.

# %%
logits = torch.tensor([[-1.0, 1.0], [-0.5, 1.5]])
print(cross_entropy(logits, torch.tensor([0, 1])))
logits = torch.tensor([[-1.0, 1.0], [-0.5, 1.5], [-0.5, 1.5]])
print(cross_entropy(logits, torch.tensor([0, 1, 1])))
loss = cross_entropy(logits, torch.tensor([0, 1, -100]))
print(loss)
two = cross_entropy(logits[:2], torch.tensor([0, 1]))
print("The same as for two examples:", bool(loss == two))

# %% [markdown]
# ## What is learned
#
# The prompt can be masked in the same way, so that only the answer is learned. Whether that is
# better is an open question (see exercise 7.2). `instruction_rows` masks it unless told not to. The
# learned part is between [[ and ]].

# %%
for answer_only in (False, True):
    rows = instruction_rows(train_data[:1], tokenizer, answer_only=answer_only)
    print(show_mask(tokenizer, *rows[0], color=False))
    print("-" * 40)

# %% [markdown]
# # 7.4 Creating data loaders for an instruction dataset
#
# `partial` fills in the arguments of the collate function that a loader does not pass.

# %%
collate = partial(custom_collate_fn, pad_token_id=pad_id, allowed_max_length=1024, device=device)


def loader_of(dataset, shuffle=False, collate_fn=collate):
    """Return batches of 8, as in the book."""
    return DataLoader(dataset, 8, shuffle=shuffle, drop_last=shuffle, collate_fn=collate_fn)


torch.manual_seed(123)
train_loader = loader_of(InstructionDataset(train_data, tokenizer), shuffle=True)
val_loader = loader_of(InstructionDataset(val_data, tokenizer))
test_loader = loader_of(InstructionDataset(test_data, tokenizer))
print("Train loader:")
for number, (inputs, targets) in enumerate(train_loader):
    if number < 3 or number >= len(train_loader) - 2:
        print(inputs.shape, targets.shape)
print(f"{number + 1} batches; the first row of the last one:")
print(inputs[0])
print(targets[0])

# %% [markdown]
# # 7.5 Loading a pretrained LLM
#
# The book uses GPT-2 with 355 million parameters; the smallest one hardly learns to follow
# instructions. Where its weights are missing, a small model is pretrained as in chapter 5. It reads
# the training entries as plain text, without headings, mixed with short lines that are repeated,
# often with one copy in capitals. So it learns the words, and to look back and repeat them, but not
# the format in which it will be asked.


# %%
def said_twice(words, generator):
    """Return a line of random words twice; one of the two may be in capitals."""
    count = int(torch.randint(2, 6, (), generator=generator))
    chosen = torch.randint(len(words), (count,), generator=generator).tolist()
    line = " ".join(words[i] for i in chosen)
    form = int(torch.randint(3, (), generator=generator))
    return ((line, line), (line.upper(), line), (line, line.upper()))[form]


def plain_text(num_tokens):
    """Return the ids of the training entries, reshuffled in each pass and mixed with such lines."""
    generator = torch.Generator().manual_seed(123)
    entries = [[entry[part] for part in PARTS if entry.get(part)] for entry in train_data]
    words = sorted({word for entry in train_data for word in entry.get("input", "").split()
                    if word.isalpha() and word.islower()})  # fmt: skip
    ids = []
    while len(ids) < num_tokens:
        texts = entries + [said_twice(words, generator) for _ in entries]
        for place in torch.randperm(len(texts), generator=generator).tolist():
            ids += [*encode(tokenizer, "\n".join(texts[place]), "text"), pad_id]
    return ids


def pretrained():
    """Return a small model pretrained on one pass over the plain text, and nothing else."""
    sizes = {"emb_dim": 64, "n_heads": 4, "n_layers": 2} if settings.quick else {
        "emb_dim": 128, "n_heads": 4, "n_layers": 3}  # fmt: skip
    config = {"vocab_size": tokenizer.n_vocab, "context_length": 256, "drop_rate": 0.0}
    torch.manual_seed(123)
    model = GPTModel({**config, **sizes, "qkv_bias": True, "tie_weights": True}).to(device)
    T = 96
    ids = plain_text(30_000 if settings.quick else 800_000)
    rows = [(ids[i : i + T], ids[i + 1 : i + T + 1]) for i in range(0, len(ids) - T, T)]
    rows = TokenRows(rows, pad_id=pad_id, vocab_size=tokenizer.n_vocab)
    steps = len(rows) // 8
    run = TrainConfig(steps=steps, micro_batch=8, learning_rate=2e-3, log_every=0)
    state = train(model, rows, run)
    print(f"Loss after {steps} steps: {state.loss:.3f}")
    return model.eval()


PARTS = ("instruction", "input", "output")
start = time.perf_counter()
if gpt2_folder is None:
    chapter.missing("GPT-2 (355M), about 1.4 GB,", "llm-scratch weights fetch gpt2-medium",
                    "pretraining a small model instead")  # fmt: skip
    base = pretrained()
else:
    base = load_gpt2(gpt2_folder, device=device, tie_weights=False)
print(f"{base.num_parameters():,} parameters")

# %% [markdown]
# How does it respond to an instruction before tuning? `extract_response` cuts off the prompt.

# %%
prompt = prompt_text(val_data[0])
print(prompt)
ids = generate(base, text_to_token_ids(prompt, tokenizer).to(device), 35, eos_id=pad_id)
written = token_ids_to_text(ids, tokenizer).replace(END_OF_TEXT, "")
print("The model continues:", repr(extract_response(written, prompt)))

# %% [markdown]
# # 7.6 Fine-tuning the LLM on instruction data
#
# The initial losses, over the whole text as in the book, prompt and answer:

# %%
torch.manual_seed(123)
for name, loader in (("Training", train_loader), ("Validation", val_loader)):
    loss = calc_loss_loader(loader, base, device, num_batches=5, average="batches")
    print(f"{name} loss: {loss:.4f}")

# %% [markdown]
# `finetune_instructions` trains in the loop for real runs, with warm-up, cosine decay, clipping and
# a log for the plot. Only answers are learned here, so its losses are averages over all answer
# tokens. GPT-2 gets the book's rate and epochs.

# %%
if gpt2_folder is None:
    epochs, batch_size, rate = (2 if settings.quick else 10), 16, 2e-3
else:
    epochs, batch_size, rate = 2, 8, 5e-5
limit = 40 if gpt2_folder is None else 256  # tokens of an answer


def tuned(model, name, passes=epochs, peak=rate, log=lambda line: None, **options):
    """Tune a model in place and return it with the log of its run."""
    per_epoch = len(train_data) // batch_size // (4 if settings.quick else 1)
    run = TrainConfig(
        steps=passes * per_epoch, micro_batch=batch_size, learning_rate=peak,
        eval_every=per_epoch, eval_batches=None, save_every=passes * per_epoch, log_every=0,
    )  # fmt: skip
    options = {"save_best": lambda *_: None} | options
    with tempfile.TemporaryDirectory() as folder:
        finetune_instructions(
            model, tokenizer, train_data, val_data, run, folder=folder, log=log, **options
        )
        lines = read_metrics(folder)
    losses = [line["val_loss"] for line in lines if line.get("val_loss") is not None]
    print(
        f"{name}: validation loss {losses[0]:.3f} after one epoch, {losses[-1]:.3f} after {passes}"
    )
    return model.eval(), lines


def score(model, name, **options):
    """Answer the test instructions, print how many answers are right by kind, and return them."""
    answers = answer(model, tokenizer, test_data, max_new_tokens=limit, **options)
    kinds = defaultdict(list)
    for entry, each in zip(test_data, answers, strict=True):
        # Not normalised, because some instructions ask for upper case.
        right = exact_match(each.text, entry["output"], normalise=False)
        kinds[entry.get("kind", "all")].append(right)
    ruled = [right for kind in RULES for right in kinds[kind]]
    shown = ", ".join(f"{kind} {sum(kinds[kind])} of {len(kinds[kind])}" for kind in RULES)
    if ruled:
        print(f"{name}: exact match by rule {sum(ruled) / len(ruled):.1%} ({shown})")
    rights = [right for found in kinds.values() for right in found]
    print(f"{name}: exact match of all {sum(rights) / len(rights):.1%}")
    print(f"{name}: stopped by itself in {stopped_share(answers):.1%} of the answers")
    return answers


RULES = ("conversion", "uppercase", "lowercase", "counting")
start = time.perf_counter()
model, lines = tuned(deepcopy(base), "Fine-tuning", log=print)
print(f"Training completed in {(time.perf_counter() - start) / 60:.2f} minutes.")

# %%
chapter.show(settings, "ch07-loss", plot_runs, {"Fine-tuning": lines})

# %% [markdown]
# # 7.7 Extracting and saving responses
#
# First, a look at instructions that were never seen in training.

# %%
before = score(base, "Before")
after = score(model, "After")

# %%
for entry, each in zip(test_data[:6], after, strict=False):
    print("Instruction:", " | ".join(filter(None, (entry["instruction"], entry.get("input")))))
    print("  right:", entry["output"])
    print("  model:", each.text.strip())

# %% [markdown]
# We save the answers beside the correct ones, and the model with its tokenizer in one folder.
# Loaded from there, it answers the same.

# %%
answered = [
    {**entry, "model_response": each.text.strip()}
    for entry, each in zip(test_data, after, strict=True)
]
path = out / "instruction-data-with-response.json"
path.write_text(json.dumps(answered, indent=4, ensure_ascii=False), encoding="utf-8")
print("Answers:", path)
folder = save_model(model, out / "ch07-model", tokenizer)
loaded, loaded_tokenizer = load_model(folder, device=device)
again = answer(loaded, loaded_tokenizer, test_data[:16], max_new_tokens=limit)
same = [each.text for each in again] == [each.text for each in after[:16]]
print("The loaded model answers the same:", same)

# %% [markdown]
# # 7.8 Evaluating the fine-tuned LLM
#
# Where only one answer is right, a comparison is enough. `token_f1` gives credit for the words that
# two answers share, so it also rates a partly right answer.

# %%
references = [entry["output"] for entry in test_data]
texts = {"before": [each.text for each in before], "after": [each.text for each in after]}
for name, given in texts.items():
    pairs = list(zip(given, references, strict=True))
    match = sum(exact_match(*pair) for pair in pairs) / len(pairs)
    f1 = sum(token_f1(*pair) for pair in pairs) / len(pairs)
    print(f"{name}: exact match, normalised, {match:.1%}; F1 of the words {f1:.3f}")

# %% [markdown]
# Free answers can be right in many ways. The book lets a larger model judge them, running locally
# in Ollama. `judge` shows it the answers from before and after side by side, without names and in
# shuffled order. It gives means with an interval, and keeps the replies in a file.

# %%
try:
    if not settings.judge:
        raise JudgeError("no judge was named")
    records = out / "ch07-judge.jsonl"
    found = judge(test_data, texts, url="http://localhost:11434", model=settings.judge,
                  records=records)  # fmt: skip
    print(found.table())
    print("after minus before:", found.difference("after", "before"))
except JudgeError as error:
    print(f"No judge: {error}; `ollama pull llama3`, then --judge llama3, scores the answers")

# %% [markdown]
# # 7.9 Conclusions
#
# That is the whole path: a tokenizer, attention, a GPT, pretraining, and two ways of fine-tuning.
# Preference tuning often follows: the model learns which of two answers people prefer
# (`llm_scratch.finetuning.dpo_training`). The model here is limited by what it has read. It can
# pick up rules from a few hundred examples, in the form that they have there (it writes "new door"
# in capitals, and stumbles over "door new"). Facts it can't know.

# %% [markdown]
# # Exercises
#
# ## 7.1 Another prompt style
#
# Phi-3's style says the same in fewer tokens, so a step costs less.

# %%
phi_dataset = InstructionDatasetPhi(train_data, tokenizer)
alpaca_dataset = InstructionDataset(train_data, tokenizer)
print(prompt_text(data[50], BOOK_PHI) + data[50]["output"])
for name, dataset in (("Alpaca's style", alpaca_dataset), ("Phi-3's style", phi_dataset)):
    print(f"{name}: {sum(map(len, dataset)) / len(dataset):.1f} tokens per text")

passes = 1 if settings.quick or gpt2_folder else epochs
phi_model, _ = tuned(deepcopy(base), "Phi-3's style", passes, format=BOOK_PHI)
score(phi_model, "Phi-3's style", format=BOOK_PHI)

# %% [markdown]
# ## 7.2 Masking instructions
#
# `custom_collate_with_masking_fn` knows the length of each instruction and keeps only the targets
# after it: the heading of the response, the answer, and one end-of-text token.

# %%
SAMPLE = [
    {"instruction": "Write the text in upper case.", "input": "big river", "output": "BIG RIVER"},
    {"instruction": "Sort the words in alphabetical order.", "input": "lamp, river, house",
     "output": "house, lamp, river"},
    {"instruction": "What is 3 + 4?", "input": "", "output": "3 + 4 = 7"},
]  # fmt: skip
masked = InstructionDatasetWithMasking(SAMPLE, gpt2_tokenizer)
inputs, targets = custom_collate_with_masking_fn([masked[i] for i in range(len(masked))])
print(inputs.shape, targets.shape)
print(targets[1])
print(gpt2_tokenizer.decode([id for id in targets[1].tolist() if id >= 0]))

# %% [markdown]
# The run of section 7.6 masks the prompts. This one learns them too, and the answers are only a
# small part of its targets.

# %%
whole_model, _ = tuned(deepcopy(base), "Prompts learned too", passes, answer_only=False)
score(whole_model, "Prompts learned too")

# %% [markdown]
# ## 7.3 The original Alpaca data
#
# Stanford's data set has 52,000 entries in the same form, for research only (CC BY-NC 4.0). If it
# is saved under the name of the book's file, this chapter runs on it unchanged. That takes a GPU,
# and a batch size and length that fit it.

# %%
print("https://github.com/tatsu-lab/stanford_alpaca has alpaca_data.json; put it into "
      f"LLM_SCRATCH_DATA as {BOOK_FILE}")  # fmt: skip

# %% [markdown]
# ## 7.4 LoRA
#
# Two thin matrices beside each layer are trained, and all else is frozen (appendix E), so there are
# few numbers to train and store. They take a higher rate. In the same number of steps, a model as
# small as this one learns less with LoRA than with all parameters. The book's GPT-2, which knows
# more to begin with, loses nothing.

# %%
lora_model = deepcopy(base)
print(f"Trainable parameters before: {sum(p.numel() for p in lora_model.parameters()):,}")
layers = None if gpt2_folder else ("att", "ff")  # a small model's head is its embedding
replace_linear_with_lora(lora_model, rank=16, alpha=16, targets=layers, freeze_base=True)
count = sum(p.numel() for p in trainable_parameters(lora_model).values())
print(f"Trainable parameters with LoRA: {count:,}")
lora_model, _ = tuned(lora_model, "LoRA", passes, 5 * rate)
merge_lora(lora_model, unwrap=True)
score(lora_model, "LoRA")
