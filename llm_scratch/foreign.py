"""Settings in files of other programs: each is used, has no effect, or is refused by name.

Each reader of a foreign format has one table that says how each of the format's keys is treated.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any

from llm_scratch.files import FileError, PathLike

USED = "used"  # the reader takes the value, and checks it
NOTHING = "nothing"  # no value of it changes the results of this library
OFF = "off"  # only null, false, 0 and empty values are accepted

Rule = str | tuple[Any, ...]
"""One of the three words, or the values that are accepted."""


def check_settings(
    path: PathLike,
    settings: Mapping[str, Any],
    rules: Mapping[str, Rule],
    *,
    ignore_keys: Collection[str] = (),
    error: type[FileError] = FileError,
    where: str = "",
) -> dict[str, Any]:
    """Return the settings of a foreign file, all understood, without those to ignore.

    A key without a rule passes if its value switches it off; one warning names all such keys.

    Args:
        path: the file.
        settings: the file's keys and values.
        rules: how each key is treated.
        ignore_keys: keys to skip, whatever their values; a key inside a part is named "part.key".
        error: the class to raise.
        where: the part of the file that the settings are from.

    Raises:
        FileError: if keys have values that need a computation which this library does not have.
    """
    if isinstance(ignore_keys, str):
        raise TypeError(f"ignore_keys takes several keys: ignore_keys=({ignore_keys!r},)")
    prefix = f"{where}." if where else ""
    kept = {k: v for k, v in settings.items() if not {k, f"{prefix}{k}"} & set(ignore_keys)}
    refused, unknown = [], []
    for key, value in kept.items():
        rule = rules.get(key, OFF)
        fine = value in rule if isinstance(rule, tuple) else rule != OFF or not value
        if not fine:
            allowed = f" (understood: {_listed(rule)})" if isinstance(rule, tuple) else ""
            refused.append(f"{prefix}{key}={str(value)[:60]!r}{allowed}")
        elif key not in rules:
            unknown.append(f"{prefix}{key}")
    if refused:
        keys = ", ".join(repr(text.partition("=")[0]) for text in refused)
        raise error(
            path,
            f"needs what this library does not compute: {', '.join(refused)[:400]}; "
            f"ignore_keys=({keys},) opens it anyway, with different results",
        )
    if unknown:
        names = ", ".join(name[:60] for name in unknown[:20])
        warnings.warn(f"{path} has unknown settings, all switched off: {names}", stacklevel=2)
    return kept


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join(map(str, values))
