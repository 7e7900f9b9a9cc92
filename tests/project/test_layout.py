"""The rules of the house that a program can check."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import llm_scratch

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "llm_scratch"
FOLDERS = ("llm_scratch", "chapters", "tests", "benchmarks")
TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".json", ".yaml", ".cfg", ""}

# Who may import whom: a module imports from its own row or from one above.
ROWS = (
    ("files", "download", "plotting"),
    ("tokenizers",),
    ("text", "model", "tensor_files", "appendix_a"),
    ("weights", "generation"),
    ("training",),
    ("lora",),
    ("finetuning", "judging"),
    ("opening",),
    ("selfcheck",),
    ("chapter",),
    ("cli",),
    ("__init__",),
    ("__main__",),
)
HEIGHT = {name: height for height, row in enumerate(ROWS) for name in row}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def project_files() -> list[Path]:
    """Every text file of the project, without what tools and runs leave behind."""
    skipped = {"__pycache__", "fixtures", "assets"}
    files = [path for path in ROOT.iterdir() if path.is_file()]
    files += [path for folder in (*FOLDERS, "data", ".ci") for path in (ROOT / folder).rglob("*")]
    return sorted(
        path
        for path in files
        if path.is_file() and path.suffix in TEXT_SUFFIXES and not skipped & set(path.parts)
    )


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_of(path: Path) -> str:
    """The dotted name of a module of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def imports_of(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it, save for types alone."""
    found = set()
    tree = parse(path)
    for block in ast.walk(tree):
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test):
            block.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = {f"{module}.{alias.name}" for alias in node.names}
            files = {name for name in names if is_module(name)}
            found |= files or {module}
    return {name for name in found if name.split(".")[0] == "llm_scratch"}


def is_module(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def row_of(module: str) -> int:
    return HEIGHT[module.split(".")[1]]


MODULES = python_files("llm_scratch")


@pytest.mark.parametrize("path", MODULES, ids=module_of)
def test_imports_go_down_only(path: Path) -> None:
    own = module_of(path)
    for other in imports_of(path):
        assert other != "llm_scratch", "import from the module, not from the package's root"
        assert row_of(other) <= row_of(own), f"{own} imports {other}"


def test_imports_make_no_circle() -> None:
    edges = {module_of(path): imports_of(path) for path in MODULES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for other in edges.get(module, ()):
                visit(other, (*trail, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def test_library_modules_are_all_placed() -> None:
    top = {module_of(path).split(".")[1] for path in MODULES}
    assert top <= set(HEIGHT)


@pytest.mark.parametrize("path", python_files(*FOLDERS), ids=lambda path: path.stem)
def test_file_and_its_functions_are_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.parent.name == "chapters":  # a chapter is as long as the book's; its prose is comments
        lines = [line for line in lines if not line.startswith("#")]
    assert len(lines) <= 400
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert code_lines(node) <= 60, f"{node.name} has {code_lines(node)} lines"


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function, its docstring not counted."""
    length = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is None:
        return length
    return length - (function.body[0].end_lineno - function.body[0].lineno + 1)


def test_tests_are_no_package() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_modules_bear_no_public_function_name() -> None:
    modules = {path.stem for path in MODULES} | {path.parent.name for path in MODULES}
    assert not modules & set(getattr(llm_scratch, "__all__", ()))


def text_calls(path: Path) -> list[ast.Call]:
    """Calls that read or write text: open without "b", read_text, write_text of pathlib."""
    found = []
    for node in ast.walk(parse(path)):
        if not isinstance(node, ast.Call):
            continue
        if is_other_open(node):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        arguments = [*node.args, *(word.value for word in node.keywords if word.arg == "mode")]
        modes = [a.value for a in arguments if isinstance(a, ast.Constant)]
        binary = any(
            isinstance(m, str) and re.fullmatch("[rwxa]?b[+]?|[rwxa]b?[+]?b", m) for m in modes
        )
        if name in ("read_text", "write_text") and isinstance(node.func, ast.Attribute):
            found.append(node)
        elif name in ("open", "fdopen", "NamedTemporaryFile") and not binary:
            found.append(node)
    return found


def is_other_open(call: ast.Call) -> bool:
    """Methods called open that are not a path's: the argument of a path's is a mode."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr != "open":
        return False
    return bool(call.args) and not isinstance(call.args[0], ast.Constant)


@pytest.mark.parametrize("path", python_files(*FOLDERS), ids=lambda path: path.stem)
def test_text_files_are_opened_with_an_encoding(path: Path) -> None:
    for call in text_calls(path):
        named = any(word.arg in ("encoding", None) for word in call.keywords)
        assert named, f"line {call.lineno}: {ast.unparse(call)}"


def test_text_calls_sees_what_it_should(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(
        "open('a')\nopen('a', 'rb')\nopen('a', mode='wb')\np.open()\np.read_text()\nread_text(p)\n"
        "tokenize.open(p)\np.open('w')\n",
        encoding="utf-8",
    )
    assert [call.lineno for call in text_calls(path)] == [1, 4, 5, 8]


# Put together from pieces, so that this file does not hold what it looks for.
FORBIDDEN = {
    "a path of a machine": r"(?<![\w.~])/" + r"(tmp|work|root|home|opt|farm)/",
    "an index address": "index" + "-url|pypi" + r"\.org|python" + "hosted",
    "unfinished work": "TO" + "DO|FIX" + "ME|XX" + "X|raise NotImplemented" + "Error",
    "unsafe loading": "weights_only" + "=False|allow_pickle" + "=True",
    "an error swallowed": "except" + ":|except " + "BaseException",
    "notes on how the work is organised": r"DECISION[S]|(DESIGN|HOUSE|api|pains)\.md|issue #?\d",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_files_hold_no(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in project_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)
