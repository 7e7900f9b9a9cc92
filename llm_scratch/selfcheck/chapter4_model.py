"""The checks of the end of chapter 4: the whole model, and its text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from llm_scratch.selfcheck import hints
from llm_scratch.selfcheck.compare import (
    Mistakes,
    call,
    is_close,
    must,
    must_be_module,
    must_be_tensor,
    must_drop_in_training_only,
    must_equal,
    must_have_parameters,
    must_keep_rows_apart,
    must_not_look_ahead,
    must_reach_all,
    randint,
    randomize,
    show,
)
from llm_scratch.selfcheck.outcome import Check, MistakeError

CONFIG: dict[str, Any] = {
    "vocab_size": 50,
    "context_length": 12,
    "emb_dim": 16,
    "n_heads": 4,
    "n_layers": 2,
    "drop_rate": 0.0,
    "qkv_bias": False,
}
V, T, C, LAYERS = 50, 12, 16, 2
PER_BLOCK = 12 * C * C + 10 * C
PARAMETERS = V * C + T * C + LAYERS * PER_BLOCK + 2 * C + V * C


class Config(dict[str, Any]):
    """The book's dictionary; the three dropout rates of exercise 4.3 are its `drop_rate`."""

    def __missing__(self, key: str) -> Any:
        if key.startswith("drop_rate_"):
            return self["drop_rate"]
        raise KeyError(key)


def config(**changes: Any) -> Config:
    """Return the book's dictionary, with small sizes."""
    return Config({**CONFIG, **changes})


def _model(cls: Any, **changes: Any) -> nn.Module:
    model = call("GPTModel", cls, (config(**changes),), "(cfg)")
    return must_be_module(model, "GPTModel").eval()


def _scores_every_token(cls: Any) -> None:
    must_be_tensor(_model(cls)(randint(V, 2, 5)), (2, 5, V))


def _has_the_parameters(cls: Any) -> None:
    _must_count(_model(cls), PARAMETERS, LAYERS)
    _must_count(_model(cls, n_layers=3), PARAMETERS + PER_BLOCK, 3)
    biased = _model(cls, qkv_bias=True)
    must_have_parameters(biased, PARAMETERS + LAYERS * 3 * C, {hints.QKV_BIAS: PARAMETERS})


def _must_count(model: nn.Module, count: int, layers: int) -> None:
    came = sum(parameter.numel() for parameter in model.parameters())
    if came == count - V * C:
        raise MistakeError(f"{count:,} parameters", f"{came:,}", hints.TIED, counts=False)
    one_block = count - (layers - 1) * PER_BLOCK
    mistakes = {
        hints.HEAD_BIAS: count + V,
        hints.QKV_BIAS: count + layers * 3 * C,
        hints.FINAL_NORM: count - 2 * C,
        hints.POSITIONS: count - T * C,
        hints.BLOCKS: one_block,
        hints.UNREGISTERED: count - layers * PER_BLOCK,
    }
    must_have_parameters(model, count, mistakes)


def _knows_positions(cls: Any) -> None:
    model = randomize(_model(cls))
    same = torch.full((1, 6), 7)
    logits = model(same)
    must(
        not is_close(logits[:, 1], logits[:, 4]),
        "different scores for the same token in different places",
        "the same",
        hints.POSITIONS,
    )


def _puts_its_parts_together(cls: Any) -> None:
    model = randomize(_model(cls), 0.3)
    ids = randint(V, 2, 5)
    names = ("tok_emb", "pos_emb", "trf_blocks", "final_norm", "out_head")
    parts = [getattr(model, name, None) for name in names]
    if not all(isinstance(part, nn.Module) for part in parts):
        _must_normalise_at_the_end(model, ids)
        return
    results = _assembled(ids, *parts)
    mistakes = {hint: value for hint, value in results.items() if hint != "right"}
    must_equal(model(ids), results["right"][0], mistakes, hints.SHAPE)


@torch.no_grad()
def _assembled(
    ids: Tensor, tokens: Any, positions: Any, blocks: Any, norm: Any, head: Any
) -> dict[str, list[Tensor]]:
    places = torch.arange(ids.shape[1])
    x = tokens(ids)

    def run(t: Tensor) -> Tensor:
        for block in blocks:
            t = block(t)
        return t

    h = run(x + positions(places))
    one = next(iter(blocks), None)
    return {
        "right": [head(norm(h))],
        hints.LOGITS: [head(norm(h)).softmax(-1), head(norm(h)).log_softmax(-1)],
        hints.FINAL_NORM: [head(h)],
        hints.POSITIONS: [head(norm(run(x)))],
        hints.POSITION_INDEX: [
            head(norm(run(x + positions(torch.zeros_like(places))))),
            head(norm(run(x + positions(places.flip(0))))),
            head(norm(run(x + positions(places + 1)))),
            head(norm(run(x + positions(ids % T)))),
        ],
        hints.BLOCKS: [head(norm(x + positions(places)))]
        + ([head(norm(one(x + positions(places))))] if one is not None else []),
    }


@torch.no_grad()
def _must_normalise_at_the_end(model: nn.Module, ids: Tensor) -> None:
    """Refuse scores that grow with the embeddings, which the last norm prevents."""
    before = model(ids).std()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.weight.mul_(1000)
    after = model(ids).std()
    must(
        bool(after < 50 * before),
        "scores that stay as large when the embeddings grow",
        f"scores {float(after / before):.0f} times as large",
        hints.FINAL_NORM,
    )


def _sees_no_future(cls: Any) -> None:
    must_not_look_ahead(randomize(_model(cls)), randint(V, 2, 6), randint(V, 2, 6, seed=5))


def _keeps_rows_apart(cls: Any) -> None:
    must_keep_rows_apart(randomize(_model(cls)), randint(V, 2, 6))


def _fills_its_context(cls: Any) -> None:
    model = _model(cls)
    for length in (1, T):
        must_be_tensor(model(randint(V, 1, length)), (1, length, V), hints.MASK_LENGTH)


def _drops_in_training_only(cls: Any) -> None:
    must_drop_in_training_only(_model(cls, drop_rate=0.5), randint(V, 2, 6))


def _learns_with_every_parameter(cls: Any) -> None:
    model = randomize(_model(cls), 0.2)
    must_reach_all(model, model(torch.arange(V - V % T).view(-1, T)[:, :T] % V))


def _has_the_books_state(cls: Any) -> None:
    from llm_scratch.model.gpt import GPTModel

    own = {key for key in _model(cls).state_dict() if not key.endswith("att.mask")}
    book = set(GPTModel(config()).state_dict())
    other = sorted(own ^ book)
    if other:
        raise MistakeError(
            f"names such as {sorted(book - own)[0] if book - own else sorted(book)[0]}",
            f"{len(other)} others, such as {other[0]}",
            hints.STATE_NAMES,
            counts=False,
        )


def _draws_the_books_numbers(cls: Any) -> None:
    from llm_scratch.model.gpt import GPTModel

    ids = torch.tensor([[6, 9, 3, 6]])
    torch.manual_seed(123)
    expected = GPTModel(config()).eval()(ids)
    torch.manual_seed(123)
    came = _model(cls)(ids)
    if not is_close(came, expected, 1e-4):
        texts = show(expected, came)
        raise MistakeError(texts[0], texts[1], hints.ORDER_OF_CREATION, counts=False)


class Counting(nn.Module):
    """A model whose next token depends on all its inputs, for checks of what it is shown."""

    def __init__(self, size: int = V) -> None:
        super().__init__()
        self.size = size
        self.lengths: list[int] = []
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, ids: Tensor) -> Tensor:
        """Score all tokens, one higher than the others: (B, T) -> (B, T, V)."""
        self.lengths.append(ids.shape[1])
        weights = torch.arange(1, ids.shape[1] + 1)
        chosen = ((ids + 3) * weights).cumsum(-1) % self.size  # (B, T)
        return self.scale * nn.functional.one_hot(chosen, self.size).float()


def continued(ids: Tensor, new: int, context: int, crop: str = "end", position: int = -1) -> Tensor:
    """Return the result of greedy writing with `Counting`, right or with a mistake."""
    model = Counting()
    for _ in range(new):
        seen = {"end": ids[:, -context:], "start": ids[:, :context], "none": ids}[crop]
        chosen = model(seen)[:, position].argmax(-1, keepdim=True)
        ids = torch.cat([ids, chosen], dim=1)
    return ids.detach()


PROMPT = torch.tensor([[4, 8, 15, 16], [23, 42, 1, 2]])
WRITE = "(model, idx, max_new_tokens, context_size)"


def writing_mistakes(prompt: Tensor, context: int, new: int) -> Mistakes:
    """Return the results of usual mistakes in a writing loop: hint -> results."""
    right = continued(prompt, new, context)
    return {
        hints.LAST_POSITION: continued(prompt, new, context, position=0),
        hints.CROP_MISSING: continued(prompt, new, context, "none"),
        hints.CROP_WRONG_END: continued(prompt, new, context, "start"),
        hints.PROMPT_LOST: [
            right[:, prompt.shape[1] :],
            torch.cat([right[:, prompt.shape[1] :], prompt], dim=1),
            right[:, -context:],
        ],
        hints.NEW_TOKENS: [
            continued(prompt, new - 1, context),
            continued(prompt, new + 1, context),
            continued(prompt, max(new - prompt.shape[1], 0), context),
        ],
    }


def must_write(write: Callable[[Counting, Tensor], Any], prompt: Tensor, context: int) -> None:
    """Check six tokens written with `Counting`, and the length of its inputs."""
    model = Counting()
    came = write(model, prompt.clone())
    expected = continued(prompt, 6, context)
    if isinstance(came, Tensor) and came.shape != expected.shape:
        for hint, results in writing_mistakes(prompt, context, 6).items():
            for result in [results] if isinstance(results, Tensor) else results:
                if result.shape == came.shape and torch.equal(result, came):
                    raise MistakeError(*_shapes(expected, came), hint)
        raise MistakeError(*_shapes(expected, came), hints.PROMPT_LOST)
    kept = isinstance(came, Tensor) and torch.equal(came[:, : prompt.shape[1]], prompt)
    hint = hints.LAST_POSITION if kept else hints.PROMPT_LOST
    must_equal(came, expected, writing_mistakes(prompt, context, 6), hint)
    longest = max(model.lengths, default=0)
    must(
        longest <= context,
        f"at most {context} tokens shown to the model",
        f"{longest}",
        hints.CROP_MISSING,
    )


def _shapes(expected: Tensor, came: Tensor) -> tuple[str, str]:
    return f"the shape {tuple(expected.shape)}", f"{tuple(came.shape)}"


def _writes(function: Any) -> None:
    def write(model: Counting, prompt: Tensor) -> Any:
        return call("generate_text_simple", function, (model, prompt, 6, 20), WRITE)

    must_write(write, PROMPT[:1], 20)


def _writes_rows(function: Any) -> None:
    together = function(Counting(), PROMPT.clone(), 6, 20)
    must_equal(together, continued(PROMPT, 6, 20), hint=hints.ARGMAX_DIM)


def _crops(function: Any) -> None:
    must_write(lambda model, prompt: function(model, prompt, 6, 3), PROMPT[:1], 3)


def _writes_nothing(function: Any) -> None:
    must_equal(function(Counting(), PROMPT.clone(), 0, 20), PROMPT, hint=hints.NEW_TOKENS)


def _writes_without_graph(function: Any) -> None:
    model = Counting()
    tracked: list[bool] = []
    model.register_forward_hook(lambda _, args, out: tracked.append(out.requires_grad))
    function(model, PROMPT.clone(), 2, 20)
    if any(tracked):
        raise MistakeError(
            "no graph for gradients while writing",
            "one at every step",
            "The text is right, but the graph costs memory. See what the book wraps the call in.",
            counts=False,
        )


MODEL_CHECKS = (
    Check("4.6", "GPTModel", "gives scores (B, T, vocab_size) for ids (B, T)", _scores_every_token),
    Check("4.6", "GPTModel", "has the book's number of parameters", _has_the_parameters),
    Check("4.6", "GPTModel", "tells positions apart", _knows_positions),
    Check(
        "4.6", "GPTModel", "embeds, runs its blocks, normalises, scores", _puts_its_parts_together
    ),
    Check("4.6", "GPTModel", "a token sees nothing that follows it", _sees_no_future),
    Check("4.6", "GPTModel", "the sequences of a batch don't mix", _keeps_rows_apart),
    Check("4.6", "GPTModel", "takes 1 to context_length tokens", _fills_its_context),
    Check("4.6", "GPTModel", "drops in training only", _drops_in_training_only),
    Check("4.6", "GPTModel", "learns with every parameter", _learns_with_every_parameter),
    Check("4.6", "GPTModel", "has the book's names in its state", _has_the_books_state),
    Check("4.6", "GPTModel", "draws the book's numbers from a seed", _draws_the_books_numbers),
    Check("4.7", "generate_text_simple", "adds the likeliest token, again and again", _writes),
    Check("4.7", "generate_text_simple", "writes each row of a batch on its own", _writes_rows),
    Check("4.7", "generate_text_simple", "shows the model the last context_size ids", _crops),
    Check("4.7", "generate_text_simple", "adds nothing when asked for nothing", _writes_nothing),
    Check("4.7", "generate_text_simple", "builds no graph for gradients", _writes_without_graph),
)
