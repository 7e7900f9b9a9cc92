"""The book's functions for preference tuning: masks, log-probabilities, the loss, the loop."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader

from llm_scratch.finetuning.dpo_simple import (
    PreferenceDataset,
    compute_dpo_loss,
    compute_dpo_loss_batch,
    compute_dpo_loss_loader,
    compute_logprobs,
    evaluate_dpo_loss_loader,
    preference_collate,
    train_model_dpo_simple,
)
from llm_scratch.model.gpt import GPTModel

SIZES = {"vocab_size": 50257, "context_length": 64, "emb_dim": 8, "n_heads": 2, "n_layers": 1}
ENTRIES = [
    {"instruction": f"Say {word}.", "input": "", "chosen": f"{word}, please.", "rejected": word}
    for word in ("yes", "no", "up", "down", "left")
]
START = "\n\n### Response:\n"


def build(seed=1, **options):
    torch.manual_seed(seed)
    return GPTModel({**SIZES, "drop_rate": 0.0, "qkv_bias": False, **options}).eval()


def loader(tokenizer, entries=ENTRIES, batch_size=2):
    return DataLoader(PreferenceDataset(entries, tokenizer), batch_size, collate_fn=collate)


def collate(batch):
    return preference_collate(batch, allowed_max_length=60)


def test_preference_dataset_holds_the_whole_texts(tokenizer):
    item = PreferenceDataset(ENTRIES, tokenizer)[1]
    prompt = tokenizer.decode(item["prompt"])
    assert prompt.endswith("### Instruction:\nSay no.")
    assert tokenizer.decode(item["chosen"]) == f"{prompt}{START}no, please."
    assert tokenizer.decode(item["rejected"]) == f"{prompt}{START}no"
    assert tokenizer.decode(item["chosen"][item["answer_start"] :]) == "no, please."


def test_preference_dataset_has_the_ids_of_the_text_in_one_piece(tokenizer, book_file):
    import json

    path = book_file("instruction-data-with-preference.json")
    entries = json.loads(path.read_text(encoding="utf-8"))[:50]
    for item in PreferenceDataset(entries, tokenizer):
        for name in ("chosen", "rejected"):
            assert item[name] == tokenizer.encode(tokenizer.decode(item[name]))


def test_preference_dataset_reads_a_written_end_of_text_as_text(tokenizer):
    entry = {**ENTRIES[0], "chosen": "yes<|endoftext|>"}
    item = PreferenceDataset([entry], tokenizer)[0]
    assert 50256 not in item["chosen"]
    assert tokenizer.decode(item["chosen"]).endswith("yes<|endoftext|>")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": None}, r"data\[2\]: chosen is of type NoneType, not a text"),
        ({"rejected": "  "}, r"data\[2\] has an empty rejected; leave the row out"),
    ],
)
def test_preference_dataset_names_an_entry_without_an_answer(tokenizer, change, message):
    entries = [*ENTRIES[:2], {**ENTRIES[2], **change}]
    with pytest.raises(ValueError, match=message):
        PreferenceDataset(entries, tokenizer)


def test_preference_dataset_names_an_entry_without_a_key(tokenizer):
    entries = [ENTRIES[0], {"instruction": "Say it.", "output": "It."}]
    with pytest.raises(ValueError, match=r"data\[1\] has no chosen and no rejected"):
        PreferenceDataset(entries, tokenizer)


ITEMS = [
    {
        "prompt": [1, 2],
        "answer_start": 4,
        "chosen": [1, 2, 9, 9, 5, 6],
        "rejected": [1, 2, 9, 9, 7],
    },
    {"prompt": [1], "answer_start": 3, "chosen": [1, 9, 9, 0], "rejected": [1, 9, 9, 8, 0, 0, 8]},
]


def test_preference_collate_pads_both_answers_to_one_length():
    batch = preference_collate(ITEMS, pad_token_id=0)
    assert batch["chosen"].tolist() == [[1, 2, 9, 9, 5, 6, 0], [1, 9, 9, 0, 0, 0, 0]]
    assert batch["rejected"].tolist() == [[1, 2, 9, 9, 7, 0, 0], [1, 9, 9, 8, 0, 0, 8]]
    assert [prompt.tolist() for prompt in batch["prompt"]] == [[1, 2], [1]]


def test_preference_collate_masks_by_length_whatever_the_pad_id():
    """The id 0 is padding here and a token of an answer there."""
    for pad_id in (0, 9, 50256):
        batch = preference_collate(ITEMS, pad_token_id=pad_id)
        assert batch["chosen_mask"].int().tolist() == [[0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 0, 0, 0]]
        assert batch["rejected_mask"].int().tolist()[1] == [0, 0, 0, 1, 1, 1, 1]


def test_preference_collate_counts_the_prompt_when_asked():
    batch = preference_collate(ITEMS, mask_prompt_tokens=False)
    assert batch["chosen_mask"].sum(dim=1).tolist() == [6, 4]


def test_preference_collate_cuts_to_the_allowed_length():
    batch = preference_collate(ITEMS, allowed_max_length=5)
    assert batch["rejected"].shape == (2, 5)
    assert batch["rejected_mask"].sum(dim=1).tolist() == [1, 2]


def test_preference_collate_refuses_to_cut_an_answer_away():
    with pytest.raises(
        ValueError, match=r"allowed_max_length=4 leaves nothing of the chosen.*row 0"
    ):
        preference_collate(ITEMS, allowed_max_length=4)


def test_compute_logprobs_is_the_mean_over_the_tokens_that_count():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 5), torch.randint(5, (2, 4))
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0]])
    found = compute_logprobs(logits, labels, mask)
    for row, places in enumerate(([2, 3], [1])):  # place 0 has nothing before it
        each = [math.log(F.softmax(logits[row, t - 1], -1)[labels[row, t]]) for t in places]
        assert found[row].item() == pytest.approx(sum(each) / len(each), abs=1e-6)
    everywhere = compute_logprobs(logits, labels)
    assert_close(everywhere, compute_logprobs(logits, labels, torch.ones(2, 4)))


def test_compute_logprobs_refuses_a_row_without_tokens():
    mask = torch.tensor([[0, 1, 1], [1, 0, 0]])
    with pytest.raises(ValueError, match="no token of row 1 counts"):
        compute_logprobs(torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.int64), mask)


def test_compute_logprobs_hangs_on_nothing_outside_of_the_mask():
    model = build(vocab_size=20)
    alone = preference_collate(ITEMS[1:], pad_token_id=0)
    for pad_id in (0, 11):
        batch = preference_collate(ITEMS, pad_token_id=pad_id)
        found = compute_logprobs(model(batch["chosen"]), batch["chosen"], batch["chosen_mask"])[1]
        expected = compute_logprobs(model(alone["chosen"]), alone["chosen"], alone["chosen_mask"])
        assert_close(found, expected[0])


# Two pairs, by hand: rewards are (-1.0 + 1.5, -2.0 + 1.8) and (-0.5 + 0.5, -0.9 + 1.0), so the
# differences are 0.5 + 0.2 = 0.7 and 0 - 0.1 = -0.1.
POLICY = torch.tensor([-1.0, -0.5]), torch.tensor([-2.0, -0.9])
REFERENCE = torch.tensor([-1.5, -0.5]), torch.tensor([-1.8, -1.0])
DIFFERENCES = (0.7, -0.1)


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_dpo_loss_equals_a_calculation_by_hand(beta):
    loss, chosen, rejected = compute_dpo_loss(*POLICY, *REFERENCE, beta)
    by_hand = [math.log(1 + math.exp(-beta * d)) for d in DIFFERENCES]
    assert loss.item() == pytest.approx(sum(by_hand) / 2, abs=1e-7)
    assert chosen.item() == pytest.approx((0.5 + 0.0) / 2, abs=1e-7)
    assert rejected.item() == pytest.approx((-0.2 + 0.1) / 2, abs=1e-7)


def test_dpo_gradients_equal_a_calculation_by_hand():
    """Of each pair: -beta * sigmoid(-beta * d) for the chosen one, its opposite for the other."""
    beta = 0.3
    policy = [part.clone().requires_grad_() for part in POLICY]
    compute_dpo_loss(*policy, *REFERENCE, beta)[0].backward()
    by_hand = [-beta / (1 + math.exp(beta * d)) / 2 for d in DIFFERENCES]
    assert policy[0].grad.tolist() == pytest.approx(by_hand, abs=1e-7)
    assert policy[1].grad.tolist() == pytest.approx([-g for g in by_hand], abs=1e-7)


def test_dpo_loss_of_a_batch_reaches_the_policy_alone(tokenizer):
    policy, reference = build(), build()
    batch = next(iter(loader(tokenizer)))
    loss, chosen, rejected = compute_dpo_loss_batch(batch, policy, reference, beta=0.1)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    # Without gradients the products may come from another kernel.
    assert [chosen.item(), rejected.item()] == pytest.approx([0, 0], abs=1e-5)
    loss.backward()
    assert policy.out_head.weight.grad.any()
    assert reference.out_head.weight.grad is None


def test_dpo_loss_of_a_loader_is_the_same_for_all_batch_sizes(tokenizer):
    policy, reference = build(2), build(3)
    found = [
        compute_dpo_loss_loader(loader(tokenizer, batch_size=size), policy, reference, 0.1)
        for size in (1, 2, 5)
    ]
    for values in found[1:]:
        assert values == pytest.approx(found[0], abs=1e-6)


def test_dpo_loss_of_a_loader_reads_as_many_batches_as_asked(tokenizer):
    policy, reference = build(2), build(3)
    one = compute_dpo_loss_loader(loader(tokenizer), policy, reference, 0.1, num_batches=1)
    same = compute_dpo_loss_loader(loader(tokenizer, ENTRIES[:2]), policy, reference, 0.1)
    assert one == pytest.approx(same, abs=1e-7)
    with pytest.raises(ValueError, match="gives no batch"):
        compute_dpo_loss_loader([], policy, reference, 0.1)
    with pytest.raises(ValueError, match="num_batches=0"):
        compute_dpo_loss_loader(loader(tokenizer), policy, reference, 0.1, num_batches=0)


def test_evaluate_dpo_loss_loader_leaves_modes_as_found(tokenizer):
    policy, reference = build(2, drop_rate=0.5).train(), build(3)
    both = loader(tokenizer), loader(tokenizer, ENTRIES[:3])
    found = evaluate_dpo_loss_loader(policy, reference, *both, 0.1, None)
    assert policy.training
    assert not reference.training
    names = ("loss", "chosen_reward", "rejected_reward")
    expected = compute_dpo_loss_loader(both[1], policy.eval(), reference, 0.1)
    assert [found[f"val_{name}"] for name in names] == pytest.approx(expected)
    assert set(found) == {f"{part}_{name}" for part in ("train", "val") for name in names}


def test_train_model_dpo_simple_widens_the_margin(tokenizer):
    policy = build(drop_rate=0.1)
    reference = copy.deepcopy(policy)
    before = {name: p.clone() for name, p in reference.named_parameters()}
    optimizer = torch.optim.AdamW(policy.parameters(), lr=5e-3)
    lines = []
    tracked = train_model_dpo_simple(
        policy, reference, loader(tokenizer), loader(tokenizer, ENTRIES[:2]), optimizer,
        num_epochs=3, beta=0.1, eval_freq=3, eval_iter=2, start_context="Say yes.",
        tokenizer=tokenizer, log=lines.append,
    )  # fmt: skip
    steps = [line for line in lines if line.startswith("Ep ")]
    assert steps[0].startswith("Ep 1 (Step 000000): Train loss 0.")
    assert "Train reward margins" in steps[0]
    assert len(steps) == len(tracked["train_losses"]) == len(tracked["tokens_seen"]) == 3
    assert len(lines) - len(steps) == 3  # a sample after each epoch
    margins = [
        chosen - rejected
        for chosen, rejected in zip(
            tracked["val_chosen_rewards"], tracked["val_rejected_rewards"], strict=True
        )
    ]
    assert margins[-1] > margins[0] + 0.3
    assert tracked["train_losses"][-1] < math.log(2) - 0.02
    assert all(torch.equal(p, before[name]) for name, p in reference.named_parameters())
    assert not policy.training


def test_train_model_dpo_simple_refuses_what_is_no_run(tokenizer):
    policy, reference = build(), build()
    optimizer = torch.optim.AdamW(policy.parameters())
    with pytest.raises(ValueError, match="num_epochs=0"):
        train_model_dpo_simple(policy, reference, [], [], optimizer, 0, 0.1, 1, 1, "a", tokenizer)
    with pytest.raises(ValueError, match="gives no batch"):
        train_model_dpo_simple(policy, reference, [], [], optimizer, 1, 0.1, 1, 1, "a", tokenizer)
