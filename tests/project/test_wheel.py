"""The wheel holds what the library needs, also where no repository is beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IN_A_FRESH_FOLDER = """
import json, sys
from pathlib import Path
repository = Path(sys.argv[1])
sys.path = [path for path in sys.path if Path(path or ".").resolve() != repository]
import llm_scratch
from llm_scratch.cli.notebook import find_chapter
from llm_scratch.text.corpora import find_data, load_text
from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer
print(json.dumps({
    "package": llm_scratch.__file__,
    "story": str(find_data("the-tide-clock")),
    "messages": str(find_data("messages.tsv")),
    "instructions": str(find_data("instructions.json")),
    "preferences": str(find_data("preferences.json")),
    "conversations": str(find_data("conversations.jsonl")),
    "length": len(load_text("the-tide-clock")),
    "ids": GPT2Tokenizer().encode("Hello, I am"),
    "chapter": str(find_chapter("ch02")),
}))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, ROOT]
    subprocess.run(command, check=True)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_data_chapters_licences_and_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    found = {path.name for path in (ROOT / "data").iterdir() if path.is_file()}
    data = {f"llm_scratch/data/{name}" for name in found if not name.endswith(".py")}
    chapters = {f"llm_scratch/chapters/{path.name}" for path in (ROOT / "chapters").glob("*.py")}
    assert (data | chapters) <= names
    assert {"llm_scratch/py.typed", "llm_scratch/assets/gpt2.tiktoken"} <= names
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    unwanted = ("tests/", "benchmarks/", "data/", "chapters/")
    assert not [name for name in names if name.startswith(unwanted) or "__pycache__" in name]


def test_wheel_finds_its_data_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "target")
    command = [sys.executable, "-c", IN_A_FRESH_FOLDER, str(ROOT)]
    done = subprocess.run(
        command,
        check=True,
        cwd=tmp_path,
        env={**_environment(), "PYTHONPATH": str(tmp_path / "target")},
        capture_output=True,
        encoding="utf-8",
    )
    found = json.loads(done.stdout)
    target = (tmp_path / "target" / "llm_scratch").resolve()
    texts = ("story", "messages", "instructions", "preferences", "conversations")
    for what in ("package", *texts, "chapter"):
        assert Path(found[what]).resolve().is_relative_to(target)
    assert found["length"] >= 20_000
    assert found["ids"] == [15496, 11, 314, 716]


def _environment() -> dict[str, str]:
    dropped = ("LLM_SCRATCH_DATA", "LLM_SCRATCH_CACHE", "PYTHONPATH")
    return {name: value for name, value in os.environ.items() if name not in dropped}
