"""Every figure of book chapter 2, computed with this library."""

from __future__ import annotations

import re
from itertools import islice

import pytest
import torch
from book_figures import Chapter
from torch import nn

from llm_scratch.text.windows import TokenWindows, create_dataloader_v1
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.tokenizers.simple import (
    SimpleTokenizerV1,
    SimpleTokenizerV2,
    build_vocab,
    split_words,
)

figure = Chapter("ch02")

SPECIAL_TOKENS = ("<|endoftext|>", "<|unk|>")
TWO_TEXTS = " <|endoftext|> ".join(
    ("Hello, do you like tea?", "In the sunlit terraces of the palace.")
)
MADE_UP = "Akwirw ier"


@pytest.fixture(scope="module")
def words(verdict):
    return split_words(verdict)


@pytest.fixture(scope="module")
def vocab(words):
    return build_vocab(words)


@pytest.fixture(scope="module")
def v1(vocab):
    return SimpleTokenizerV1(vocab)


@pytest.fixture(scope="module")
def v2(words):
    return SimpleTokenizerV2(build_vocab(words, SPECIAL_TOKENS))


@pytest.fixture(scope="module")
def ids(verdict, tokenizer):
    return tokenizer.encode(verdict)


def batches(text, batch_size, max_length, stride):
    """The batches of a loader that doesn't shuffle."""
    return iter(create_dataloader_v1(text, batch_size, max_length, stride, shuffle=False))


@figure("ch02.verdict.characters")
def characters(verdict):
    return len(verdict)


@figure("ch02.verdict.first99.len")
def first99_length(verdict):
    return len(verdict[:99])


@figure("ch02.verdict.first99.text")
def first99(verdict):
    return verdict[:99]


@figure("ch02.split.whitespace")
def split_whitespace():
    return re.split(r"(\s)", "Hello, world. This, is a test.")


@figure("ch02.split.comma_period")
def split_comma_period():
    return re.split(r"([,.]|\s)", "Hello, world. This, is a test.")


@figure("ch02.split.full")
def split_full():
    return split_words("Hello, world. Is this-- a test?")


@figure("ch02.verdict.first30tokens")
def first30_tokens(words):
    return words[:30]


@figure("ch02.vocab.size")
def vocab_size(vocab):
    return len(vocab)


@figure("ch02.vocab.first51")
def vocab_first51(v1):
    return [v1.int_to_str[i] for i in range(51)]


@figure("ch02.v1.encode")
def v1_encode(v1):
    return v1.encode(figure.printed("ch02.v1.encode").input)


@figure("ch02.v1.decode")
def v1_decode(v1):
    return v1.decode(v1.encode(figure.printed("ch02.v1.encode").input))


@figure("ch02.vocab.size_with_special")
def vocab_size_with_special(v2):
    return len(v2.str_to_int)


@figure("ch02.vocab.last5")
def vocab_last5(v2):
    return list(v2.str_to_int.items())[-5:]


@figure("ch02.v2.text")
def v2_text():
    return TWO_TEXTS


@figure("ch02.v2.encode")
def v2_encode(v2):
    return v2.encode(TWO_TEXTS)


@figure("ch02.v2.decode")
def v2_decode(v2):
    return v2.decode(v2.encode(TWO_TEXTS))


@figure("ch02.bpe.encode")
def bpe_encode(tokenizer):
    text = figure.printed("ch02.bpe.encode").input
    return tokenizer.encode(text, allowed_special={"<|endoftext|>"})


@figure("ch02.bpe.decode")
def bpe_decode(tokenizer):
    return tokenizer.decode(bpe_encode(tokenizer))


@figure("ch02.bpe.n_vocab")
def bpe_n_vocab(tokenizer):
    return tokenizer.n_vocab


@figure("ch02.verdict.bpe_tokens")
def bpe_tokens(ids):
    return len(ids)


@figure("ch02.window.x")
def window_x(ids):
    return TokenWindows(ids[50:], max_length=4, stride=1)[0][0]


@figure("ch02.window.y")
def window_y(ids):
    return TokenWindows(ids[50:], max_length=4, stride=1)[0][1]


@figure("ch02.window.pairs_text")
def window_pairs(ids, tokenizer):
    x, y = (side.tolist() for side in TokenWindows(ids[50:], max_length=4, stride=1)[0])
    return [[tokenizer.decode(x[: i + 1]), tokenizer.decode([y[i]])] for i in range(4)]


@figure("ch02.loader.b1.l4.s1.first")
def loader_first_batch(verdict):
    return next(batches(verdict, 1, 4, 1))


@figure("ch02.loader.b1.l4.s1.second")
def loader_second_batch(verdict):
    return next(islice(batches(verdict, 1, 4, 1), 1, None))


@figure("ch02.loader.b8.l4.s4.inputs")
def loader_inputs(verdict):
    return next(batches(verdict, 8, 4, 4))[0]


@figure("ch02.loader.b8.l4.s4.targets")
def loader_targets(verdict):
    return next(batches(verdict, 8, 4, 4))[1]


def seeded_embedding(rows, columns):
    torch.manual_seed(123)
    return nn.Embedding(rows, columns)


@figure("ch02.embed.weight")
def embedding_weight():
    return seeded_embedding(6, 3).weight


@figure("ch02.embed.lookup3")
def embedding_of_3():
    return seeded_embedding(6, 3)(torch.tensor([3]))


@figure("ch02.embed.lookup_2351")
def embedding_of_four():
    return seeded_embedding(6, 3)(torch.tensor([2, 3, 5, 1]))


@figure("ch02.embed.inputs_shape")
def inputs_shape(verdict):
    return next(batches(verdict, 8, 4, 4))[0].shape


@figure("ch02.embed.pos_shape")
def positions_shape():
    return nn.Embedding(4, 256)(torch.arange(4)).shape


def input_embeddings(text, tokenizer, positions):
    inputs, _ = next(batches(text, 8, 4, 4))
    tokens = nn.Embedding(tokenizer.n_vocab, 256)(inputs)
    return tokens + nn.Embedding(positions, 256)(torch.arange(4))


@figure("ch02.embed.input_shape")
def embedded_shape(verdict, tokenizer):
    return input_embeddings(verdict, tokenizer, 4).shape


@figure("ch02.dataloader_nb.shape")
def embedded_shape_in_a_longer_table(verdict, tokenizer):
    return input_embeddings(verdict, tokenizer, 1024).shape


@figure("ch02.ex2.1.ids")
def made_up_ids(tokenizer):
    return tokenizer.encode(MADE_UP)


@figure("ch02.ex2.1.pieces")
def made_up_pieces(tokenizer):
    return [tokenizer.decode([i]) for i in tokenizer.encode(MADE_UP)]


@figure("ch02.ex2.1.single_ids")
def made_up_pieces_alone(tokenizer):
    return {piece: tokenizer.encode(piece) for piece in made_up_pieces(tokenizer)}


@figure("ch02.ex2.1.decode")
def made_up_decoded(tokenizer):
    return tokenizer.decode(tokenizer.encode(MADE_UP))


@figure("ch02.ex2.2.l2.s2")
def loader_length2(verdict):
    return next(batches(verdict, 4, 2, 2))[0]


@figure("ch02.ex2.2.l8.s2")
def loader_length8(verdict):
    return next(batches(verdict, 4, 8, 2))[0]


@figure("ch02.bonus02.ids")
def ids_of_the_sample(tokenizer):
    return tokenizer.encode("Hello, world. Is this-- a test?")


@figure("ch02.bonus03.embedding_weight")
def small_embedding_weight():
    return seeded_embedding(4, 5).weight


@figure("ch02.bonus03.embedding_231")
def embedding_of_three():
    return seeded_embedding(4, 5)(torch.tensor([2, 3, 1]))


@figure("ch02.bonus03.onehot")
def one_hot():
    return nn.functional.one_hot(torch.tensor([2, 3, 1]))


@figure("ch02.bonus03.linear_weight")
def linear_weight():
    torch.manual_seed(123)
    return nn.Linear(4, 5, bias=False).weight


@figure("ch02.bonus04.last_b1")
def last_window_of_numbers():
    windows = TokenWindows(list(range(1001)), max_length=4, stride=1)
    return windows.batch([len(windows) - 1])


@pytest.fixture(scope="module")
def from_scratch():
    return BytePairTokenizer.gpt2()


@figure("ch02.bonus05.gpt2_this_is")
def ids_of_some_text(from_scratch):
    return from_scratch.encode("This is some text")


@figure("ch02.bonus05.edgecases")
def ids_of_edge_cases(from_scratch):
    texts = figure.printed("ch02.bonus05.edgecases").value
    return {text: from_scratch.encode(text) for text in texts}


@pytest.mark.parametrize("entry", figure.parameters())
def test_figure_comes_out_as_printed(entry, request):
    figure.check(entry, request)
