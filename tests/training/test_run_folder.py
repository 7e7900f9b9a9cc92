"""The folder of a run is locked, readable, and cut back to where a run goes on."""

from __future__ import annotations

import json

import pytest

from llm_scratch.training.run_folder import RunFolder, as_line, read_metrics


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path / "run")
    yield run
    run.close()


def test_run_folder_refuses_a_second_process(folder):
    with pytest.raises(ValueError, match="another process trains in"):
        RunFolder(folder.path, resume=True)
    folder.close()
    RunFolder(folder.path, resume=True).close()


def test_run_folder_refuses_a_file(tmp_path):
    (tmp_path / "run").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="is a file; a run needs a folder"):
        RunFolder(tmp_path / "run", resume=True)


def test_run_folder_takes_an_empty_folder(tmp_path):
    RunFolder(tmp_path).close()
    RunFolder(tmp_path).close()


def test_record_writes_log_and_table(folder):
    folder.record(step=1, loss=2.5, lr=0.1, grad_norm=1.0, tokens=8, seconds=0.5)
    folder.record(step=1, val_loss=2.25)
    assert read_metrics(folder.path)[1] == {"step": 1, "val_loss": 2.25}
    table = (folder.path / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert table == [
        "step,loss,lr,grad_norm,tokens,seconds,val_loss",
        "1,2.5,0.1,1.0,8,0.5,",
        "1,,,,,,2.25",
    ]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_as_line_is_json_that_everybody_reads(value):
    assert json.loads(as_line({"step": 1, "grad_norm": value})) == {"step": 1, "grad_norm": None}


def test_cut_back_keeps_what_came_before(folder):
    for step in (1, 2, 3):
        folder.record(step=step, loss=1.0)
        folder.add_sample(step, "text")
    with open(folder.path / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')  # a process that was killed while it wrote
    folder.cut_back(2)
    folder.record(step=3, loss=5.0)
    assert [line["loss"] for line in read_metrics(folder.path)] == [1.0, 1.0, 5.0]
    for name, lines in (("metrics.csv", 4), ("samples.jsonl", 2)):
        text = (folder.path / name).read_text(encoding="utf-8")
        assert len(text.splitlines()) == lines


def test_read_metrics_says_what_is_no_run(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        read_metrics(tmp_path)
    folder.cut_back(0)
    with pytest.raises(ValueError, match="holds no step yet"):
        read_metrics(folder.path)


def test_add_environment_keeps_earlier_starts(folder):
    folder.add_environment(step=0)
    folder.add_environment(step=5)
    starts = folder.read_json("environment.json")
    assert [start["step"] for start in starts] == [0, 5]
    assert {"python", "torch", "threads", "system"} <= set(starts[0])


@pytest.mark.parametrize("line", ['{"step": 2, "lo', "[2]", '{"loss": 1.0}', '{"step": "2"}'])
@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_line_of_a_log_is_not_lost_in_silence(folder, name, line):
    """Only behind the last line end may there be what a killed process left."""
    for step in (1, 2, 3):
        folder.record(step=step, loss=1.0)
        folder.add_sample(step, "text")
    path = folder.path / name
    lines = path.read_text(encoding="utf-8").split("\n")
    content = "\n".join([lines[0], line, *lines[2:]])
    path.write_text(content, encoding="utf-8")
    with pytest.raises(
        ValueError, match=rf"{name}: line 2 is not a JSON object with a step; mend it"
    ):
        folder.cut_back(3)
    assert path.read_text(encoding="utf-8") == content
