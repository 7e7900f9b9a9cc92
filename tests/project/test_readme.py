"""What the README and the pages on names and files say is so."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import llm_scratch

ROOT = Path(__file__).resolve().parents[2]
README, NAMES, FILES = (
    (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "docs/names.md", "docs/files.md")
)
PUBLIC = set(getattr(llm_scratch, "__all__", []))


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def rows() -> list[tuple[str, str]]:
    """(name, module) of every name in the table of names."""
    found = []
    for line in NAMES.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[2].startswith("`"):
            found += [(name, cells[2].strip("`")) for name in re.findall(r"`(\w+)`", cells[1])]
    return found


def test_rows_reads_the_table() -> None:
    assert ("GPTModel", "llm_scratch.model.gpt") in rows()
    assert len(rows()) > 40


def test_rows_name_the_module_and_the_package_has_the_name() -> None:
    wrong = []
    for name, module in rows():
        thing = getattr(importlib.import_module(module), name, None)
        home = getattr(thing, "__module__", module)
        if thing is None or home != module or getattr(llm_scratch, name) is not thing:
            wrong.append(f"{name}: {module} in the table, {home} in the package")
    assert wrong == []


def test_table_has_every_public_name() -> None:
    assert PUBLIC - {"__version__"} == {name for name, _ in rows()}


def test_ci_runs_the_readmes_test_command() -> None:
    train, test = (block.strip() for block in blocks("bash"))
    assert train.endswith("chapters/ch05_pretrain.py")
    assert test.endswith("-m pytest")
    assert test in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_windows_commands_are_the_same_ones() -> None:
    def words(command: str) -> str:
        plain = command.replace("\\", "/").replace("/Scripts/", "/bin/").replace('"', "'")
        return re.sub(r"^(py|python3) ", "", plain.strip())

    (windows,) = blocks("bat")
    assert list(map(words, windows.strip().splitlines())) == list(map(words, blocks("bash")))


def table(page: str) -> list[dict[str, str]]:
    """The rows of the first table on a page whose first column is "work"."""
    lines = page[page.index("| work |") :].partition("\n\n")[0].splitlines()
    head, _, *body = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines)
    return [dict(zip(head, row, strict=True)) for row in body]


def test_figures_are_those_of_the_results() -> None:
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    measured = {(row["work"], row["peer"]): row for row in table(results)}
    said = table(README)
    peers = " ".join(row["peer"] for row in said)
    for name in ("the book's", "nanoGPT", "transformers", "TRL", "llama.cpp"):
        assert name in peers
    for row in said:
        found = measured[row["work"], row["peer"]]
        assert row == {name: found[name] for name in row}
        assert f"{found['machine']}, {found['date']}" in README.replace("\n", " ")


def test_every_page_of_docs_is_named() -> None:
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages == set(re.findall(r"docs/[\w.-]+\.md", README))


def test_pages_name_files_that_are_there() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        named = re.findall(r"\b(?:llm_scratch|chapters|docs|data)/[\w/-]+\.\w+", text)
        assert [name for name in named if not (ROOT / name).is_file()] == [], page.name


def test_tree_names_the_rooms_and_nothing_else() -> None:
    (tree,) = blocks("text", FILES)
    names = re.findall(r"^(?:  )?([\w/.]+) {2,}\S", tree, flags=re.MULTILINE)
    package = ROOT / "llm_scratch"
    rooms = {f"{p.name}/" for p in package.iterdir() if p.is_dir() and p.name[0] != "_"}
    files = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    top = {"llm_scratch/", "chapters/", "docs/", "data/", "tests/", "benchmarks/"}
    assert set(names) == rooms | files | top
