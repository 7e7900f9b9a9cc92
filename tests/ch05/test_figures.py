"""Every figure of book chapter 5, computed with this library.

The full training run is made once, and only by `-m long`. Figures of the released GPT-2 come out
where its weights are on this machine.
"""

from __future__ import annotations

import json
from pathlib import Path

import book_ch05
import pytest
import torch
from book_ch05 import loaders
from book_figures import Chapter
from book_start import START, values_of

from llm_scratch.generation.sampling import keep_top_k, sample_next
from llm_scratch.model.config import GPT2_CONFIGS
from llm_scratch.text.windows import split_text
from llm_scratch.tokenizers.any_tokenizer import token_ids_to_text

figure = Chapter("ch05")

TINY_GPT2 = Path(__file__).parents[1] / "fixtures" / "tensorflow" / "gpt2_tiny"
TOY_WORDS = ("closer", "every", "effort", "forward", "inches", "moves", "pizza", "toward", "you")
TOY_LOGITS = torch.tensor([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])


@pytest.fixture(scope="module")
def untrained(tokenizer):
    return book_ch05.before_training(tokenizer)


@pytest.fixture(scope="module")
def trained(verdict, tokenizer, tmp_path_factory):
    return book_ch05.whole_training(verdict, tokenizer, tmp_path_factory.mktemp("ch05"))


@pytest.fixture(scope="module")
def gpt2(released, tokenizer):
    return book_ch05.released_model(released("124M"), tokenizer)


@pytest.fixture(scope="module")
def gpt2_losses(released, verdict):
    return book_ch05.released_model_losses(released("124M"), verdict)


@pytest.fixture(scope="module")
def gpt2_xl(released, tokenizer):
    return book_ch05.released_model(released("1558M"), tokenizer)


@pytest.fixture(scope="module")
def gpt2_xl_losses(released, verdict):
    return book_ch05.released_model_losses(released("1558M"), verdict)


@figure("ch05.untrained.text")
def untrained_text(untrained, tokenizer):
    return token_ids_to_text(untrained.ids, tokenizer)


@figure("ch05.untrained.ids")
def untrained_ids(untrained):
    return untrained.ids


@figure("ch05.loss.inputs")
def loss_inputs(untrained):
    return untrained.inputs


@figure("ch05.loss.targets")
def loss_targets(untrained):
    return untrained.targets


@figure("ch05.loss.probas_shape")
def probabilities_shape(untrained):
    return untrained.logits.softmax(dim=-1).shape


@figure("ch05.loss.argmax_ids")
def likeliest_ids(untrained):
    return untrained.logits.argmax(dim=-1, keepdim=True)


@figure("ch05.loss.argmax_text1")
def likeliest_text(untrained, tokenizer):
    return token_ids_to_text(untrained.logits[0].argmax(dim=-1), tokenizer)


def target_probabilities(untrained):
    probabilities = untrained.logits.softmax(dim=-1)
    return probabilities.gather(-1, untrained.targets[..., None])[..., 0]  # (2, 3)


@figure("ch05.loss.target_probas_1")
def target_probabilities_1(untrained):
    return target_probabilities(untrained)[0]


@figure("ch05.loss.target_probas_2")
def target_probabilities_2(untrained):
    return target_probabilities(untrained)[1]


@figure("ch05.loss.log_probas")
def log_probabilities(untrained):
    return target_probabilities(untrained).log().flatten()


@figure("ch05.loss.avg_log_proba")
def mean_log_probability(untrained):
    return -untrained.loss


@figure("ch05.loss.logits_shape")
def logits_shape(untrained):
    return [untrained.logits.shape, untrained.targets.shape]


@figure("ch05.loss.flat_shapes")
def flat_shapes(untrained):
    return [untrained.logits.flatten(0, 1).shape, untrained.targets.flatten().shape]


@figure("ch05.data.last99")
def last99(verdict):
    return verdict[-99:]


@figure("ch05.data.characters")
def characters(verdict):
    return len(verdict)


@figure("ch05.data.tokens")
def tokens(verdict, tokenizer):
    return len(tokenizer.encode(verdict))


@figure("ch05.data.split_idx")
def split_index(verdict):
    return len(split_text(verdict, 0.9)[0])


@figure("ch05.data.split_bpe_tokens")
def tokens_of_the_parts(verdict, tokenizer):
    return [len(tokenizer.encode(part)) for part in split_text(verdict, 0.9)]


@figure("ch05.loader.train_shapes")
def training_shapes(verdict):
    return [inputs.shape for inputs, _ in loaders(verdict)[0]]


@figure("ch05.loader.val_shapes")
def validation_shapes(verdict):
    return [inputs.shape for inputs, _ in loaders(verdict)[1]]


@figure("ch05.loader.val_tokens")
def validation_tokens(verdict):
    return sum(inputs.numel() for inputs, _ in loaders(verdict)[1])


@figure("ch05.loader.all_tokens")
def all_tokens(verdict):
    return sum(inputs.numel() for loader in loaders(verdict) for inputs, _ in loader)


@figure("ch05.initial.train_loss", slow=True)
def initial_training_loss(verdict):
    return book_ch05.untrained_losses(verdict)[0]


@figure("ch05.initial.val_loss", marks=(START,))
def initial_validation_loss(verdict, run):
    return values_of(run)["val_loss"]


@figure("ch05.train.first_batch_loss", marks=(START,))
def first_batch_loss(verdict, run):
    return values_of(run)["first_batch"]


@figure("ch05.train.step0_cpu", marks=(START,))
def first_row(verdict, run):
    return values_of(run)["first_row"][2:]


@figure("ch05.train.log_cpu", long=True)
def training_log(trained):
    return trained.rows


@figure("ch05.train.final_cpu", long=True)
def final_losses(trained):
    return trained.rows[-1][2:]


@figure("ch05.train.num_evals", long=True)
def number_of_evaluations(trained):
    return trained.evaluations


@figure("ch05.train.bounds", long=True)
def bounds_that_hold(trained):
    bounds = figure.printed("ch05.train.bounds").value
    return [b if x < b else x for x, b in zip(trained.rows[-1][2:], bounds, strict=True)]


@figure("ch05.train.greedy25_cpu", long=True)
def greedy_text(trained):
    return trained.greedy


@figure("ch05.generate.topk25_t1.4_cpu", long=True)
def sampled_text(trained):
    return trained.sampled


@figure("ch05.ex5.4.log", long=True)
def log_of_one_more_epoch(trained):
    return trained.more_rows


@figure("ch05.sampling.vocab")
def toy_words():
    return TOY_WORDS


@figure("ch05.sampling.logits")
def toy_logits():
    return TOY_LOGITS


@figure("ch05.sampling.argmax")
def likeliest_word():
    return TOY_WORDS[sample_next(TOY_LOGITS[None])]


@figure("ch05.sampling.multinomial_123")
def word_of_one_draw():
    torch.manual_seed(123)
    return TOY_WORDS[sample_next(TOY_LOGITS[None], temperature=1.0)]


def counts(temperature: float) -> list[int]:
    """How often each word is drawn in 1,000 draws."""
    torch.manual_seed(123)
    drawn = [sample_next(TOY_LOGITS[None], temperature).item() for _ in range(1000)]
    return torch.bincount(torch.tensor(drawn), minlength=len(TOY_WORDS)).tolist()


@figure("ch05.sampling.counts_t1")
def counts_at_1():
    return counts(1.0)


@figure("ch05.sampling.counts_t0.1")
def counts_at_a_tenth():
    return counts(0.1)


@figure("ch05.topk.logits")
def top3_logits():
    kept = keep_top_k(TOY_LOGITS[None], 3)[0]
    return kept[kept.isfinite()].sort(descending=True).values


@figure("ch05.topk.positions")
def top3_positions():
    return keep_top_k(TOY_LOGITS[None], 3)[0].argsort(descending=True)[:3]


@figure("ch05.topk.masked")
def top3_masked():
    return keep_top_k(TOY_LOGITS[None], 3)[0]


@figure("ch05.gpt2.sizes")
def gpt2_sizes():
    return {name: [c.emb_dim, c.n_layers, c.n_heads] for name, c in GPT2_CONFIGS.items()}


@figure("ch05.ex5.1.pizza_count_t5")
def draws_of_pizza():
    pizza = TOY_WORDS.index("pizza")
    assert counts(1.0)[pizza] == counts(0.1)[pizza] == 0
    return counts(5.0)[pizza]


@figure("ch05.ex5.1.pizza_proba_t5")
def probability_of_pizza():
    return (TOY_LOGITS / 5).softmax(dim=0)[TOY_WORDS.index("pizza")]


@figure("ch05.tests.num_losses", slow=True)
def evaluations_of_a_tiny_run(verdict, tokenizer):
    return book_ch05.evaluations_of_a_tiny_run(verdict, tokenizer)


@figure("ch05.tests.pkg_first_losses", slow=True)
def losses_after_one_window(verdict, tokenizer):
    return book_ch05.losses_after_one_window(verdict, tokenizer)


@figure("ch05.gpt2.settings")
def gpt2_settings(gpt2):
    cfg = gpt2.cfg
    sizes = {"n_vocab": cfg.vocab_size, "n_ctx": cfg.context_length, "n_embd": cfg.emb_dim}
    return {**sizes, "n_head": cfg.n_heads, "n_layer": cfg.n_layers}


@figure("ch05.gpt2.param_keys")
def gpt2_parameter_keys():
    # The same for every size, so a checkpoint with tiny sizes does.
    from llm_scratch.weights.openai import load_gpt2_params_from_tf_ckpt

    settings = json.loads((TINY_GPT2 / "hparams.json").read_text(encoding="utf-8"))
    return list(load_gpt2_params_from_tf_ckpt(TINY_GPT2, settings))


@figure("ch05.gpt2.wte_shape")
def gpt2_embedding_shape(gpt2):
    return gpt2.embedding_shape


@figure("ch05.gpt2.wte_corners")
def gpt2_embedding_corners(gpt2):
    corners = gpt2.embedding_corners.tolist()
    return [*corners[:3], [], *corners[3:]]  # the rows in between are not compared


@figure("ch05.gpt2.text_topk50_t1.5")
def gpt2_text(gpt2):
    return gpt2.text


@figure("ch05.ex5.5.small.train_loss")
def gpt2_training_loss(gpt2_losses):
    return gpt2_losses[0]


@figure("ch05.ex5.5.small.val_loss")
def gpt2_validation_loss(gpt2_losses):
    return gpt2_losses[1]


@figure("ch05.ex5.5.xl.train_loss", slow=True)
def gpt2_xl_training_loss(gpt2_xl_losses):
    return gpt2_xl_losses[0]


@figure("ch05.ex5.5.xl.val_loss", slow=True)
def gpt2_xl_validation_loss(gpt2_xl_losses):
    return gpt2_xl_losses[1]


@figure("ch05.ex5.6.xl_text", slow=True)
def gpt2_xl_text(gpt2_xl):
    return gpt2_xl.text


@pytest.mark.parametrize("entry", figure.parameters())
def test_figure_comes_out_as_printed(entry, request):
    figure.check(entry, request)
