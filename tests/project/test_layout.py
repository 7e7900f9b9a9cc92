"""The rules of the house that a program can check."""

from __future__ import annotations

import ast
import functools
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
    ("checks", "compressed", "files", "data_files", "download", "foreign", "plotting", "tables"),
    ("tokenizers",),
    ("text", "model", "tensor_files", "appendix_a"),
    ("weights", "generation", "conversations"),
    ("training",),
    ("lora",),
    ("finetuning", "judging"),
    ("opening",),
    ("memory", "chat"),
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
    skipped = {"__pycache__", "fixtures", "assets", ".git"}
    files = [path for path in ROOT.iterdir() if path.is_file()]
    files += [
        path for folder in (*FOLDERS, "data", "docs", ".ci") for path in (ROOT / folder).rglob("*")
    ]
    return sorted(
        path
        for path in files
        if path.is_file() and path.suffix in TEXT_SUFFIXES and not skipped & set(path.parts)
    )


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_of(path: Path) -> str:
    """The dotted name of a module of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def is_module(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def modules_in(node: ast.AST) -> set[str]:
    """The modules that an import statement names; none for other nodes."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        module = node.module or ""
        names = {f"{module}.{alias.name}" for alias in node.names}
        return {name for name in names if is_module(name)} or {module}
    return set()


def imports_of(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it, also for types alone."""
    found = set().union(*map(modules_in, ast.walk(parse(path))))
    return {name for name in found if name.split(".")[0] == "llm_scratch"}


def imports_at_once(tree: ast.AST) -> set[str]:
    """The modules that are imported when a file is: not in its functions, not for types."""
    found = modules_in(tree)
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            found |= set().union(*map(imports_at_once, node.orelse))
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found |= imports_at_once(node)
    return found


def circle_in(edges: dict[str, set[str]]) -> str:
    """A circle in a graph, "" if there is none."""
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> str:
        if name in trail:
            return " -> ".join((*trail[trail.index(name) :], name))
        if name in done:
            return ""
        found = [visit(other, (*trail, name)) for other in sorted(edges.get(name, ()))]
        done.add(name)
        return next(filter(None, found), "")

    return next(filter(None, [visit(name, ()) for name in edges]), "")


def room_of(module: str) -> str:
    return module.split(".")[1]


MODULES = python_files("llm_scratch")
IMPORTS = {module_of(path): imports_of(path) for path in MODULES}


def test_library_modules_are_all_placed() -> None:
    assert set(map(room_of, IMPORTS)) <= set(HEIGHT)


def test_imports_name_a_module_and_not_the_root() -> None:
    assert [own for own, others in IMPORTS.items() if "llm_scratch" in others] == []


def test_imports_go_down_only() -> None:
    upwards = [
        f"{own} imports {other}"
        for own, others in IMPORTS.items()
        for other in others - {"llm_scratch"}
        if HEIGHT[room_of(other)] > HEIGHT[room_of(own)]
    ]
    assert upwards == []


def test_imports_make_no_circle() -> None:
    assert circle_in(IMPORTS) == ""


def test_rooms_import_each_other_one_way_only() -> None:
    rooms: dict[str, set[str]] = {}
    for own, others in IMPORTS.items():
        found = {room_of(other) for other in others - {"llm_scratch"}}
        rooms.setdefault(room_of(own), set()).update(found - {room_of(own)})
    assert circle_in(rooms) == ""


def test_circle_in_finds_circles() -> None:
    assert circle_in({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"c"}}) == ""
    assert circle_in({"z": {"a"}, "a": {"b"}, "b": {"c"}, "c": {"a"}}) == "a -> b -> c -> a"


def test_imports_are_seen_also_for_types_and_in_functions(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(
        "from llm_scratch.model import gpt\nif TYPE_CHECKING:\n    import llm_scratch.files\n"
        "def f():\n    from llm_scratch.model.config import GPTConfig\n",
        encoding="utf-8",
    )
    found = {f"llm_scratch.{name}" for name in ("model.gpt", "files", "model.config")}
    assert imports_of(path) == found
    assert imports_at_once(parse(path)) == {"llm_scratch.model.gpt"}


# Asked by the command line before it is known whether a model will be needed, or run by each of the
# processes that prepare a corpus.
WITHOUT_TORCH = (
    *("cli", "files", "model.config", "model.families", "text.part_writing", "training.config"),
)


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_modules_that_start_fast_load_no_torch(name: str) -> None:
    files = {module_of(path): path for path in MODULES}
    waiting = [m for m in files if f"{m}.".startswith(f"llm_scratch.{name}.")]
    assert waiting
    came_by = {module: module for module in waiting}
    while waiting:
        module = waiting.pop()
        others = imports_at_once(parse(files[module]))
        assert "torch" not in {other.split(".")[0] for other in others}, came_by[module]
        folders = {other.rpartition(".")[0] for other in others}  # their __init__.py runs too
        for other in (others | folders) & set(files) - set(came_by):
            came_by[other] = f"{came_by[module]} -> {other}"
            waiting.append(other)


def questions_of_class(tree: ast.AST) -> list[int]:
    """The lines that ask whether a model is a GPTModel, or which class's `forward` it has."""
    found = []
    for node in ast.walk(tree):
        called = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
        if called in ("isinstance", "issubclass") and "GPTModel" in ast.unparse(node.args[1]):
            found.append(node.lineno)
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Is | ast.IsNot | ast.Eq):
            asked = ast.unparse(node)
            if re.search(r"type\(.*\)", asked) and re.search(r"\.forward\b|\bGPTModel\b", asked):
                found.append(node.lineno)
    return sorted(found)


def test_models_are_asked_what_they_offer_and_not_what_class_they_are() -> None:
    """The model's own folder and the fast decoder, which copies what `forward` does, may ask."""
    own = {PACKAGE / "generation" / "single_token.py", *(PACKAGE / "model").glob("*.py")}
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in MODULES
        if path not in own
        for line in questions_of_class(parse(path))
    ]
    assert found == []


def test_questions_of_class_are_seen() -> None:
    tree = ast.parse(
        "isinstance(m, GPTModel)\nisinstance(m, (A, gpt.GPTModel))\ntype(x).forward is F\n"
        "isinstance(m, Linear)\ntype(m) is GPTModel\nx.forward(type(y))\n"
    )
    assert questions_of_class(tree) == [1, 2, 3, 5]


def test_files_and_their_functions_are_short() -> None:
    long = []
    for path in python_files(*FOLDERS):
        lines = path.read_text(encoding="utf-8").splitlines()
        if path.parent.name == "chapters":  # as long as the book's; its prose is comments
            lines = [line for line in lines if not line.startswith("#")]
        if len(lines) > 400:
            long.append(f"{path.relative_to(ROOT)} has {len(lines)} lines")
        long += [
            f"{path.relative_to(ROOT)}: {node.name} has {code_lines(node)} lines"
            for node in ast.walk(parse(path))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(node) > 60
        ]
    assert long == []


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


def test_text_files_are_opened_with_an_encoding() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno}: {ast.unparse(call)}"
        for path in python_files(*FOLDERS)
        for call in text_calls(path)
        if not any(word.arg in ("encoding", None) for word in call.keywords)
    ]
    assert found == []


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
