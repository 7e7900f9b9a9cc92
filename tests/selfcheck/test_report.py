from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from planted import READERS

import llm_scratch
from llm_scratch.cli import main
from llm_scratch.selfcheck.names import Written, read
from llm_scratch.selfcheck.run import CHAPTERS, chapter_key, check, checks_of, run_checks


def report_on(chapter: str, source: str) -> object:
    written = Written(label="reader")
    namespace: dict[str, object] = {"__name__": "reader"}
    exec(compile(source, "reader.py", "exec"), namespace)
    written.take(namespace)
    return run_checks(chapter, written)


@pytest.mark.parametrize("chapter", ["ch03", "ch04"])
def test_different_implementation_is_right(chapter: str) -> None:
    report = run_checks(chapter, read(READERS / "different.py"))
    assert not report.wrong
    assert report.exit_status == 0
    notes = [result for result in report.results if result.state == "note"]
    assert notes
    assert all("not a fault" in result.hint for result in notes)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_check_passes_on_this_library(chapter: str) -> None:
    written = Written(label="the library")
    written.names = {name: getattr(llm_scratch, name) for name in llm_scratch.__all__}
    if chapter == "ch06":  # there the library's functions are told which loss it is
        loss_fn = llm_scratch.last_position_loss
        for name in ("calc_loss_batch", "calc_loss_loader", "evaluate_model"):
            written.names[name] = partial(written.names[name], loss_fn=loss_fn)
    report = run_checks(chapter, written)
    assert not report.wrong
    states = {result.check.name: result.state for result in report.results}
    only_in_the_book = {name for name, state in states.items() if state in ("open", "waits")}
    assert only_in_the_book == set(states) - set(llm_scratch.__all__)


def test_report_says_what_was_expected_what_came_and_where_to_look() -> None:
    report = report_on("ch03", "def softmax_naive(x):\n    return x / x.sum()\n")
    text = str(report)
    assert "WRONG softmax_naive: turns scores into weights" in text
    assert "expected  [0.1385, 0.2379, 0.2333, " in text
    assert "hint      Write the formula" in text
    assert "Begin with softmax_naive (3.3.1)." in text
    assert report.exit_status == 1
    assert max(map(len, text.splitlines())) <= 100


def test_report_on_nothing_says_so() -> None:
    report = report_on("ch03", "")
    assert report.exit_status == 0
    assert "Nothing of this chapter is written yet." in str(report)
    assert str(report).count("MultiHeadAttention: not written yet") == 1


STUB = """
from torch import nn
class CausalAttention(nn.Module):
    def __init__(self, d_in, d_out, context_length, dropout, qkv_bias=False):
        raise STUB_ERROR
class MultiHeadAttentionWrapper(nn.Module):
    def __init__(self, d_in, d_out, context_length, dropout, num_heads, qkv_bias=False):
        super().__init__()
        self.head = SelfAttention_v1(d_in, d_out)
""".replace("STUB_ERROR", NotImplementedError.__name__)


def test_report_waits_for_what_is_not_written() -> None:
    report = report_on("ch03", STUB)
    states = {result.check.name: result.state for result in report.results}
    assert states["CausalAttention"] == states["MultiHeadAttentionWrapper"] == "waits"
    assert "waits for SelfAttention_v1, which is not written yet" in str(report)
    assert report.exit_status == 0


def test_report_explains_a_name_made_by_code_that_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "factor = input('?')\ndef softmax_naive(x):\n    return x * factor\n", encoding="utf-8"
    )
    (wrong, *_) = run_checks("ch03", read(path)).wrong
    assert "name 'factor' is not defined (line 3 of mine.py, in softmax_naive)" in wrong.came
    assert "made on mine.py, line 1, by code that checking does not run" in wrong.hint


@pytest.mark.parametrize(
    ("body", "came"),
    [
        ("raise SystemExit(3)", "SystemExit: 3 (line 2 of reader.py, in softmax_naive)"),
        ("return x.no_such", "AttributeError: 'Tensor' object has no attribute 'no_such'"),
        ("return softmax_naive(x)", "RecursionError"),
        ("return 3", "int"),
        ("return x.tolist()", "list"),
    ],
)
def test_report_survives_what_a_reader_writes(body: str, came: str) -> None:
    report = report_on("ch03", f"def softmax_naive(x):\n    {body}\n")
    assert came in report.wrong[0].came
    assert "Traceback" not in str(report)


def test_report_names_the_books_signature_and_the_readers() -> None:
    report = report_on("ch03", "class MultiHeadAttention:\n    def __init__(self, d_in): pass\n")
    (wrong,) = report.wrong
    assert wrong.expected.startswith("MultiHeadAttention(d_in, d_out, context_length, dropout, ")
    assert wrong.came.startswith("MultiHeadAttention(d_in): too many positional arguments")
    assert "10 more checks" in str(report)


def test_report_is_a_table_in_a_notebook() -> None:
    html = report_on("ch03", "def softmax_naive(x):\n    return '<b>'\n")._repr_html_()
    assert "<table" in html
    assert "WRONG" in html
    assert "3.3.1" in html
    assert "not written yet" in html
    assert html.count("<td") == html.count("</td>")


def test_check_prints_its_report_and_returns_it(capsys) -> None:
    report = check(3, {"softmax_naive": lambda x: x.exp() / x.exp().sum(0)})
    assert str(report) in capsys.readouterr().out
    assert repr(report) == (
        "<Report on your notebook or session: 2 right, 0 wrong, 5 names not written yet>"
    )


@pytest.mark.parametrize(
    ("written", "key"),
    [
        (3, "ch03"),
        ("3", "ch03"),
        ("Ch 3", "ch03"),
        ("chapter-05", "ch05"),
        ("A", "appendix_a"),
        ("appendix-d", "appendix_d"),
        ("e", "appendix_e"),
    ],
)
def test_chapter_key_understands(written: str | int, key: str) -> None:
    assert chapter_key(written) == key


def test_chapter_key_refuses_what_has_no_checks() -> None:
    with pytest.raises(ValueError, match="no checks for chapter 'ch09'; there are ch02"):
        chapter_key("ch09")


def test_claims_are_unique_and_in_the_books_order() -> None:
    for chapter in CHAPTERS:
        checks = checks_of(chapter)
        claims = [(check.name, check.claim) for check in checks]
        assert len(set(claims)) == len(claims)
        sections = [check.section for check in checks]
        assert sections == sorted(sections)


def test_command_gives_the_exit_status(tmp_path: Path, capsys) -> None:
    path = tmp_path / "mine.py"
    status = {}
    for source in ("", "def softmax_naive(x): return x\n", "def f(:\n"):
        path.write_text(source, encoding="utf-8")
        status[source] = main(["check", "ch03", str(path)])
    assert list(status.values()) == [0, 1, 2]
    assert main(["check", "ch03", str(tmp_path / "missing.py")]) == 2
    assert main(["check", "ch12", str(path)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert errors[0].startswith("llm-scratch: mine.py, line 1 is not valid Python")
