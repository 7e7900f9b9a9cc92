"""Writing of the parts of a corpus: one of them, or all with several processes.

Parts do not depend on each other, so they can be made in any order, on any number of machines that
have the texts. An interrupted part is made again from scratch.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llm_scratch.checks import check_count
from llm_scratch.data_files import holds_rows
from llm_scratch.files import PART, PathLike, Span, written_whole
from llm_scratch.text.part_files import (
    Facts,
    PartFile,
    count_in,
    difference,
    part_name,
    read_part,
)
from llm_scratch.text.part_plan import Plan, bytes_of, times_of
from llm_scratch.text.token_contents import verify_file
from llm_scratch.text.token_header import TokenFileError
from llm_scratch.text.token_writing import (
    NO_MARK,
    Empty,
    TokenWriter,
    check_empty,
    cuts_texts,
    mark_of,
    progress_bar,
    warn_of_blanks,
)
from llm_scratch.tokenizers.any_tokenizer import fingerprint, special_tokens_of
from llm_scratch.tokenizers.bpe_pieces import Texts, each_text, text_sources
from llm_scratch.tokenizers.simple import END_OF_TEXT

Log = Callable[[str], object]


@dataclass(frozen=True)
class Job:
    """The work of making one part, in this process or another."""

    folder: Path
    plan: Plan
    part: int
    tokenizer: Any
    files: str
    field: str
    empty: Empty
    progress: bool

    @property
    def path(self) -> Path:
        """The file of the part."""
        return self.folder / part_name(self.part, self.plan.count)


@dataclass(frozen=True)
class Written:
    """A complete part.

    Args:
        path: its file.
        new: whether it was made now.
        tokens: the number of its tokens.
        texts: the number of texts that begin in it.
        blanks: the names of texts that were left out because they are empty.
    """

    path: Path
    new: bool
    tokens: int
    texts: int
    blanks: tuple[str, ...] = ()


def write_parts(
    folder: PathLike,
    texts: Texts,
    tokenizer: Any,
    *,
    parts: int,
    part: int | None = None,
    workers: int = 1,
    field: str = "text",
    empty: Empty = "drop",
    progress: bool = True,
    log: Log | None = None,
) -> list[Written]:
    """Encode texts into the parts of a corpus, which `TokenFile(folder)` opens as one.

    However many there are, the parts together hold the ids and documents of `write_tokens`, in the
    same order. Existing parts are kept, so the same call completes an interrupted one.

    Args:
        folder: the folder for the parts; other files in it are left alone.
        texts: files and folders, as in `write_tokens`. Their order, names and contents matter, not
            the folders that they are in.
        tokenizer: as in `write_tokens`.
        parts: the number of parts.
        part: the number of the part to make, from 1; None makes all of them.
        workers: the number of processes. With more than one, a script needs the guard
            `if __name__ == "__main__":`, and the tokenizer must be picklable.
        field: the field that holds the text of a row.
        empty: as in `write_tokens`.
        progress: show a progress bar for parts made in this process.
        log: a function that is called with one line per part.

    Raises:
        ValueError: as in `write_tokens`, or if an existing part is damaged, or was made from other
            texts or with another tokenizer.
        FileNotFoundError: if a file is missing.
    """
    jobs = _jobs(Path(folder), texts, tokenizer, parts, field, empty)
    if part is not None:
        check_count("part", part)
        if part > parts:
            raise ValueError(f"{part=} is above the number of {parts=}")
        jobs = [jobs[part - 1]]
    check_count("workers", workers)
    several = min(workers, len(jobs)) > 1
    jobs = [replace(job, progress=progress and not several) for job in jobs]
    found = []
    for done in _in_processes(jobs, workers) if several else map(write_part, jobs):
        found.append(done)
        warn_of_blanks(done.blanks, done.texts, 3, f"{done.path.name}: ")
        if log is not None:
            log(f"{done.path}: {done.tokens:,} tokens{'' if done.new else ', there already'}")
    return sorted(found, key=lambda done: done.path)


def _jobs(
    folder: Path, texts: Texts, tokenizer: Any, parts: int, field: str, empty: Empty
) -> list[Job]:
    """Return the work for each part, after all checks that are possible in advance."""
    check_count("parts", parts)
    check_empty(empty)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; parts need a folder")
    sources = list(text_sources(texts))
    if any(isinstance(source, str) for source in sources):
        raise TypeError("parts are made of files; write_tokens takes texts as they are")
    files = tuple(Path(source) for source in sources)
    if not files:
        raise ValueError("there is no text to write: give at least one file")
    if mark_of(tokenizer) == NO_MARK and (len(files) > 1 or holds_rows(files[0])):
        raise ValueError(
            f"this tokenizer has no {END_OF_TEXT} to stand between texts; give one text, or train "
            f"a tokenizer with {END_OF_TEXT}"
        )
    if (count := count_in(folder)) not in (None, parts):
        raise ValueError(
            f"{folder} has parts of {count}, not of {parts}; use {count}, or another folder"
        )
    specials = {*special_tokens_of(tokenizer), *getattr(tokenizer, "added_words", ())}
    ends = tuple(sorted(special.encode() for special in specials if special))
    plan = Plan(files, parts, cuts_texts(tokenizer), ends)
    known = plan.identity()
    return [
        Job(folder, plan, part, tokenizer, known, field, empty, False)
        for part in range(1, parts + 1)
    ]


def write_part(job: Job) -> Written:
    """Make a part, unless it is complete.

    Several processes may make the same part: each writes a temporary file of its own, and the first
    to finish renames it.
    """
    spans = job.plan.spans(job.part)
    facts = Facts(
        part=job.part,
        count=job.plan.count,
        files=job.files,
        field=job.field,
        times=times_of(spans),
        read="",
    )
    done = _found(job, facts, spans)
    if done is None:
        try:
            done = _made(job, replace(facts, read=bytes_of(spans)), spans)
        except (FileNotFoundError, PermissionError):
            # Another process may have finished the part and removed the file of this one.
            done = _found(job, facts, spans)
            if done is None:
                raise
    for left in job.folder.glob(f"{job.path.name}.*{PART}"):  # from processes that were killed
        with suppress(OSError):
            left.unlink()
    return done


def _made(job: Job, facts: Facts, spans: Sequence[Path | Span]) -> Written:
    total = sum(
        span.stop - span.start if isinstance(span, Span) else span.stat().st_size for span in spans
    )
    with (
        written_whole(job.path) as file,
        progress_bar(total, job.path.stem, job.progress) as bar,
    ):
        writer = TokenWriter(file, job.tokenizer)
        blanks = writer.add_texts(each_text(spans, job.field), job.empty, bar.update)
        writer.finish_part(_text_ends(spans), asdict(facts))
    return Written(job.path, True, writer.num_tokens, writer.num_texts, tuple(blanks))


def _text_ends(spans: Sequence[Path | Span]) -> bool:
    """Return whether the last text of a part ends within it."""
    last = spans[-1] if spans else None
    if not isinstance(last, Span) or holds_rows(last.path):
        return True
    return last.stop == last.path.stat().st_size


def _found(job: Job, facts: Facts, spans: Sequence[Path | Span]) -> Written | None:
    """Return the part if it exists, after checking that it is complete; else None.

    Raises:
        TokenFileError: if it is damaged.
        ValueError: if it was made from other texts or fields, or with another tokenizer.
    """
    if not job.path.exists():
        return None
    way_out = "remove it and start again, or use another folder"
    try:
        there = read_part(job.path)
        verify_file(job.path, there.header, job.progress)
    except TokenFileError as err:
        raise TokenFileError(f"{job.path} exists, but it is damaged ({err}); {way_out}") from err
    differs = difference(there, facts, bytes.fromhex(fingerprint(job.tokenizer)))
    if not differs and not _same_bytes(there, facts, spans):
        differs = "from other contents of its texts"
    if differs:
        raise ValueError(f"{job.path} exists, but it was made {differs} than given now; {way_out}")
    return Written(job.path, False, there.header.num_tokens, there.texts)


def _same_bytes(there: PartFile, facts: Facts, spans: Sequence[Path | Span]) -> bool:
    """Return whether a part's files are unchanged; they are read only if their times differ."""
    return there.facts.times == facts.times or there.facts.read == bytes_of(spans)


_given: dict[str, Any] = {}  # in a worker process: the tokenizer


def _in_processes(jobs: Sequence[Job], workers: int) -> Iterator[Written]:
    """Yield the parts as they are finished by several processes.

    Each process gets the tokenizer once, because it caches words as it encodes.
    """
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)),
        multiprocessing.get_context("spawn"),
        _start,
        (jobs[0].tokenizer,),
    )
    told = [replace(job, tokenizer=None) for job in jobs]
    try:
        for done in as_completed([pool.submit(_write_there, job) for job in told]):
            yield done.result()
    except BrokenProcessPool as err:
        raise ChildProcessError(
            "a process that made a part ended early: it was killed, perhaps because memory ran "
            "out, or could not start (its error is above); start again with fewer workers: "
            "complete parts are kept"
        ) from err
    finally:
        pool.shutdown(cancel_futures=True)


def _start(tokenizer: Any) -> None:
    _given["tokenizer"] = tokenizer
    _end_with_parent()


def _write_there(job: Job) -> Written:
    return write_part(replace(job, tokenizer=_given["tokenizer"]))


def _end_with_parent() -> None:
    """Make a worker end with its parent, even if the parent is killed."""
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
