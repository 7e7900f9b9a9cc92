"""One process, several, and a run that goes on with another number of them: the same run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_server import RankServer, finished, torchrun
from run_cases import FAMILIES, STEPS, halfway, run_all, run_case
from safetensors.torch import load_file

from llm_scratch.training.distributed import ONE
from llm_scratch.weights.folder import load_model

MAIN = (
    "gpt-ddp-accumulated-sampled",
    "gpt-optimizer-tied-sampled",
    "gpt-full-meta-sampled",
    "llama-kept-checkpointing",
    "gpt-offload-tied-early",
    "llama-full-muon-tied",
    "llama-full-lora",
    "llama-mesh12-dpo",
    "gpt-optimizer-class",
    "llama-full-few",
)
GO_ON = ("gpt-optimizer-tied-sampled", "gpt-full-meta-sampled")
PLAIN = ("ddp", "optimizer", "full", "kept", "offload")
KINDS = ("", "-tied", "-muon", "-lora", "-checkpointing", "-accumulated")
OTHERS = ("gpt-{}-dpo", "gpt-{}-class", "gpt-{}-early-tied", "llama-{}-sampled", "gpt-{}-few")
SCRIPT = Path(__file__).parents[1] / "fixtures" / "run_cases.py"


class Outcomes:
    """What cases gave in one process, and in several; each is run when first asked for."""

    def __init__(self, folder: Path, several: dict[str, Any], count: int) -> None:
        self.folder, self.several, self.count = folder, several, count
        self._one: dict[str, Any] = {}

    @classmethod
    def of_server(cls, server: RankServer, folder: Path, count: int, *cases: str) -> Outcomes:
        """Let the server start processes for some cases."""
        ended = server.run(count, "cases", str(folder), *cases)
        assert ended.codes == [0] * count, ended.outputs
        return cls(folder, read_result(folder, count), count)

    def one(self, case: str) -> dict[str, Any]:
        """Return what a case gives in one process."""
        if case not in self._one:
            self._one |= run_all(self.folder, [case], ONE)
        return self._one[case]

    def gradients(self, count: int, case: str) -> dict[str, torch.Tensor]:
        """Return a case's first gradients by name, in so many processes."""
        return load_file(self.folder / str(count) / case / "gradients.safetensors")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Two processes by torchrun, which start once for all cases."""
    folder = tmp_path_factory.mktemp("cases")
    outcomes = Outcomes(folder, {}, 2)
    for case in GO_ON:
        outcomes.one(case)  # which the others go on with
    again = [f"{case}@{before}" for case in GO_ON for before in (1, 2)]
    code, output = finished(torchrun(2, SCRIPT, folder, *MAIN, *again))
    assert code == 0, output
    outcomes.several = read_result(folder, 2)
    return outcomes


def read_result(folder: Path, count: int) -> dict[str, Any]:
    return json.loads((folder / str(count) / "result.json").read_text(encoding="utf-8"))


def assert_near(found: list[float], wanted: list[float], tolerance: float, case: str) -> None:
    assert len(found) == len(wanted), case
    if not found:
        return
    worst = max(abs(a - b) for a, b in zip(found, wanted, strict=True))
    assert worst <= tolerance, f"{case}: {worst:.1e}"


def assert_equal(outcomes: Outcomes, case: str) -> None:
    """Compare losses, first gradients, validation losses and samples with one process's."""
    one, several = outcomes.one(case), outcomes.several[case]
    assert len(one["losses"]) <= STEPS
    assert_near(several["losses"], one["losses"], 1e-5, case)
    assert_near(several["norms"][:1], one["norms"][:1], 1e-6, case)
    assert_near(several["validation"], one["validation"], 1e-5, case)
    gradients = outcomes.gradients(outcomes.count, case)
    wanted = outcomes.gradients(1, case)
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        worst = (gradient - wanted[name]).abs().max().item()
        assert worst <= 1e-6, f"{case}: {name} {worst:.1e}"
    texts = [
        [float(json.loads(line)["text"]) for line in each["samples"].splitlines()]
        for each in (several, one)
    ]
    assert len(texts[0]) == (2 if "sampled" in case else 0)
    assert_near(*texts, 1e-4, case)


def assert_divided(outcomes: Outcomes, case: str) -> None:
    """Compare the bytes of each process with the part that its division gives it."""
    held, whole = outcomes.several[case]["held"], outcomes.one(case)["held"][0]
    words, count = case.split("-"), outcomes.count
    parts = {"ddp": 1, "optimizer": 1, "mesh21": 1, "mesh22": 2}
    parts = next((n for word, n in parts.items() if word in words), count)
    for name, total in whole.items():
        shares = [each[name] for each in held]
        if name == "optimizer" and "optimizer" in words:
            # Whole parameters are shared out; AdamW counts the steps of each on its own.
            assert sum(shares) == total, (case, shares)
            assert max(shares) < 0.6 * total, (case, shares)
        elif parts == 1:
            assert shares == [total] * count, (case, name)
        else:
            # Rows of odd numbers are divided unevenly; steps are counted by each.
            assert max(shares) <= 1.05 * total / parts + 400, (case, name, shares, total)
            copies = count // parts
            assert sum(shares) >= copies * total, (case, name)


@pytest.mark.parametrize("case", MAIN)
def test_two_processes_give_what_one_gives(outcomes, case):
    assert_equal(outcomes, case)


@pytest.mark.parametrize("case", MAIN)
def test_each_process_holds_its_part(outcomes, case):
    assert_divided(outcomes, case)


def test_early_stopping_ends_all_processes_at_the_same_step(outcomes):
    steps = len(outcomes.several["gpt-offload-tied-early"]["losses"])
    assert 0 < steps < STEPS
    assert steps == len(outcomes.one("gpt-offload-tied-early")["losses"])


@pytest.mark.parametrize("case", MAIN)
def test_best_model_is_whole(outcomes, case):
    assert_best_is_whole(outcomes, case)


def assert_best_is_whole(outcomes: Outcomes, case: str) -> None:
    """Compare the file of the best model, as everybody opens it, with the weights of the ranks."""
    folder = outcomes.folder / str(outcomes.count) / case
    if "lora" in case:
        model_file = load_file(folder / "adapter_model.safetensors")
        final = load_file(folder / "final.safetensors")
        learned = [name for name in final if ".lora." in name]
        assert len(model_file) == len(learned)
        return
    model, _ = load_model(folder)
    if outcomes.several[case]["best_step"] != STEPS:
        return
    final = load_file(folder / "final.safetensors")
    state = dict(model.named_parameters())
    assert final.keys() == state.keys()
    assert all(torch.equal(final[name], state[name]) for name in final)


@pytest.mark.parametrize("case", GO_ON)
def test_run_of_two_goes_on_with_two_to_the_bit(outcomes, case):
    again = outcomes.several[f"{case}@2"]
    for name in ("losses", "norms", "validation", "samples"):
        assert again[name] == outcomes.several[case][name]


@pytest.mark.parametrize("case", GO_ON)
def test_run_goes_on_with_another_number_of_processes(outcomes, case, tmp_path):
    assert_near(outcomes.several[f"{case}@1"]["losses"], outcomes.one(case)["losses"], 1e-5, case)
    folder = halfway(outcomes.folder / "2" / case, tmp_path / "run", ONE)
    lines: list[str] = []
    with pytest.warns(UserWarning, match="processes 2, and continues with 1"):
        found = run_case(case, ONE, folder, log=lines.append, resume=True)
    assert any("continuing after step 10" in line for line in lines)
    assert_near(found["losses"], outcomes.several[case]["losses"], 1e-5, case)


def matrix(count: int) -> list[str]:
    divisions = (*PLAIN, "mesh12", "mesh21") if count == 2 else (*PLAIN, "mesh22")
    cases = [
        f"{family}-{division}{kind}"
        for family in FAMILIES
        for division in divisions
        for kind in KINDS
    ]
    return cases + [form.format(division) for form in OTHERS for division in divisions]


@pytest.mark.parametrize(
    "count", [pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.long)]
)
def test_whole_matrix_equals_one_process(server, tmp_path, count):
    cases = matrix(count)
    outcomes = Outcomes.of_server(server, tmp_path, count, *cases)
    for case in cases:
        assert_equal(outcomes, case)
        assert_divided(outcomes, case)
        assert_best_is_whole(outcomes, case)


@pytest.mark.slow
def test_compiled_model_trains_in_two_processes(server, tmp_path):
    ended = server.run(2, "compiled", str(tmp_path), "gpt-ddp")
    assert ended.codes == [0, 0], ended.outputs
    found = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    for calls, graphs in found["compiled"]:
        assert calls > STEPS  # at every step, and once to try
        assert graphs > 0
    one = run_case("gpt-ddp", ONE, tmp_path / "one")
    assert_near(found["losses"], one["losses"], 1e-4, "compiled")
