"""A pytest plugin: `pytest tests/ch03 --impl my_attention.py` checks a reader's own file.

The folder's own tests are about this library; with `--impl` the chapter's checks take their place.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_scratch.selfcheck.names import Written, read
from llm_scratch.selfcheck.outcome import Check, Result
from llm_scratch.selfcheck.report import Report, lines_of_mistake
from llm_scratch.selfcheck.run import CHAPTERS, run_checks

written_key = pytest.StashKey[Written]()
reports_key = pytest.StashKey[list[Report]]()
UNREADABLE = 2


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--impl",
        metavar="FILE",
        help="check your own code instead: a .py file, a notebook or a folder",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--impl"):
        config.option.tbstyle = "no"  # the report says it all
        config.option.reportchars = ""
        config.stash[reports_key] = []


def pytest_sessionstart(session: pytest.Session) -> None:
    source = session.config.getoption("--impl")
    if not source:
        return
    if getattr(session.config, "workerinput", None) is not None:
        pytest.exit("--impl runs in one process; leave -n out", UNREADABLE)
    files = [word for word in session.config.args if word.partition("::")[0].endswith(".py")]
    if files:
        pytest.exit("--impl checks whole chapters; name a folder, such as tests/ch03", UNREADABLE)
    try:
        session.config.stash[written_key] = read(source)
    except (ValueError, OSError) as error:
        pytest.exit(f"--impl: {error}", UNREADABLE)


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    written = parent.config.stash.get(written_key, None)
    if written is None or path.parent.name != "tests" or path.name == "tests":
        return None
    return Chapter.from_parent(parent, path=path)


def pytest_report_header(config: pytest.Config) -> str | None:
    source = config.getoption("--impl")
    return f"checking your own code in {source}" if source else None


class Chapter(pytest.Directory):
    """The checks of a chapter's folder; no other folder has any."""

    def collect(self) -> Iterator[CheckItem]:
        if self.path.name not in CHAPTERS:
            return
        report = run_checks(self.path.name, self.config.stash[written_key])
        self.config.stash[reports_key].append(report)
        for result in report.results:
            yield CheckItem.from_parent(self, name=name_of(result.check), result=result)


def name_of(check: Check) -> str:
    return f"{check.name}: {check.claim}"


class CheckItem(pytest.Item):
    """One check of one name."""

    def __init__(self, *, result: Result, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.result = result

    def runtest(self) -> None:
        if self.result.state in ("open", "waits"):
            pytest.skip(self.result.detail)
        if self.result.state == "wrong":
            raise WrongError("\n".join(lines_of_mistake(self.result)))

    def repr_failure(self, excinfo: pytest.ExceptionInfo, style: Any = None) -> str:
        return str(excinfo.value)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.name


class WrongError(Exception):
    """A check that found a mistake."""


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reports = session.config.stash.get(reports_key, [])
    if exitstatus == 0 and any(report.exit_status == UNREADABLE for report in reports):
        session.exitstatus = UNREADABLE


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for report in terminalreporter.config.stash.get(reports_key, []):
        terminalreporter.section(f"your {report.chapter}")
        for line in report.lines():
            terminalreporter.write_line(line)
