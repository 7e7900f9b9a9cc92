from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
ROOT = Path(__file__).resolve().parents[2]
SOURCE = "def softmax_naive(x):\n    return x.exp() / x.exp().sum(dim=0)\n"
OWN_TEST = "def test_of_the_library():\n    assert False\n"


@pytest.fixture
def impl(pytester: pytest.Pytester):
    """Run pytest with --impl in a folder that is laid out as the project's."""
    for folder in ("ch03", "ch07", "project"):
        (pytester.path / "tests" / folder).mkdir(parents=True)
        (pytester.path / "tests" / folder / "test_own.py").write_text(OWN_TEST, encoding="utf-8")
    pytester.syspathinsert(Path(__file__).parent)

    def run_with(source: str | None, *words: str) -> pytest.RunResult:
        path = pytester.path / "mine.py"
        if source is not None:
            path.write_text(source, encoding="utf-8")
        options = ("-p", "impl_option", "-p", "no:cacheprovider", "--impl", str(path))
        return pytester.runpytest_inprocess(*(words or ("tests/ch03",)), *options)

    return run_with


def test_impl_runs_the_checks_in_place_of_the_folders_tests(impl) -> None:
    result = impl(SOURCE, "tests/ch03", "-v", "-rs")
    result.assert_outcomes(passed=2, skipped=45)
    result.stdout.fnmatch_lines(
        [
            "*softmax_naive: turns scores into weights PASSED*",
            "*your ch03*",
            "*5 names not written*",
        ]
    )
    assert result.ret == 0
    assert "test_own" not in result.stdout.str()


def test_impl_shows_a_mistake_without_a_traceback(impl) -> None:
    result = impl("def softmax_naive(x):\n    return x / 0.0\n")
    result.assert_outcomes(failed=1, skipped=46)
    result.stdout.fnmatch_lines(["*WRONG softmax_naive*", "*expected*", "*got*", "*hint*"])
    assert result.ret == 1
    assert "Error" not in result.stdout.str()
    assert result.stdout.str().count("hint ") == 1


def test_impl_runs_every_chapter_there_is(impl) -> None:
    result = impl(SOURCE, "tests")
    result.stdout.fnmatch_lines(["*your ch03*", "*your ch07*"])
    assert result.ret == 0
    assert "test_own" not in result.stdout.str()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(:\n", "*mine.py, line 1 is not valid Python (invalid syntax): def f(:*"),
        (None, "*mine.py is not there; give a .py file, a notebook or a folder*"),
    ],
)
def test_impl_ends_with_2_on_a_file_it_cannot_read(impl, source: str | None, message: str) -> None:
    result = impl(source)
    assert result.ret == 2
    (result.stderr if message in result.stderr.str() else result.stdout).str()
    output = result.stdout.str() + result.stderr.str()
    assert message.strip("*") in output
    assert "Traceback" not in output


def test_impl_ends_with_2_when_nothing_could_be_run(impl) -> None:
    result = impl("import not_there\n")
    result.stdout.fnmatch_lines(["*import not_there -> ModuleNotFoundError*"])
    assert result.ret == 2


def test_impl_on_an_empty_file_says_that_nothing_is_written(impl) -> None:
    result = impl("")
    result.assert_outcomes(skipped=47)
    result.stdout.fnmatch_lines(["Nothing of this chapter is written yet."])
    assert result.ret == 0


def test_impl_wants_a_folder(impl) -> None:
    result = impl(SOURCE, "tests/ch03/test_own.py")
    assert result.ret == 2
    assert "name a folder, such as tests/ch03" in result.stdout.str() + result.stderr.str()


WRITE_AND_CHECK = """
import sys
from pathlib import Path
import pytest

Path("mine.py").write_text(sys.argv[2], encoding="utf-8")
options = ["-q", "-p", "no:cacheprovider", "--impl", "mine.py"]
raise SystemExit(pytest.main([sys.argv[1], *options]))
"""


@pytest.mark.script("-c", WRITE_AND_CHECK, ROOT / "tests" / "ch03", SOURCE)
def test_impl_works_in_this_project(run) -> None:
    assert "2 passed, 45 skipped" in run.output
    assert "5 names not written yet" in run.output
    assert "figures of the book" not in run.output
