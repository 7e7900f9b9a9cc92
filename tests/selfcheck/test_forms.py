"""Names that chapters 5 and 6 share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from planted import READERS, results, right_source

from llm_scratch.selfcheck.names import read
from llm_scratch.selfcheck.run import run_checks

SHARED = ("calc_loss_batch", "calc_loss_loader", "evaluate_model")
OTHER = {"ch05": "ch06", "ch06": "ch05"}


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("chapter", OTHER)
def test_function_of_the_other_chapter_is_not_written_yet(chapter: str, name: str) -> None:
    found = results(right_source(OTHER[chapter]), chapter, name)
    assert {result.state for result in found} == {"open"}
    detail = f"not written yet (this {name} belongs to chapter {OTHER[chapter][-1]})"
    assert {result.detail for result in found} == {detail}


@pytest.mark.parametrize(
    ("chapter", "name"), [("ch05", "train_model_simple"), ("ch06", "train_classifier_simple")]
)
def test_training_waits_for_the_loss_that_another_chapter_has_replaced(
    chapter: str, name: str
) -> None:
    source = right_source(chapter) + "\n" + right_source(OTHER[chapter])
    (first, *others) = results(source, chapter, name)
    assert first.state == "waits"
    assert f"the one that it finds is that of chapter {OTHER[chapter][-1]}" in first.detail
    assert {result.state for result in others} == {"waits"}


@pytest.mark.parametrize("chapter", OTHER)
def test_folder_of_both_chapters_has_no_mistake(tmp_path: Path, chapter: str) -> None:
    for name in ("plain.py", "plain_later.py", "plain_ch06.py"):
        shutil.copy(READERS / name, tmp_path)
    report = run_checks(chapter, read(tmp_path))
    assert {result.state for result in report.results} == {"right"}
