"""Several token files opened as one corpus, each with its share of the tokens."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from llm_scratch.text.mixture import Mixture, exact_shares
from llm_scratch.text.token_file import TokenFile


class MixedFiles:
    """Token files of one tokenizer, with their shares; usable wherever a `TokenFile` is.

    Args:
        words: "FILE:SHARE" for each file, such as "web.bin:0.45" or "wiki.bin:1/10".
        open_file: the function that opens a file.

    Raises:
        ValueError: if a word has no share, the shares are invalid (see `exact_shares`), a file is
            given twice, or two files were made with different tokenizers.
        TokenFileError: if one is not a token file.
        FileNotFoundError: if there is no such file.
    """

    def __init__(
        self,
        words: Iterable[str],
        open_file: Callable[[str | os.PathLike[str]], TokenFile] = TokenFile,
    ) -> None:
        paths, shares = [], []
        for word in words:
            path, colon, share = word.rpartition(":")
            if not (path and colon):
                raise ValueError(f"{word!r} must be FILE:SHARE, as web.bin:0.45")
            paths.append(Path(path))
            shares.append(share)
        names = names_of(paths)
        self.shares = exact_shares(dict(zip(names, shares, strict=True)))
        self.files = dict(zip(names, map(open_file, paths), strict=True))
        first, *others = self.files.values()
        for other in others:
            if other.fingerprint != first.fingerprint:
                raise ValueError(
                    f"{first.path} was made with the tokenizer {first.fingerprint[:12]}..., "
                    f"{other.path} with {other.fingerprint[:12]}...; a mix needs the same one: "
                    "prepare the texts again with it"
                )
        self.path, self.fingerprint = first.path, first.fingerprint
        self.vocab_size = first.vocab_size

    def __len__(self) -> int:
        return sum(map(len, self.files.values()))

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that made the ids; see `TokenFile.tokenizer`."""
        return next(iter(self.files.values())).tokenizer

    def split(self, train_frac: float = 0.9, *, min_tokens: int = 2) -> tuple[Mixture, Mixture]:
        """Return a mixture of the files' training parts, and one of their validation parts.

        Raises:
            ValueError: naming a file that has fewer than `min_tokens` in one of its parts.
        """
        found = {}
        for name, file in self.files.items():
            try:
                found[name] = file.split(train_frac, min_tokens=min_tokens)
            except ValueError as err:
                raise ValueError(f"{file.path}: {err}") from err
        train, val = ({name: parts[side] for name, parts in found.items()} for side in (0, 1))
        return Mixture(train, self.shares), Mixture(val, self.shares)


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return a short name for each path: the file's without its suffix, with folders if needed.

    Raises:
        ValueError: if a path is given twice.
    """
    plain = [path.resolve() for path in paths]
    if twice := [str(path) for path in paths if plain.count(path.resolve()) > 1]:
        raise ValueError(f"{twice[0]} is given twice; give it one share")
    ends = [(*path.parts[:-1], path.name if path.is_dir() else path.stem) for path in plain]
    depth = 1
    while len({end[-depth:] for end in ends}) < len(ends) and depth < max(map(len, ends)):
        depth += 1
    names = ["/".join(end[-depth:]) for end in ends]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]
