"""What README and docs say is so: their code runs, their links lead somewhere."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import CODE, LISTING, SHELL, blocks, pages, run_page
from smollm2 import smollm2_path

from llm_scratch.cli.page import commands_page

ROOT = Path(__file__).resolve().parents[2]
SET_UP = ("bash", "bat")  # of the README alone: test_readme
IDS = [page.stem for page in pages()]
NEEDS = r"not run: needs (a GPU|GPUs|a network|several machines|a cluster)\b"


@pytest.mark.parametrize("page", pages(), ids=IDS)
def test_every_block_says_what_it_is(page: Path) -> None:
    for block in blocks(page):
        known = (SHELL, CODE, *LISTING, *(SET_UP if page.stem == "README" else ()))
        assert block.language in known, block.code
        assert not block.note.startswith("not run") or re.match(NEEDS, block.note), block.note
    fences = re.findall(r"^\s*```", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(blocks(page)), "a fence that does not begin its line"


@pytest.mark.parametrize("page", pages(), ids=IDS)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    here = [link for link in links if "://" not in link]
    assert [link for link in here if not (page.parent / link).exists()] == []


def test_the_page_of_commands_is_current() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    made = "python -m llm_scratch.cli.page > docs/commands.md makes it again"
    assert page == commands_page(), made


def test_the_picture_is_current() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "pictures" / "pipeline.py"))["picture"]()
    assert (ROOT / "docs" / "pictures" / "pipeline.svg").read_text(encoding="utf-8") == made


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="the blocks are written for a shell")
@pytest.mark.parametrize(
    "page",
    [page for page in pages() if any(block.is_run for block in blocks(page))],
    ids=lambda page: page.stem,
)
def test_blocks_run_in_order(page: Path, tmp_path: Path) -> None:
    if "smollm2" in "".join(block.code for block in blocks(page) if block.is_run):
        smollm2_path()  # skips, or fails in CI
    for name in ("chapters", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "fixtures" / "pages.py", page],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def test_a_block_that_fails_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\ntrue\n```\n\n<!-- not run: needs a GPU -->\n```sh\nfalse\n```\n", encoding="utf-8"
    )
    run_page(page)
    page.write_text("```sh\nfalse\n```\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="exit status 1"):
        run_page(page)
