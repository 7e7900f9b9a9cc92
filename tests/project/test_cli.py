"""The command: what it prints, where, and its exit code."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest

from llm_scratch import cli
from llm_scratch.cli import environment, notebook
from llm_scratch.text.corpora import CORPORA
from llm_scratch.weights.wheels import MODELS

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = '''"""Chapter 9: clocks.

Run it.
"""

from __future__ import annotations

# %% [markdown]
# # 9.1 Ticking
#
# A clock - *ticks*.

# %%
print("tick — tock")

# %% the last cell
x = """
# not a heading
"""
'''


@pytest.fixture(scope="module")
def project() -> dict:
    """The project's table in pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture
def empty_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LLM_SCRATCH_DATA", str(tmp_path))
    monkeypatch.setenv("LLM_SCRATCH_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def chapters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with four chapters, the working directory somewhere else."""
    folder = tmp_path / "chapters"
    folder.mkdir()
    for stem in ("ch09_bonus_sundials", "ch09_clocks", "appendix_z_one", "appendix_z_two"):
        (folder / f"{stem}.py").write_text(SCRIPT, encoding="utf-8")
    monkeypatch.setattr(notebook, "chapter_folders", lambda: [tmp_path / "none", folder])
    monkeypatch.chdir(tmp_path)
    return folder


def test_main_without_a_command_shows_the_commands(capsys) -> None:
    assert cli.main([]) == 2
    shown = capsys.readouterr().err
    assert all(word in shown for word in ("fetch", "doctor", "notebook"))


@pytest.mark.parametrize("words", [["nothing"], ["fetch", "--fast"], ["notebook"]])
def test_main_ends_with_2_on_wrong_usage(words, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert "llm-scratch" in capsys.readouterr().err


def test_main_prints_a_users_mistake_in_one_line(empty_folders, capsys) -> None:
    assert cli.main(["fetch", "nothing"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(
        "llm-scratch: no text or model is called 'nothing'; there are the-verdict"
    )
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [["--verbose", "fetch", "x"], ["fetch", "x", "--verbose"]])
def test_main_shows_the_traceback_when_asked(words, empty_folders, capsys) -> None:
    assert cli.main(words) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("two\nlines"), 2),
        (FileNotFoundError("gone"), 2),
        (OSError("no network"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_main_tells_mistakes_from_failures(error, code, monkeypatch, capsys) -> None:
    def fail(args: object) -> int:
        raise error

    monkeypatch.setattr(cli.data, "run_fetch", fail)
    assert cli.main(["fetch"]) == code
    assert capsys.readouterr().err.count("\n") == (code != 130)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end otherwise there")
def test_main_ends_quietly_when_nobody_reads_on() -> None:
    code = "from llm_scratch.cli import main\nwhile main(['fetch']) == 0: pass\n"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


def test_main_prints_a_warning_in_one_line(monkeypatch) -> None:
    shown = []

    def warn(args: object) -> int:
        shown.append(warnings.formatwarning("left out: 2 rows", UserWarning, "rows.py", 7))
        return 0

    monkeypatch.setattr(cli.data, "run_fetch", warn)
    before = warnings.formatwarning
    assert cli.main(["fetch"]) == 0
    assert shown == ["llm-scratch: left out: 2 rows\n"]
    assert warnings.formatwarning is before


def test_main_shows_the_version(capsys) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"llm-scratch {importlib.metadata.version('llm-scratch')}\n"


def test_every_group_of_commands_is_there() -> None:
    files = (ROOT / "llm_scratch" / "cli").glob("*.py")
    shared = {"__init__", "options", "settings", "finetune_chat", "finetune_runs", "processes"}
    shared |= {"outlook", "page", "memory_measuring", "memory_step", "memory_tables"}
    assert {path.stem for path in files} - shared == {
        group.__name__.rpartition(".")[2] for group in cli.GROUPS
    }


def test_main_hides_no_programming_error(monkeypatch) -> None:
    def fail(args: object) -> int:
        raise AttributeError("a bug")

    monkeypatch.setattr(cli.data, "run_fetch", fail)
    with pytest.raises(AttributeError):
        cli.main(["fetch"])


def test_module_and_command_are_the_same(project) -> None:
    assert project["scripts"] == {"llm-scratch": "llm_scratch.cli:main"}
    command = [sys.executable, "-m", "llm_scratch", "fetch", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 2
    assert done.stderr.startswith("llm-scratch: no text or model is called")


def test_fetch_without_a_name_lists_the_texts(empty_folders, capsys) -> None:
    assert cli.main(["fetch"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*CORPORA, *MODELS]
    assert "llm-scratch fetch the-verdict gets it" in lines[0]


def test_fetch_prints_the_path_and_the_size(empty_folders, capsys) -> None:
    assert cli.main(["fetch", "the-tide-clock"]) == 0
    shown = capsys.readouterr().out
    assert "the-tide-clock.txt" in shown
    assert shown.endswith(" bytes)\n")


def test_doctor_is_content_here(capsys) -> None:
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("python", "torch", "numpy", "tiktoken", "cpu"))
    assert "float32, bfloat16" in shown
    assert shown.endswith("Everything required is here.\n")


@pytest.mark.parametrize(
    ("name", "version", "code", "line"),
    [
        ("numpy", None, 1, "not installed (required: pip install numpy)"),
        ("matplotlib", None, 0, "not installed (optional: pip install matplotlib)"),
        ("torch", "1.13.0", 1, "older than tested"),
        ("torch", "99.0", 0, "newer than tested"),
    ],
)
def test_doctor_tells_what_is_outside_the_tested_range(
    name, version, code, line, monkeypatch, capsys
) -> None:
    original = environment._installed
    monkeypatch.setattr(
        environment, "_installed", lambda asked: version if asked == name else original(asked)
    )
    assert cli.main(["doctor"]) == code
    (row,) = (row for row in capsys.readouterr().out.splitlines() if row.startswith(name))
    assert line in row


def test_doctor_ends_with_1_when_our_own_story_is_missing(monkeypatch, capsys) -> None:
    monkeypatch.setattr("llm_scratch.text.corpora.data_folders", list)
    assert cli.main(["doctor"]) == 1
    assert "Something required is missing." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ("2.12.1", "older"),
        ("2.13.0+cpu", ""),
        ("2.13.5", ""),
        ("2.14.0.dev1", ""),
        ("2.15.0", "newer"),
        ("3.0", "newer"),
        (None, "not installed"),
    ],
)
def test_judge_compares_the_numbers(found, verdict) -> None:
    said = environment.judge(found, ("2.13", "2.14"))
    assert said.startswith(verdict)
    assert bool(said) == bool(verdict)


def test_doctor_asks_for_what_the_project_declares(project) -> None:
    declared = dict(line.split(">=") for line in project["dependencies"])
    assert {name: oldest for name, (oldest, _) in environment.NEEDED.items()} == declared
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    optional = dict(line.split(">=") for line in extras)
    assert all(optional[name] == oldest for name, (oldest, _) in environment.OPTIONAL.items())
    assert project["requires-python"] == f">={environment.PYTHON[0]}"


@pytest.mark.parametrize("name", ["ch09", "ch09_clocks"])
def test_notebook_writes_the_chapter(name, chapters, capsys) -> None:
    assert cli.main(["notebook", name]) == 0
    assert capsys.readouterr().out == "ch09_clocks.ipynb: 5 cells\n"
    written = json.loads(Path("ch09_clocks.ipynb").read_text(encoding="utf-8"))
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in written["cells"]] == [
        ("markdown", "Chapter 9: clocks.\n\nRun it."),
        ("code", "from __future__ import annotations"),
        ("markdown", "# 9.1 Ticking\n\nA clock - *ticks*."),
        ("code", 'print("tick — tock")'),
        ("code", 'x = """\n# not a heading\n"""'),
    ]


def test_notebook_of_bonus_material_has_a_name_of_its_own(chapters, capsys) -> None:
    assert cli.main(["notebook", "ch09_bonus"]) == 0
    assert capsys.readouterr().out == "ch09_bonus_sundials.ipynb: 5 cells\n"


def test_notebook_is_valid_for_jupyter(chapters) -> None:
    nbformat = pytest.importorskip("nbformat")
    cli.main(["notebook", "ch09", "--out", "mine.ipynb"])
    nbformat.validate(nbformat.read("mine.ipynb", as_version=nbformat.NO_CONVERT))


def test_notebook_leaves_an_existing_file_alone(chapters, capsys) -> None:
    Path("mine.ipynb").write_text("my work", encoding="utf-8")
    assert cli.main(["notebook", "ch09", "--out", "mine.ipynb"]) == 2
    assert Path("mine.ipynb").read_text(encoding="utf-8") == "my work"
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "ch99",
            "no chapter is called 'ch99': appendix_z_one, appendix_z_two, ch09_bonus_sundials",
        ),
        (
            "appendix_z",
            "more than one chapter is called 'appendix_z'",
        ),
        ("ch0", "no chapter is called 'ch0'"),
    ],
)
def test_notebook_lists_the_chapters_for_a_wrong_name(name, message, chapters, capsys) -> None:
    assert cli.main(["notebook", name]) == 2
    assert message in capsys.readouterr().err


def test_find_chapter_finds_every_script_of_this_project() -> None:
    for script in (ROOT / "chapters").glob("*.py"):
        assert notebook.find_chapter(script.stem).resolve() == script
        cells = notebook.to_notebook(script.read_text(encoding="utf-8"))["cells"]
        assert {cell["cell_type"] for cell in cells} == {"markdown", "code"}


def test_to_notebook_takes_a_script_without_marks() -> None:
    (cell,) = notebook.to_notebook("x = 1\n")["cells"]
    assert cell["source"] == ["x = 1"]
