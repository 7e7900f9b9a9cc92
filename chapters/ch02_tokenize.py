"""Chapter 2: from a text to token ids, and from token ids to training windows.

Run it with

    python chapters/ch02_tokenize.py

It takes about three seconds on two cores, with --quick as without, and downloads nothing. With The
Verdict (`llm-scratch fetch the-verdict`) it prints the book's numbers; without it, it uses a story
of our own.
"""

# %% [markdown]
# # Chapter 2: from text to token ids
#
# A language model never sees letters. It sees whole numbers, each of which represents a piece of
# text, and looks each number up in a table of vectors. This chapter follows that path step by step:
# text, pieces, numbers, training windows, vectors.

# %%
import re
from importlib.metadata import version

import torch
from torch import nn

from llm_scratch.chapter import settings, show, story
from llm_scratch.plotting.insides import plot_positions
from llm_scratch.text.windows import TokenWindows, create_dataloader_v1
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.bpe_training import train_by_hand
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer
from llm_scratch.tokenizers.simple import (
    SimpleTokenizerV1,
    SimpleTokenizerV2,
    UnknownTokenError,
    build_vocab,
    split_words,
)

args = settings(__doc__)
print("torch version:", version("torch"))
print("tiktoken version:", version("tiktoken"))

# %% [markdown]
# ## 2.2 Cutting a text into pieces
#
# First, the text: a short story, read as one long string.

# %%
title, raw_text = story()
print("Text:", title)
print("Total number of characters:", len(raw_text))
print(raw_text[:99])

# %% [markdown]
# Where should we cut? Blanks are a start. The parentheses in the pattern make `re.split` keep the
# separators, so nothing is lost.

# %%
text = "Hello, world. This, is a test."
print(re.split(r"(\s)", text))

# %% [markdown]
# Punctuation marks still stick to the words, so we cut at them too. Between two adjacent separators
# an empty piece results. Empty pieces and blanks are discarded.

# %%
pieces = re.split(r"([,.]|\s)", text)
print(pieces)
print([piece for piece in pieces if piece.strip()])

# %% [markdown]
# `split_words` does the same for all the punctuation in a story, including the double dash.

# %%
print(split_words("Hello, world. Is this-- a test?"))

# %%
preprocessed = split_words(raw_text)
print(preprocessed[:30])
print(len(preprocessed))

# %% [markdown]
# ## 2.3 Numbering the pieces
#
# Every distinct piece gets a number, in sorted order. This table is the vocabulary.

# %%
vocab = build_vocab(preprocessed)
print(len(vocab))
for item in list(vocab.items())[:51]:
    print(item)

# %% [markdown]
# A tokenizer uses the vocabulary in both directions. Compare the output with the input: the blanks
# around quotes and apostrophes are a guess.

# %%
text = """"It's the last he painted, you know,"
           Mrs. Gisburn said with pardonable pride."""
if not set(split_words(text)) <= set(vocab):  # another story: take a line of its speech
    lines = raw_text.splitlines()
    text = next((line for line in lines if '"' in line and len(line) < 100), lines[0])

tokenizer = SimpleTokenizerV1(vocab)
ids = tokenizer.encode(text)
print(ids)
print(tokenizer.decode(ids))
print(tokenizer.decode(tokenizer.encode(text)))

# %% [markdown]
# If blanks count as pieces, nothing has to be guessed, and the text comes back exactly.

# %%
exact_vocab = build_vocab(split_words(raw_text, keep_spaces=True))
exact = SimpleTokenizerV1(exact_vocab, keep_spaces=True)
print("Whole story back, letter by letter:", exact.decode(exact.encode(raw_text)) == raw_text)

# %% [markdown]
# ## 2.4 Unknown words and ends of texts
#
# The vocabulary has no number for a word that the story never uses.

# %%
text = "Hello, do you like tea. Is this-- a test?"
try:
    print(tokenizer.encode(text))
except UnknownTokenError as error:
    print("UnknownTokenError:", error)

# %% [markdown]
# Two special tokens at the end of the vocabulary help. `<|unk|>` stands for every unknown word, and
# `<|endoftext|>` marks the boundary between two unrelated texts.

# %%
vocab = build_vocab(preprocessed, special_tokens=["<|endoftext|>", "<|unk|>"])
print(len(vocab))
for item in list(vocab.items())[-5:]:
    print(item)

# %%
text = " <|endoftext|> ".join(("Hello, do you like tea?", "In the sunlit terraces of the palace."))
print(text)

tokenizer = SimpleTokenizerV2(vocab)
print(tokenizer.encode(text))
print(tokenizer.decode(tokenizer.encode(text)))

# %% [markdown]
# ## 2.5 Byte pair encoding
#
# For GPT-2 there are no unknown words. Its vocabulary holds all 256 bytes, so that any text can be
# spelled, plus the pieces that were most frequent when it was built. A common word is one token; a
# rare one is made up of several.

# %%
tokenizer = GPT2Tokenizer()
text = "Hello, do you like tea? <|endoftext|> In the sunlit terracesof someunknownPlace."
integers = tokenizer.encode(text, allowed_special={"<|endoftext|>"})
print(integers)
print(tokenizer.decode(integers))

# %% [markdown]
# ## 2.6 Windows to learn from
#
# The model learns to predict what comes next, and the text itself holds the answers: the target is
# the input shifted by one token.

# %%
enc_text = tokenizer.encode(raw_text, allowed_special={"<|endoftext|>"})
print(len(enc_text))

enc_sample = enc_text[50:]
context_size = 4
x = enc_sample[:context_size]
y = enc_sample[1 : context_size + 1]
print(f"x: {x}")
print(f"y:      {y}")

# %% [markdown]
# So a window of four tokens holds four exercises, one for each length of context.

# %%
for i in range(1, context_size + 1):
    print(enc_sample[:i], "---->", enc_sample[i])
for i in range(1, context_size + 1):
    print(tokenizer.decode(enc_sample[:i]), "---->", tokenizer.decode([enc_sample[i]]))

# %% [markdown]
# The loader cuts the whole text into such windows. With a stride of 1, each begins one token after
# the previous one.

# %%
dataloader = create_dataloader_v1(raw_text, batch_size=1, max_length=4, stride=1, shuffle=False)
data_iter = iter(dataloader)
first_batch = next(data_iter)
print(first_batch)
second_batch = next(data_iter)
print(second_batch)

# %% [markdown]
# With a stride as long as the window, every token is an input exactly once. Here, eight windows
# make a batch.

# %%
dataloader = create_dataloader_v1(raw_text, batch_size=8, max_length=4, stride=4, shuffle=False)
inputs, targets = next(iter(dataloader))
print("Inputs:\n", inputs)
print("\nTargets:\n", targets)

# %% [markdown]
# Windows are easier to see with plain numbers. For the numbers 0 to 1000, this is the last one:

# %%
windows = TokenWindows(range(1001), max_length=4, stride=1)
print(len(windows), "windows, the last one:", *windows[-1])

# %% [markdown]
# ## 2.7 From ids to vectors
#
# An embedding layer is a table with a row of numbers for each id. Six tokens with three numbers
# each fit on the page. The rows start out random and are learned in training.

# %%
input_ids = torch.tensor([2, 3, 5, 1])
torch.manual_seed(123)
embedding_layer = nn.Embedding(6, 3)
print(embedding_layer.weight)

# %% [markdown]
# Embedding an id means looking up its row in the table: id 3 is the fourth row.

# %%
print(embedding_layer(torch.tensor([3])))
print(embedding_layer(input_ids))

# %% [markdown]
# ## 2.8 A token's position
#
# A token has the same row at every position, and attention by itself ignores order. So each
# position has a vector of its own, which is added to the token's.

# %%
vocab_size = tokenizer.n_vocab
output_dim = 256
token_embedding_layer = nn.Embedding(vocab_size, output_dim)

max_length = 4
dataloader = create_dataloader_v1(
    raw_text, batch_size=8, max_length=max_length, stride=max_length, shuffle=False
)
inputs, targets = next(iter(dataloader))
print("Token IDs:\n", inputs)
print("\nInputs shape:\n", inputs.shape)

# %%
token_embeddings = token_embedding_layer(inputs)
print(token_embeddings.shape)

# %%
context_length = max_length
pos_embedding_layer = nn.Embedding(context_length, output_dim)
pos_embeddings = pos_embedding_layer(torch.arange(max_length))
print(pos_embeddings.shape)
show(args, "ch02-positions", plot_positions, pos_embeddings.detach())

# %%
input_embeddings = token_embeddings + pos_embeddings
print(input_embeddings.shape)

# %% [markdown]
# The picture shows the four position vectors before any training: noise. Broadcasting adds the same
# four to each of the eight windows.
#
# ## Exercise 2.1: words that do not exist
#
# GPT-2's tokenizer spells invented words from pieces that it knows. Decoded one by one, they show
# where it cut. Together, they give the text again.

# %%
integers = tokenizer.encode("Akwirw ier")
print(integers)
for i in integers:
    piece = tokenizer.decode([i])
    print(f"{i} -> {piece!r} -> {tokenizer.encode(piece)}")
print(tokenizer.decode(integers))

# %% [markdown]
# ## Exercise 2.2: other lengths and strides
#
# First come short windows side by side, then longer ones that overlap: each row begins with the
# third token of the previous row.

# %%
dataloader = create_dataloader_v1(raw_text, batch_size=4, max_length=2, stride=2, shuffle=False)
inputs, targets = next(iter(dataloader))
print(inputs)

# %%
dataloader = create_dataloader_v1(raw_text, batch_size=4, max_length=8, stride=2, shuffle=False)
inputs, targets = next(iter(dataloader))
print(inputs)

# %% [markdown]
# ## More: looking up is multiplying
#
# An embedding layer does what a linear layer does with one-hot rows, which are 1 at the id and 0
# elsewhere: the product picks one column of the weights. A lookup merely skips the zeros.

# %%
ids = torch.tensor([2, 3, 1])
torch.manual_seed(123)
embedding = nn.Embedding(4, 5)
print(embedding.weight)
print(embedding(ids))

# %%
onehot = nn.functional.one_hot(ids, num_classes=4)
print(onehot)

torch.manual_seed(123)
linear = nn.Linear(4, 5, bias=False)
print(linear.weight)

# %%
linear.weight = nn.Parameter(embedding.weight.T)
print(linear(onehot.float()))
print("The same:", torch.equal(linear(onehot.float()), embedding(ids)))

# %% [markdown]
# ## More: byte-pair encoding from scratch
#
# Where do GPT-2's tokens come from? From counting. At first, every byte is a token. Then, again and
# again, the most frequent pair of neighbours becomes a new token. A vocabulary of 1,000 consists of
# 256 bytes, 743 such merges and `<|endoftext|>`. Learning it from a short story takes an instant.

# %%
ours = BytePairTokenizer.train(raw_text, vocab_size=1000, name="story")
gpt2 = BytePairTokenizer.gpt2()
print(ours, "and", gpt2)

# %% [markdown]
# GPT-2's tokenizer read forty gigabytes of web pages, ours read one story, and both begin alike: a
# blank and a `t`, `he`, a blank and an `a`. Those are facts about English.

# %%
print("first merges   ours               GPT-2's")
for number in range(10):
    pairs = (ours.merges[number], gpt2.merges[number])
    mine, theirs = ((left + b" + " + right).decode() for left, right in pairs)
    print(f"{number + 1:>12}   {mine!r:<18} {theirs!r}")

# %% [markdown]
# Encoding applies the same merges in the same order. A word starts as its bytes. Of the known
# pairs, the one learned first is merged first. In a terminal or a notebook, `show` displays a
# text's tokens in colours.

# %%
for bpe in (ours, gpt2):
    print(bpe.name)
    for step in bpe.explain(" lowest"):
        print("  ", step)

# %%
print(ours.show("The lowest of them, someunknownPlace."))

# %% [markdown]
# What does a larger vocabulary gain? Fewer tokens for the same text. And nothing is ever lost: the
# vocabulary has all bytes.

# %%
size = len(raw_text.encode())
for bpe in (BytePairTokenizer([], name="bytes"), ours, gpt2):
    ids = bpe.encode(raw_text)
    print(f"{bpe.name:>6}: {len(ids):>6} tokens, {size / len(ids):.2f} bytes each")
print(ours.decode(ours.encode("漢字 and 🔥 were in no story.")))

# %% [markdown]
# `train_by_hand` is the plain method in twenty readable lines. It recounts every pair after each
# merge. `BytePairTokenizer.train` recounts only the words that a merge has changed.

# %%
start = raw_text[:2000]
quick = BytePairTokenizer.train(start, vocab_size=350)
print("The same merges:", train_by_hand(start, vocab_size=350) == quick.merges)
