"""What chapter scripts rely on: settings, the story, pictures."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from llm_scratch import chapter
from llm_scratch.plotting.insides import plot_activations
from llm_scratch.text.corpora import CORPORA


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch):
    return lambda *words: monkeypatch.setattr(sys, "argv", ["chapter.py", *words])


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A kernel, as far as a chapter can tell; holds what was displayed."""
    shown: list[object] = []
    display = SimpleNamespace(display=shown.append, Image=lambda data: data)
    kernel = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()), display=display)
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return shown


def test_settings_are_the_defaults_without_a_command_line(command_line) -> None:
    command_line()
    found = chapter.settings("Chapter 9.", epochs=10, rate=4e-4, text=None, sample=False)
    assert vars(found) == {
        "quick": False,
        "out": "chapter-output",
        "epochs": 10,
        "rate": 4e-4,
        "text": None,
        "sample": False,
    }


def test_settings_take_the_type_of_their_default(command_line) -> None:
    words = "--epochs 3 --learning-rate 1e-3 --text a.txt --full --no-shuffle --quick --out p"
    command_line(*words.split())
    found = chapter.settings(
        None, epochs=10, learning_rate=4e-4, text=None, full=False, shuffle=True, folder=Path("x")
    )
    assert (found.epochs, found.learning_rate, found.text) == (3, 1e-3, "a.txt")
    assert (found.full, found.shuffle, found.quick) == (True, False, True)
    assert (found.out, found.folder) == ("p", Path("x"))


def test_settings_take_other_defaults_for_quick_and_out(command_line) -> None:
    command_line()
    found = chapter.settings(None, quick=True, out="here")
    assert (found.quick, found.out) == (True, "here")


@pytest.mark.parametrize("words", [["--epoch", "3"], ["--epochs", "many"], ["--unknown"]])
def test_settings_end_with_2_on_a_mistake(command_line, words, capsys) -> None:
    command_line(*words)
    with pytest.raises(SystemExit) as caught:
        chapter.settings("Chapter 9.", epochs=10)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_settings_help_shows_the_docstring_and_the_defaults(command_line, capsys) -> None:
    command_line("--help")
    with pytest.raises(SystemExit):
        chapter.settings("Chapter 9.\n\n  100 % ours", epochs=10, share="5%")
    shown = capsys.readouterr().out
    assert "Chapter 9.\n\n  100 % ours" in shown
    assert "default: 10" in shown
    assert "default: 5%" in shown


def test_settings_refuse_a_default_of_another_type(command_line) -> None:
    command_line()
    with pytest.raises(TypeError, match="'sizes' is a list"):
        chapter.settings(None, sizes=[1, 2])


def test_settings_ignore_the_command_line_in_a_notebook(command_line, notebook) -> None:
    command_line("-f", "kernel.json", "--quick")
    assert chapter.settings(None, epochs=10).quick is False


def test_story_is_the_books_where_it_is_found(verdict, capsys) -> None:
    assert chapter.story() == (CORPORA["the-verdict"].title, verdict)
    assert capsys.readouterr().out == ""


def test_story_is_ours_with_one_line_where_the_books_is_missing(
    monkeypatch, tmp_path, capsys
) -> None:
    monkeypatch.setenv("LLM_SCRATCH_DATA", str(tmp_path))
    monkeypatch.setenv("LLM_SCRATCH_CACHE", str(tmp_path))
    title, text = chapter.story()
    assert title == "The Tide Clock"
    assert len(text) >= 20_000
    shown = capsys.readouterr().out
    assert shown.count("\n") == 1
    assert "is missing; llm-scratch fetch the-verdict gets it; continuing with our own" in shown


def test_missing_prints_one_line(capsys) -> None:
    chapter.missing("GPT-2", "llm-scratch fetch gpt2")
    assert capsys.readouterr().out == "GPT-2 is missing; llm-scratch fetch gpt2 gets it\n"


def test_show_saves_the_picture_and_prints_its_path(tmp_path, capsys) -> None:
    settings = argparse.Namespace(out=str(tmp_path / "new" / "folder"))
    chapter.show(settings, "activations", plot_activations)
    path = tmp_path / "new" / "folder" / "activations.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"Picture: {path}\n"


def test_show_hands_the_arguments_on(tmp_path) -> None:
    seen = []

    def draw(*args: object, **kwargs: object):
        seen.append((args, kwargs))
        return plot_activations()

    chapter.show(argparse.Namespace(out=tmp_path), "x", draw, 1, 2, labels="ab")
    assert seen == [((1, 2), {"labels": "ab"})]


def test_show_displays_inline_in_a_notebook(notebook, tmp_path, capsys) -> None:
    chapter.show(argparse.Namespace(out=tmp_path / "unused"), "x", plot_activations)
    assert len(notebook) == 1
    assert notebook[0].startswith(b"\x89PNG")
    assert not (tmp_path / "unused").exists()
    assert capsys.readouterr().out == ""


def test_show_says_how_to_get_matplotlib(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    chapter.show(argparse.Namespace(out=tmp_path), "losses", plot_activations)
    shown = capsys.readouterr().out
    assert shown.count("\n") == 1
    assert "losses" in shown
    assert "pip install matplotlib" in shown


def test_show_hides_no_other_missing_module(tmp_path) -> None:
    def draw():
        raise ModuleNotFoundError("No module named 'pandas'", name="pandas")

    with pytest.raises(ModuleNotFoundError, match="pandas"):
        chapter.show(argparse.Namespace(out=tmp_path), "x", draw)


def test_show_goes_on_where_nothing_can_be_written(tmp_path, capsys) -> None:
    (tmp_path / "file").write_bytes(b"")
    chapter.show(argparse.Namespace(out=tmp_path / "file"), "x", plot_activations)
    shown = capsys.readouterr().out
    assert shown.count("\n") == 1
    assert "--out" in shown


def test_in_notebook_is_false_in_a_script_and_in_plain_ipython(monkeypatch) -> None:
    assert not chapter.in_notebook()
    terminal = SimpleNamespace(get_ipython=lambda: object())
    monkeypatch.setitem(sys.modules, "IPython", terminal)
    assert not chapter.in_notebook()


def test_printing_survives_a_console_of_another_encoding(monkeypatch) -> None:
    code = "from llm_scratch.chapter import settings; settings(None); print('“東京” — naïve')"
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.decode("cp1252").strip() == "“??” — naïve"
