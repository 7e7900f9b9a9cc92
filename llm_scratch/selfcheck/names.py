"""The names that a reader wrote, from a .py file, a folder, a notebook or a dict."""

from __future__ import annotations
import __future__ as future

import ast
import contextlib
import importlib.machinery
import importlib.util
import os
import sys
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from llm_scratch.selfcheck.foreign import attempt, describe, home_of, quiet_and_restored
from llm_scratch.selfcheck.notebooks import SourceError, code_cells
from llm_scratch.selfcheck.statements import (
    DEFINITIONS,
    first_line,
    is_taken,
    is_text,
    libraries_of,
    names_bound,
)

Source = str | os.PathLike[str] | Mapping[str, Any] | ModuleType

# Calls into these build models and loaders, which must not happen when a file is read.
NOT_LIBRARIES = frozenset({"llm_scratch", "llms_from_scratch"})


class Version(NamedTuple):
    """An object that a reader wrote, with its name and its file."""

    name: str
    file: str
    thing: Any


@dataclass
class Written:
    """The code that a reader wrote.

    Args:
        label: the name of the source in the report.
        folder: where the reader's own modules are imported from.
        names: the objects by name, without those of libraries.
        versions: name -> the objects of that name, one for each file that defines it.
        imported: name -> the library that it was only imported from.
        broken: name -> why the class or function of that name could not be made.
        absent: name -> where it would be made, by code that is not run or that failed.
        unreadable: parts that are not Python, one line for each.
        failed: statements that were run and failed, one line each.
        left_out: statements that are not run, one line each.
    """

    label: str
    folder: Path | None = None
    names: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, list[Version]] = field(default_factory=dict)
    imported: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def take(self, namespace: Mapping[str, Any], place: str = "") -> None:
        """Add the names of a namespace; the reader's own are kept apart from those of libraries."""
        for name, thing in namespace.items():
            if name.startswith("__"):
                continue
            self.absent.pop(name, None)
            self.broken.pop(name, None)
            if home := home_of(thing):
                self.imported[name] = home
            else:
                self.imported.pop(name, None)
                if self.names.get(name) is not thing:
                    self.versions.setdefault(name, []).append(Version(name, place, thing))
                self.names[name] = thing


def read(source: Source) -> Written:
    """Return the names of a .py file, a notebook, a folder of them, a module or a dict.

    Raises:
        FileNotFoundError: if the path is not there.
        SourceError: if the file is neither Python nor a notebook; a `ValueError`.
        TypeError: if `source` is none of these.
    """
    if isinstance(source, ModuleType):
        source = vars(source)
    if isinstance(source, Mapping):
        written = Written(label="your notebook or session")
        written.take(dict(source))
        return written
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"expected a path, a module or a dict such as globals(), got {type(source).__name__}"
        )
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; give a .py file, a notebook or a folder")
    return _read_folder(path) if path.is_dir() else _read_file(path)


def _read_file(path: Path) -> Written:
    written = Written(label=path.name, folder=path.resolve().parent)
    with quiet_and_restored(), own_modules(written):
        _run_file(path, written)
    if written.unreadable and path.suffix == ".py":
        raise SourceError(written.unreadable[0])
    return written


def _read_folder(path: Path) -> Written:
    files = sorted(f for suffix in (".py", ".ipynb") for f in path.glob(f"*{suffix}"))
    files = [f for f in files if not f.name.startswith((".", "test_", "conftest"))]
    if not files:
        raise SourceError(f"{path} holds no .py file and no notebook; give the folder of your code")
    written = Written(label=f"{path.name or path}/", folder=path.resolve())
    with quiet_and_restored(), own_modules(written):
        for file in files:
            try:
                _run_file(file, written)
            except SourceError as error:
                written.unreadable.append(str(error))
    return written


def _run_file(path: Path, written: Written) -> None:
    """Run the accepted statements of one file, and add its names."""
    if path.suffix not in (".py", ".ipynb"):
        raise SourceError(f"{path} is neither a .py file nor a notebook (.ipynb)")
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    sys.modules.setdefault(path.stem, module)
    execute(path, vars(module), written)
    written.take(vars(module), path.name)
    if sys.modules.get(path.stem) is module:
        del sys.modules[path.stem]


def execute(path: Path, namespace: dict[str, Any], written: Written) -> None:
    """Run the accepted statements of a file, and note those that fail."""
    own = NOT_LIBRARIES | _module_names(written.folder)
    libraries: set[str] = set()
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if path.suffix == ".ipynb" else 0
    for place, filename, source in _parts(path):
        tree = _parse(source, filename, place, flags, written)
        for statement in tree.body if tree is not None else ():
            where = f"{place}line {statement.lineno}"
            if isinstance(statement, ast.ImportFrom):
                if statement.module == "__future__":
                    for alias in statement.names:
                        flags |= getattr(future, alias.name).compiler_flag
                    continue
                statement = _absolute(statement)
            if is_taken(statement, libraries, own):
                libraries |= libraries_of(statement, own)
                _run(statement, filename, flags, namespace, where, written)
            else:
                reason = f"made on {where}, by code that checking does not run"
                written.absent.update(dict.fromkeys(names_bound(statement), reason))
                if not is_text(statement):
                    written.left_out.append(f"{where}: {first_line(statement)}")


def _parts(path: Path) -> list[tuple[str, str, str]]:
    """Return (place, file name for tracebacks, code) of a file, or of each cell."""
    if path.suffix == ".ipynb":
        return [
            (f"{path.name}, cell {number}, ", f"{path.name} cell {number}", source)
            for number, source in code_cells(path)
        ]
    try:
        with tokenize.open(path) as file:
            return [(f"{path.name}, ", str(path), file.read())]
    except (SyntaxError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} is not a text in UTF-8 ({error}); save it as UTF-8") from error


def _parse(
    source: str, filename: str, place: str, flags: int, written: Written
) -> ast.Module | None:
    trees: list[ast.Module] = []

    def work() -> None:
        trees.append(
            compile(source, filename, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
        )

    error = attempt(work)
    if error is None:
        return trees[0]
    line = f"line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else "a line"
    text = (error.text or "").strip() if isinstance(error, SyntaxError) else ""
    message = getattr(error, "msg", None) or str(error)
    shown = f": {text}" if text else ""
    written.unreadable.append(f"{place}{line} is not valid Python ({message}){shown}")
    return None


def _absolute(statement: ast.ImportFrom) -> ast.stmt:
    """Return an import relative to the reader's folder in the form that its finder takes."""
    if not statement.level:
        return statement
    if statement.module is None:
        new: ast.stmt = ast.Import(names=statement.names)
    else:
        new = ast.ImportFrom(module=statement.module, names=statement.names, level=0)
    return ast.fix_missing_locations(ast.copy_location(new, statement))


def _run(
    statement: ast.stmt,
    filename: str,
    flags: int,
    namespace: dict[str, Any],
    where: str,
    written: Written,
) -> None:
    module = ast.Module(body=[statement], type_ignores=[])
    names = names_bound(statement)

    def work() -> None:
        code = compile(module, filename, "exec", flags, dont_inherit=True)
        exec(code, namespace)

    error = attempt(work)
    if error is None:
        for name in names:
            written.absent.pop(name, None)
        return
    message = describe(error).partition(" (line")[0]
    written.absent.update(dict.fromkeys(names, f"made on {where}, which failed: {message}"))
    if isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        return  # it depends on code that was not run; checks that need it say so
    written.failed.append(f"{where}: {first_line(statement)} -> {message}")
    if isinstance(statement, DEFINITIONS):
        written.broken.update(dict.fromkeys(names, f"{message} ({where})"))
        for name in names:
            namespace.pop(name, None)


def _module_names(folder: Path | None) -> frozenset[str]:
    if folder is None:
        return frozenset()
    files = {path.stem for path in folder.glob("*.py")}
    return frozenset(files | {path.parent.name for path in folder.glob("*/__init__.py")})


@contextlib.contextmanager
def own_modules(written: Written) -> Iterator[None]:
    """Let the reader's file import its neighbours, which are read by the same rules."""
    if written.folder is None:
        yield
        return
    finder = _Neighbours(written.folder, written)
    before = set(sys.modules)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            spec = getattr(sys.modules[name], "__spec__", None)
            if spec is not None and spec.loader is finder:
                del sys.modules[name]


class _Neighbours:
    """A finder of modules in the reader's folder; installed libraries come first."""

    def __init__(self, folder: Path, written: Written) -> None:
        self.folder = folder
        self.written = written

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        file = self.folder.joinpath(*name.split(".")).with_suffix(".py")
        package = file.with_suffix("") / "__init__.py"
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or not (file.is_file() or package.is_file()):
            return None
        here = {self.folder, Path.cwd().resolve()}
        elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() not in here]
        if importlib.machinery.PathFinder.find_spec(top, elsewhere) is not None:
            return None
        found = file if file.is_file() else package
        return importlib.util.spec_from_file_location(
            name,
            found,
            loader=self,  # type: ignore[arg-type]
            submodule_search_locations=[str(package.parent)] if found == package else None,
        )

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        path = Path(module.__file__ or "")
        neighbour = Written(label=path.name, folder=self.folder)
        execute(path, vars(module), neighbour)
        if neighbour.unreadable:
            raise SourceError(neighbour.unreadable[0])
