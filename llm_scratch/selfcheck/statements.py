"""The statements of a reader's file that are run: enough to get its names, never a training run.

These are imports, functions, classes, and assignments of constants. A constant is a value without
a call, or with calls of an imported library's functions, except those that load, fetch, optimize
or train.
"""

from __future__ import annotations

import ast
import builtins
import re

HARMLESS = frozenset(
    "abs bool bytes chr complex dict divmod enumerate filter float frozenset hash int isinstance "
    "issubclass len list map max min ord range repr reversed round set slice sorted str sum super "
    "tuple type zip".split()
)
HARMLESS_METHODS = frozenset("copy items keys values split strip lower upper format join".split())
REFUSED = re.compile(
    r"optim|loader|train|\bfit\b|load|fetch|retrieve|urlopen|from_pretrained|(?<![a-z])read|request|"
    r"subprocess|\brun\b|popen|system|compile_model|\bexit\b|breakpoint|\bsleep\b|serve",
    re.IGNORECASE,
)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
IMPORTS = (ast.Import, ast.ImportFrom)


def is_taken(statement: ast.stmt, libraries: set[str], own: frozenset[str] = frozenset()) -> bool:
    """Return whether a statement is run.

    Args:
        statement: a statement of a file or a cell.
        libraries: the names imported from libraries so far.
        own: modules that are the reader's, or whose calls build models.
    """
    if isinstance(statement, (*DEFINITIONS, *IMPORTS, ast.Pass)):
        return True
    if isinstance(statement, ast.Assign):
        return _are_own(statement.targets, libraries) and is_constant(statement.value, libraries)
    if isinstance(statement, (ast.AnnAssign, ast.AugAssign)):
        value = statement.value
        is_value = value is None or is_constant(value, libraries)
        return is_value and _are_own([statement.target], libraries)
    if isinstance(statement, (ast.If, ast.Try)):
        known = libraries | libraries_of(statement, own)
        test = statement.test if isinstance(statement, ast.If) else None
        return (test is None or is_constant(test, libraries)) and all(
            is_taken(inner, known, own) for inner in _inner(statement)
        )
    return False


def _inner(statement: ast.If | ast.Try) -> list[ast.stmt]:
    """Return the statements of all branches."""
    if isinstance(statement, ast.If):
        return [*statement.body, *statement.orelse]
    handlers = [inner for handler in statement.handlers for inner in handler.body]
    return [*statement.body, *handlers, *statement.orelse, *statement.finalbody]


def _are_own(targets: list[ast.expr], libraries: set[str]) -> bool:
    """Return whether an assignment leaves libraries unchanged."""
    for target in targets:
        root = target
        while isinstance(root, (ast.Attribute, ast.Subscript)):
            root = root.value
        if root is not target and isinstance(root, ast.Name) and root.id in libraries:
            return False
        if isinstance(root, ast.Call):
            return False
    return True


def is_constant(value: ast.expr, libraries: set[str]) -> bool:
    """Return whether an expression only makes a value, without side effects."""
    for node in ast.walk(value):
        if isinstance(node, (ast.Await, ast.Yield, ast.YieldFrom)):
            return False
        if isinstance(node, ast.Call) and not _is_harmless(node.func, libraries):
            return False
    return True


def _is_harmless(function: ast.expr, libraries: set[str]) -> bool:
    if isinstance(function, ast.Attribute) and function.attr in HARMLESS_METHODS:
        return True
    root: ast.expr = function
    while isinstance(root, (ast.Attribute, ast.Call, ast.Subscript)):
        root = root.func if isinstance(root, ast.Call) else root.value
    if isinstance(root, ast.Constant):
        return True
    if not isinstance(root, ast.Name) or REFUSED.search(ast.unparse(function)):
        return False
    if root.id in libraries:
        return True
    return root.id in HARMLESS and hasattr(builtins, root.id)


def libraries_of(statement: ast.stmt, own: frozenset[str] = frozenset()) -> set[str]:
    """Return the names that an import binds to libraries.

    Args:
        statement: any statement; only imports bind any, including those inside `if` and `try`.
        own: modules that are the reader's, or whose calls build models.
    """
    if isinstance(statement, (ast.If, ast.Try)):
        return set().union(*(libraries_of(inner, own) for inner in _inner(statement)))
    if isinstance(statement, ast.Import):
        aliases = [a for a in statement.names if a.name.partition(".")[0] not in own]
        return {(alias.asname or alias.name).partition(".")[0] for alias in aliases}
    if isinstance(statement, ast.ImportFrom) and not statement.level:
        if (statement.module or "").partition(".")[0] in own or REFUSED.search(
            statement.module or ""
        ):
            return set()
        return {alias.asname or alias.name for alias in statement.names}
    return set()


def names_bound(statement: ast.stmt) -> set[str]:
    """Return the names that a top-level statement would bind."""
    if isinstance(statement, DEFINITIONS):
        return {statement.name}
    if isinstance(statement, IMPORTS):
        names = {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
        return names - {"*"}
    inner = [node for node in ast.walk(statement) if isinstance(node, (*DEFINITIONS, ast.Name))]
    return {
        node.name if isinstance(node, DEFINITIONS) else node.id
        for node in inner
        if isinstance(node, DEFINITIONS) or isinstance(node.ctx, ast.Store)
    }


def is_text(statement: ast.stmt) -> bool:
    """Return whether a statement is only a text, such as a docstring."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def first_line(statement: ast.stmt, most: int = 60) -> str:
    """Return the beginning of a statement's code."""
    line = ast.unparse(statement).splitlines()[0]
    return line if len(line) <= most else line[: most - 3] + "..."
