"""Rows packed into one another teach what they teach alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from llm_scratch.model.gpt import GPTModel
from llm_scratch.model.llama import LlamaModel
from llm_scratch.text.packed_rows import PackedRows, pack
from llm_scratch.text.token_rows import IGNORE_INDEX, TokenRows
from llm_scratch.training.steps import Engine, compute_gradients, evaluate

LENGTH = 24


def some_rows(count=23, vocab_size=50):
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(count):
        T = int(torch.randint(2, 13, (), generator=generator))
        inputs = torch.randint(vocab_size, (T,), generator=generator).tolist()
        rows.append((inputs, [IGNORE_INDEX] * (T // 2) + inputs[T // 2 :]))
    return TokenRows(rows, pad_id=0, vocab_size=vocab_size)


def build():
    sizes = {"vocab_size": 50, "context_length": LENGTH, "emb_dim": 16, "n_heads": 2, "n_layers": 2}
    torch.manual_seed(1)
    return GPTModel({**sizes, "drop_rate": 0.0})


def build_llama():
    """Shared keys, and a window that is shorter than the rows, in two of the three blocks."""
    sizes = {"vocab_size": 50, "context_length": LENGTH, "emb_dim": 16, "n_heads": 4, "n_layers": 3}
    torch.manual_seed(1)
    more = {"hidden_dim": 24, "n_kv_groups": 2, "sliding_window": 5, "sliding_layers": (1, 2)}
    return LlamaModel({**sizes, **more, "tie_weights": True})


FAMILIES = pytest.mark.parametrize("build", [build, build_llama])


def engine_of(model):
    return Engine(model, [torch.optim.SGD(model.parameters(), 0.1)], torch.device("cpu"))


def test_pack_takes_every_row_once_and_no_pack_is_too_long():
    lengths = some_rows(200).lengths.tolist()
    packs = pack(lengths, LENGTH)
    assert sorted(row for rows in packs for row in rows) == list(range(200))
    assert max(sum(lengths[row] for row in rows) for rows in packs) <= LENGTH
    assert len(packs) <= 1.02 * sum(lengths) / LENGTH + 1


@given(st.lists(st.integers(1, 20), max_size=40), st.integers(20, 50))
def test_pack_never_leaves_two_packs_that_fit_into_one(lengths, most):
    packs = pack(lengths, most)
    assert sorted(sum(packs, [])) == list(range(len(lengths)))
    sizes = [sum(lengths[row] for row in rows) for rows in packs]
    assert all(0 < size <= most for size in sizes)
    assert all(a + b > most for k, a in enumerate(sizes) for b in sizes[:k])


def test_pack_puts_a_row_where_the_least_room_is_left():
    assert pack([5, 9, 3, 7], 12) == [[1, 2], [3, 0]]
    assert pack([], 12) == []


def test_packed_rows_have_positions_of_their_own_and_see_only_themselves():
    rows = TokenRows([([1, 2, 3], [2, 3, 4]), ([5, 6], [-100, 7])], pad_id=0, vocab_size=9)
    inputs, targets, positions, seen = PackedRows(rows, 6).packed([0])
    assert inputs.tolist() == [[1, 2, 3, 5, 6]]
    assert targets.tolist() == [[2, 3, 4, -100, 7]]
    assert positions.tolist() == [[0, 1, 2, 0, 1]]
    assert seen.dtype == torch.bool
    assert seen[0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]


@FAMILIES
def test_packed_rows_teach_what_the_rows_teach_alone(build):
    rows, alone, together = some_rows(), build(), build()
    packs = PackedRows(rows, LENGTH)
    assert len(packs) < len(rows) / 2
    loss, count = compute_gradients(engine_of(alone), [rows.padded([i]) for i in range(23)])
    packed = compute_gradients(engine_of(together), [packs.packed(range(len(packs)))])
    assert packed == (pytest.approx(loss, abs=1e-6), count)
    for a, b in zip(alone.parameters(), together.parameters(), strict=True):
        assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-5)


@FAMILIES
def test_no_gradient_goes_from_one_row_to_another(build):
    rows, model = some_rows(), build()
    packs = PackedRows(rows, LENGTH)
    inputs, targets, positions, seen = packs.packed([0])
    embedded = []
    model.tok_emb.register_forward_hook(lambda *call: embedded.append(call[2]))
    logits = model(inputs, positions=positions, attention_mask=seen)
    losses = cross_entropy(logits[0], targets[0], reduction="none")
    ends = rows.lengths[packs.packs[0]].cumsum().tolist()
    assert len(ends) > 1
    for start, end in zip([0, *ends], ends, strict=False):
        (gradient,) = torch.autograd.grad(losses[start:end].sum(), embedded[0], retain_graph=True)
        touched = gradient[0].abs().sum(dim=-1) > 0
        assert touched[start:end].any()
        assert not touched[:start].any()
        assert not touched[end:].any()


@FAMILIES
def test_blocks_keep_no_mask_of_their_own(build):
    model = build()
    inputs, _, positions, seen = PackedRows(some_rows(), LENGTH).packed([0, 1])
    T = inputs.shape[1]
    kept = {}

    def keep(tensor):
        if tensor.dim() == 4 and tensor.shape[-2:] == (T, T):
            kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.hidden_states(inputs, positions=positions, attention_mask=seen)
    assert len(kept) == (2 if build is build_llama else 1)  # of whole and of windowed blocks
    assert all(mask.shape[1] == 1 for mask in kept.values())  # not one for each head


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_loss_of_an_epoch_is_that_of_the_rows(size):
    model, rows = build(), some_rows()
    expected = evaluate(engine_of(model), rows.rows_in_order(LENGTH, 1))
    packs = PackedRows(rows, LENGTH).rows_in_order(LENGTH, size)
    assert evaluate(engine_of(model), packs) == pytest.approx(expected, abs=1e-6)


def test_batch_gives_every_pack_once_an_epoch_in_another_order():
    packs = PackedRows(some_rows(), LENGTH)
    n = len(packs)
    seen = [tuple(packs.batch(3, step, 1, LENGTH)[0][0].tolist()) for step in range(2 * n)]
    everything = sorted(tuple(packs.packed([i])[0][0].tolist()) for i in range(n))
    assert sorted(seen[:n]) == sorted(seen[n:]) == everything
    assert seen[:n] != seen[n:]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_batches_of_any_size_give_every_pack_once_an_epoch(size):
    packs = PackedRows(some_rows(), LENGTH)
    n = len(packs)
    batches = [packs.batch(3, step, size, LENGTH)[0] for step in range(n)]
    seen = [tuple(ids[ids != 0].tolist()) for batch in batches for ids in batch]
    everything = sorted(tuple(ids[ids != 0].tolist()) for ids in packs.packed(range(n))[0])
    for epoch in range(size):
        assert sorted(seen[epoch * n : epoch * n + n]) == everything


def test_batches_of_packs_have_next_to_no_padding():
    rows = some_rows(400)
    sizes = [inputs.numel() for inputs, *_ in PackedRows(rows, LENGTH).rows_in_order(LENGTH, 4)]
    assert sum(sizes) < 1.02 * rows.lengths.sum()


def test_batch_in_pieces_is_the_whole_step():
    packs = PackedRows(some_rows(), LENGTH)
    whole = packs.batch(1, 4, 6, LENGTH)
    pieces = [packs.batch(1, 4, 2, LENGTH, first_row=i, step_rows=6) for i in (0, 2, 4)]
    rows = [ids[ids != 0].tolist() for piece in pieces for ids in piece[0]]
    assert rows == [ids[ids != 0].tolist() for ids in whole[0]]


def test_packed_rows_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="at most 9 fit"):
        PackedRows(some_rows(), 9)
    with pytest.raises(ValueError, match=r"a pack has 2\d tokens, at most 20 fit"):
        PackedRows(some_rows(), LENGTH).num_rows(20)
    with pytest.raises(ValueError, match="rows=0 must be 1 or more"):
        PackedRows(some_rows(), LENGTH).rows_in_order(LENGTH, 0)


def test_gpt_model_keeps_texts_side_by_side_apart():
    model = build().eval()
    first, second = torch.randint(50, (1, 5)), torch.randint(50, (1, 7))
    owners = torch.tensor([0] * 5 + [1] * 7)
    logits = model(
        torch.cat((first, second), dim=1),
        attention_mask=(owners[:, None] == owners)[None],
        positions=torch.tensor([*range(5), *range(7)]),
    )
    assert_close(logits[:, :5], model(first))
    assert_close(logits[:, 5:], model(second))


def test_gpt_model_never_looks_ahead_whatever_the_mask_says():
    model, ids = build().eval(), torch.randint(50, (2, 6))
    everything = torch.ones(2, 6, 6, dtype=torch.bool)
    assert_close(model(ids, attention_mask=everything), model(ids))


def test_gpt_model_lets_a_token_see_itself_where_it_may_look_at_nothing():
    model, ids = build(), torch.randint(50, (2, 6))
    logits = model(ids, attention_mask=torch.zeros(2, 6, 6, dtype=torch.bool))
    assert_close(logits, model(ids, attention_mask=torch.eye(6).expand(2, 6, 6)))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_gpt_model_takes_such_a_mask_with_a_cache():
    model, ids = build().eval(), torch.randint(50, (2, 6))
    mask = torch.ones(2, 6, 6, dtype=torch.bool)
    mask[:, 4:, 1] = False
    expected = model(ids, attention_mask=mask)
    with torch.no_grad():
        cache = model.new_cache(batch=2)
        pieces = [
            model(ids[:, :4], cache=cache, attention_mask=mask[:, :4, :4]),
            model(ids[:, 4:], cache=cache, attention_mask=mask[:, 4:]),
        ]
    assert_close(torch.cat(pieces, dim=1), expected)


@pytest.mark.parametrize("shape", [(2, 6, 5), (2, 5, 6), (1, 6, 6), (2, 1, 6, 6)])
def test_gpt_model_refuses_such_a_mask_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"\(2, 6\) is needed.*or \(2, 6, 6\)"):
        build()(torch.zeros(2, 6, dtype=torch.int64), attention_mask=torch.ones(shape))
