from __future__ import annotations

import contextlib
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import READERS

from llm_scratch.selfcheck.names import Written, read
from llm_scratch.selfcheck.notebooks import SourceError, without_magics
from llm_scratch.selfcheck.run import run_checks


def written(folder: Path, source: str, name: str = "mine.py") -> Written:
    path = folder / name
    path.write_text(source, encoding="utf-8")
    return read(path)


def notebook(folder: Path, *cells: str) -> Path:
    path = folder / "notes.ipynb"
    listed = [{"cell_type": "code", "source": cell.splitlines(True)} for cell in cells]
    text = [{"cell_type": "markdown", "source": ["# Notes, not (Python"]}]
    path.write_text(json.dumps({"cells": text + listed}), encoding="utf-8")
    return path


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


TAKEN = """
'''A file.'''
from __future__ import annotations
import math
import torch, re
from torch import nn
SIZE: int = 4
CONFIG = {"emb_dim": SIZE * 2, **dict(a=1)}
WIDTH = CONFIG["emb_dim"] // 2
ROOT = math.sqrt(2 / math.pi)
TABLE = torch.arange(3).reshape(1, 3)
PATTERN = re.compile("a+")
THREADS = torch.get_num_threads()
SIZES = [1]
SIZES += [2]
CONFIG["n_heads"] = 2
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WORDS = sorted({"b", "a"})
VOCAB = {word: i for i, word in enumerate(WORDS)}
try:
    import not_there
except ImportError:
    not_there = None
if SIZE > 3:
    def chosen(): return SIZE
def f(x: Undefined): return x
class Layer(nn.Module): pass
"""


def test_read_takes_imports_constants_functions_and_classes(tmp_path: Path) -> None:
    names = written(tmp_path, TAKEN).names
    assert names["CONFIG"] == {"emb_dim": 8, "a": 1, "n_heads": 2}
    assert names["SIZES"] == [1, 2]
    assert names["WIDTH"] == 4
    assert names["TABLE"].tolist() == [[0, 1, 2]]
    assert names["VOCAB"] == {"a": 0, "b": 1}
    assert names["chosen"]() == 4
    assert names["not_there"] is None
    assert {"ROOT", "PATTERN", "THREADS", "DEVICE", "f", "Layer"} <= set(names)


NOT_TAKEN = """
import os, sys, torch, subprocess, json, llm_scratch
from pathlib import Path
from torch import nn
from torch.utils.data import DataLoader
from torch.optim import AdamW
from llm_scratch import GPTModel, load_text
def train_it(): Path("left.txt").write_text("x")
net = nn.Linear(2, 2)
optimizer = torch.optim.AdamW(net.parameters())
other = AdamW(net.parameters())
loader = DataLoader([1, 2])
text = load_text("nothing of this name")
model = GPTModel({})
result = train_it()
data = torch.load("nothing.pth")
os.environ["LEFT"] = "x"
torch.left_behind = 1
answer = subprocess.run(["false"], check=True)
file = open("left.txt", "w")
deep = [train_it() for _ in range(3)]
train_it()
raise RuntimeError("boom")
for _ in range(3): train_it()
while True: pass
with open("left.txt", "w") as f: f.write("x")
sys.exit(3)
if __name__ == "__main__":
    train_it()
"""


def test_read_runs_no_training_and_touches_no_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = written(tmp_path, NOT_TAKEN)
    assert not (tmp_path / "left.txt").exists()
    assert not hasattr(torch, "left_behind")
    assert "LEFT" not in os.environ
    assert not found.failed
    assert {"train_it", "net"} <= set(found.names)
    not_run = {"optimizer", "other", "loader", "text", "model", "result", "data", "answer", "deep"}
    assert not_run <= set(found.absent)
    assert not not_run & set(found.names)
    assert "line 10" in found.absent["optimizer"]
    assert any("boom" in line for line in found.left_out)


def test_cell_is_not_cut_inside_of_a_line() -> None:
    cell = 'a = "one\u2028two\x0cthree"\r\n!ls\n'
    assert without_magics(cell) == 'a = "one\u2028two\x0cthree"\npass\n'


def test_read_takes_a_notebook_without_magics(tmp_path: Path) -> None:
    path = notebook(
        tmp_path,
        "%matplotlib inline\n!pip install torch\nimport torch\nx = !ls\ntorch.nn?\n",
        "%%bash\necho no python (\n",
        "%%time\ndef first(): return 1\ndef second():\n    %pwd\n    return 1\n",
        "def second(): return 2\nSIZE = 3\n",
    )
    found = read(path)
    assert not found.unreadable
    assert {name: found.names[name] for name in ("SIZE",)} == {"SIZE": 3}
    assert (found.names["first"](), found.names["second"]()) == (1, 2)


def test_without_magics_keeps_the_lines_in_place() -> None:
    source = "a = 1\n%time\nb = 5 % 2\nc = a != b\n"
    assert without_magics(source) == "a = 1\npass\nb = 5 % 2\nc = a != b\n"


def test_read_names_the_broken_cell_and_takes_the_others(tmp_path: Path) -> None:
    found = read(notebook(tmp_path, "def f(:\n", "def g(): return 1\n"))
    assert found.unreadable == [
        "notes.ipynb, cell 2, line 1 is not valid Python (invalid syntax): def f(:"
    ]
    assert run_checks("ch03", found).exit_status == 2
    assert "g" in found.names


def test_read_imports_neighbours_by_the_same_rule(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)  # as where Python is started in the reader's folder
    (tmp_path / "my_parts.py").write_text(
        "def part(): return 7\nopen('x.txt', 'w')\nraise SystemExit\n", encoding="utf-8"
    )
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "__init__.py").write_text("DEPTH = 2\n", encoding="utf-8")
    source = "from my_parts import part\nfrom .my_parts import part as again\nimport deep\n"
    modules, finders = set(sys.modules), list(sys.meta_path)
    found = written(tmp_path, source + "def whole(): return part() + again() + deep.DEPTH\n")
    assert found.names["whole"]() == 16
    assert not (set(sys.modules) - modules) & {"my_parts", "deep", "mine"}
    assert sys.meta_path == finders


def test_read_keeps_what_a_library_wrote_apart(tmp_path: Path) -> None:
    source = (
        "from llm_scratch import MultiHeadAttention as MHA, generate\n"
        "from torch.nn import LayerNorm\nMultiHeadAttention = MHA\n"
        "class GELU(LayerNorm): pass\n"
    )
    found = written(tmp_path, source)
    assert found.imported["MultiHeadAttention"] == "llm_scratch"
    assert found.imported["LayerNorm"] == "torch"
    assert set(found.names) == {"GELU"}
    results = run_checks("ch03", found).results
    assert {result.state for result in results} == {"open"}


def test_read_takes_a_folder_and_names_its_broken_files(tmp_path: Path) -> None:
    both = "import math\nfrom c_shared import g\ndef softmax_naive(x): return "
    (tmp_path / "c_shared.py").write_text("def g(): return 1\n", encoding="utf-8")
    (tmp_path / "a.py").write_text(both + "1\n", encoding="utf-8")
    (tmp_path / "b.py").write_text(both + "2\n", encoding="utf-8")
    (tmp_path / "c.py").write_text("def g(\n", encoding="utf-8")
    (tmp_path / "test_mine.py").write_text("def h(): return 2\n", encoding="utf-8")
    found = read(tmp_path)
    assert found.names["softmax_naive"](0) == 2
    assert "the last one is checked: softmax_naive, in a.py and b.py" in str(
        run_checks("ch03", found)
    )
    assert "h" not in found.names
    assert len(found.unreadable) == 1
    assert found.unreadable[0].startswith("c.py, line 1 is not valid Python")


def test_read_takes_a_folder_whose_files_import_each_other() -> None:
    report = run_checks("ch05", read(READERS))
    assert report.exit_status == 0
    assert {result.state for result in report.results} == {"right"}


def test_read_gives_gpt2s_tokenizer_without_a_network(tmp_path: Path) -> None:
    source = "import tiktoken\ntokenizer = tiktoken.get_encoding('gpt2')\n"
    found = written(tmp_path, source)
    assert found.names["tokenizer"].encode("Hello, I am") == [15496, 11, 314, 716]


def test_read_and_check_leave_everything_as_found(tmp_path: Path, capsys, monkeypatch) -> None:
    import tiktoken.registry

    monkeypatch.delitem(tiktoken.registry.ENCODINGS, "gpt2", raising=False)
    known = dict(tiktoken.registry.ENCODINGS)
    state, numbers, more = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    source = "import torch, random\nclass softmax_naive: print(torch.rand(3), random.random())\n"
    with torch.no_grad(), threads(2):
        run_checks("ch03", written(tmp_path, source))
        assert not torch.is_grad_enabled()
        assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == numbers
    assert np.array_equal(np.random.get_state()[1], more)
    assert tiktoken.registry.ENCODINGS == known
    assert capsys.readouterr() == ("", "")


def test_read_notes_a_definition_that_raises(tmp_path: Path) -> None:
    source = "import not_there\nclass CausalAttention(not_there.Module):\n    pass\n"
    found = written(tmp_path, source)
    report = run_checks("ch03", found)
    assert "ModuleNotFoundError" in found.failed[0]
    (wrong,) = report.wrong
    assert "NameError: name 'not_there' is not defined (mine.py, line 2)" in wrong.came
    assert report.exit_status == 1


def test_read_ends_with_2_where_an_import_fails_and_nothing_is_left(tmp_path: Path) -> None:
    report = run_checks("ch03", written(tmp_path, "import not_there\n"))
    assert report.exit_status == 2
    assert "mine.py, line 1: import not_there -> ModuleNotFoundError" in str(report)


def test_read_takes_a_dict_and_a_module() -> None:
    module = sys.modules[__name__]
    for source in ({"softmax_naive": lambda x: x.softmax(0)}, vars(module), module):
        assert read(source).label == "your notebook or session"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mine.py", b"def f(:\n", r"mine.py, line 1 is not valid Python \(invalid syntax\): def"),
        ("mine.py", b"print 'two'\n", "is not valid Python"),
        ("mine.py", b"x = '\xff\xfe'\n", "is not a text in UTF-8"),
        ("mine.py", b"x = 1\x00\n", "is not valid Python"),
        ("mine.ipynb", b"{", "is not a Jupyter notebook"),
        ("mine.ipynb", b"[]", "is not a Jupyter notebook"),
        ("mine.ipynb", b"[" * 100_000, "is not a Jupyter notebook"),
        ("mine.ipynb", b"\xff\xfe{\0}\0", "is UTF-16, not UTF-8"),
        ("mine.txt", b"x", r"is neither a \.py file nor a notebook"),
    ],
)
def test_read_refuses_what_it_cannot_read(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read(path)


def test_read_refuses_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing.py is not there"):
        read(tmp_path / "missing.py")
    with pytest.raises(SourceError, match="holds no .py file and no notebook"):
        read(tmp_path)
    with pytest.raises(TypeError, match="got int"):
        read(3)  # type: ignore[arg-type]


def test_read_takes_a_file_with_a_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_bytes(b"\xef\xbb\xbfSIZE = 3\r\ndef f():\r\n    return SIZE\r\n")
    with contextlib.chdir(tmp_path) if sys.version_info >= (3, 11) else contextlib.nullcontext():
        assert read("mine.py" if sys.version_info >= (3, 11) else path).names["f"]() == 3
