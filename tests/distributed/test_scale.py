"""What `llm-scratch distributed scale` measures, computes and writes."""

from __future__ import annotations

import csv
import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from llm_scratch.cli import main
from llm_scratch.plotting.scaling import plot_scaling
from llm_scratch.text.token_file import write_tokens
from llm_scratch.tokenizers.bpe import BytePairTokenizer
from llm_scratch.training import scaling
from llm_scratch.training.scaling import (
    HEADS,
    Price,
    ScaleRun,
    Speed,
    as_row,
    heading,
    measure_start,
    processes_of,
    reason_in,
    run_to_end,
    steady_speed,
    with_outlook,
    write_table,
)

SMALL = ["--emb-dim", "16", "--n-heads", "2", "--n-layers", "1", "--context-length", "16"]
ONE = Speed(1, threads=2, device="cpu", its_per_s=2.0, tokens_per_s=1000.0)
TWO = Speed(2, threads=1, device="cpu", its_per_s=1.9, tokens_per_s=900.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "tide.bin"
    tokenizer = BytePairTokenizer.train("x", vocab_size=256, special_tokens=())
    write_tokens(path, "the tide comes in and goes out. " * 40, tokenizer, progress=False)
    return str(path)


def log(*seconds: float, tokens: int = 100) -> list[dict[str, Any]]:
    """The log of a run whose steps took so long, with an evaluation behind the first."""
    steps = [{"step": n, "seconds": s, "tokens": n * tokens} for n, s in enumerate(seconds, 1)]
    return [steps[0], {"step": 1, "val_loss": 3.0}, *steps[1:]]


def test_speed_divides_the_steps_between_the_ends_by_their_time() -> None:
    assert steady_speed(log(9, 9, 0.5, 0.5, 1.0), 2) == pytest.approx((1.5, 150.0))
    assert steady_speed(log(0.5, 1.5), 0) == pytest.approx((1.0, 100.0))


def test_speed_needs_a_step_after_the_warm_up() -> None:
    with pytest.raises(ValueError, match="2 steps, 2 of them to warm up"):
        steady_speed(log(1, 1), 2)


def test_speed_of_a_run_is_read_from_its_folder(tmp_path) -> None:
    settings = {"train": {"micro_batch": 2, "tokens_per_step": 64}, "model": {"context_length": 8}}
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    place = [{"threads": 3, "processes": 2, "device": "cpu"}]
    (tmp_path / "environment.json").write_text(json.dumps(place), encoding="utf-8")
    lines = "".join(json.dumps(line) + "\n" for line in log(9, 0.5, 0.5, tokens=64))
    (tmp_path / "metrics.jsonl").write_text(lines, encoding="utf-8")
    found = scaling.speed_of_run(tmp_path, 1)
    # A step of 64 tokens is 2 processes x 2 micro batches x 2 rows x 8 tokens.
    assert (found.processes, found.threads, found.device) == (2, 3, "cpu")
    assert (found.its_per_s, found.tokens_per_s) == pytest.approx((4.0, 128.0))


def test_outlook_on_a_cpu_counts_threads() -> None:
    found = with_outlook(TWO, ONE, tokens=54_000, price=Price(6.0))
    assert found.efficiency == pytest.approx(0.9)
    assert (found.minutes, found.cost) == pytest.approx((1.0, 0.1))
    assert with_outlook(replace(TWO, threads=2), ONE, 1, None).efficiency == pytest.approx(0.45)


def test_outlook_on_gpus_counts_processes() -> None:
    first, second = (replace(speed, device="cuda:0") for speed in (ONE, TWO))
    assert with_outlook(second, first, 1, None).efficiency == pytest.approx(0.45)


def test_outlook_of_the_first_start_is_its_own_measure() -> None:
    found = with_outlook(ONE, None, 60_000, None)
    assert (found.efficiency, found.cost) == (1.0, None)


def test_price_of_a_machine_and_of_each_process() -> None:
    assert Price(6.0).of(4, 30) == pytest.approx(3.0)
    assert Price(6.0, of_each=True).of(4, 30) == pytest.approx(12.0)


def test_outlook_leaves_a_failed_start_as_it_is() -> None:
    failed = Speed(2, reason="no room")
    assert with_outlook(failed, ONE, 1, Price(1.0)) == failed


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1:3", [1, 2, 3]), ("4", [4]), ("8,1,2,2", [1, 2, 8]), ("2:2", [2])],
)
def test_processes_are_a_span_or_a_list(text: str, expected: list[int]) -> None:
    assert processes_of(text) == expected


@pytest.mark.parametrize("text", ["", "0:2", "3:1", "a", "1:", "1,,2", "1:2:3"])
def test_processes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be like 1:4"):
        processes_of(text)


def test_command_divides_among_several_only_and_has_the_last_word() -> None:
    run = ScaleRun("tokens.bin", 1, ["--micro-batch", "2"], steps=20, shard="full", warm_up=3)
    one, two = (run.words(count, "out") for count in (1, 2))
    assert one[:3] == [sys.executable, "-m", "torch.distributed.run"]
    for words, shard, count in ((one, "none", "1"), (two, "full", "2")):
        assert words[words.index("--shard") + 1] == shard
        assert words[words.index("--nproc-per-node") + 1] == count
        assert words[words.index("--steps") + 1] == "23"
        assert words.index("--micro-batch") < words.index("--data")


SAID = """W1126 10:00:00 torch/distributed/run.py:852] warning
llm-scratch: rank 1 of 2 can't join the others
E1126 10:00:01 torch/distributed/elastic/multiprocessing/api.py:882] failed (exitcode: 2)
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
"""


def test_reason_of_a_failure_is_the_librarys_own_line() -> None:
    assert reason_in(SAID, 1) == "rank 1 of 2 can't join the others"


def test_reason_without_one_is_the_error_of_a_rank_or_the_signal() -> None:
    said = "[rank1]: Traceback:\n[rank1]: RuntimeError: no memory: 5 MB\n"
    said += SAID.replace("llm-scratch", "x")
    assert reason_in(said, 1) == "RuntimeError: no memory: 5 MB"
    assert "Signal 9" in reason_in("loading\nSignal 9 (SIGKILL) received by PID 7\nbye\n", 1)
    assert reason_in("", 3) == "exit status 3, without a word"


def test_programs_are_ended_when_the_caller_is_interrupted(tmp_path, monkeypatch) -> None:
    """As by Ctrl-C: the program gets its signal, and time to end what it started."""
    script = (
        "import signal, sys, time\n"
        "def end(*_):\n    open(sys.argv[1], 'wb').close()\n    sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\nprint('up', flush=True)\ntime.sleep(60)\n"
    )
    ended = tmp_path / "ended"

    def interrupted(child: Any) -> Any:
        child.stdout.readline()
        raise KeyboardInterrupt

    monkeypatch.setattr("subprocess.Popen.communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_to_end([sys.executable, "-c", script, str(ended)], {})
    assert ended.exists()


def test_programs_say_their_status_and_all_their_words() -> None:
    script = "import os, sys; print(os.environ['TIDE']); sys.stderr.write('low'); sys.exit(4)"
    code, said = run_to_end([sys.executable, "-c", script], {"TIDE": "high"})
    assert code == 4
    assert {"high", "low"} <= set(said.split()) or sorted(said) == sorted("high\nlow")


def test_rows_have_a_cell_under_each_head() -> None:
    for with_cost in (True, False):
        line = as_row(with_outlook(TWO, ONE, 54_000, Price(6.0)), with_cost)
        assert len(line) == len(heading(with_cost))
        assert len(line.split()) == len(HEADS) - (not with_cost)
    assert as_row(Speed(3, reason="no room"), True).split(None, 1) == ["3", "failed: no room"]


def test_table_keeps_failed_starts(tmp_path) -> None:
    write_table(tmp_path / "new" / "scale.csv", [ONE, Speed(2, reason="no room, none")])
    with open(tmp_path / "new" / "scale.csv", encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["processes"], first["tokens_per_s"], first["reason"]) == ("1", "1000.0", "")
    assert (second["tokens_per_s"], second["reason"]) == ("", "no room, none")


@pytest.mark.filterwarnings("error")
def test_picture_has_what_was_measured_and_what_failed(tmp_path) -> None:
    rows = [with_outlook(ONE, None, 1, None), with_outlook(TWO, ONE, 1, None), Speed(3, reason="x")]
    figure = plot_scaling([asdict(row) for row in rows])
    figure.savefig(tmp_path / "scale.png")
    ideal, measured, failed = figure.axes[0].get_lines()
    assert list(measured.get_ydata()) == [1000, 900]
    assert list(ideal.get_ydata()) == pytest.approx([1000, 1000])
    assert list(failed.get_xdata()) == [3]


def test_picture_needs_a_speed() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_scaling([asdict(Speed(2, reason="x"))])


@pytest.fixture
def started(monkeypatch) -> list[Any]:
    """Starts that are answered here: 3 processes fail, others have a speed."""
    runs: list[Any] = []

    def answer(run: ScaleRun, processes: int) -> Speed:
        runs.append(run)
        if processes == 3:
            return Speed(3, reason="no room")
        return replace(ONE, processes=processes, threads=1, tokens_per_s=1000.0 * processes)

    monkeypatch.setattr(scaling, "measure_start", answer)
    return runs


def test_scale_prints_a_line_for_each_number_and_writes_both_files(
    data, started, tmp_path, capsys
) -> None:
    files = ["--out", str(tmp_path / "s.csv"), "--picture", str(tmp_path / "s.png")]
    words = ["distributed", "scale", "--data", data, "--processes", "1:3", "--price", "6",
             "--epochs", "2", "--steps", "7", *files, "--", "--micro-batch", "2"]  # fmt: skip
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "A run of 2,304 tokens; 7 steps timed after 3" in said  # 2 x 0.9 x 1,280
    assert "failed: no room" in said
    assert "tokens per second per thread, relative to 1 process;" in said
    assert started[0].options == ["--preset", "tiny", "--micro-batch", "2"]
    assert (tmp_path / "s.csv").is_file()
    assert (tmp_path / "s.png").stat().st_size > 1000


def test_scale_fails_where_nothing_trained(data, started, capsys) -> None:
    assert main(["distributed", "scale", "--data", data, "--processes", "3"]) == 1
    assert "No start succeeded." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--processes", "0"], "must be like 1:4"),
        (["--steps", "0"], "--steps must be 1 or more"),
        (["--", "--resume"], "--resume comes after --, but distributed scale sets it; leave it"),
        (["--", "--steps", "5"], "--steps comes after --.*; give it before --"),
        (["--", "--shard", "full"], "--shard comes after --.*; give it before --"),
    ],
)
def test_scale_refuses_before_the_first_start(data, started, capsys, options, message) -> None:
    assert main(["distributed", "scale", "--data", data, *options]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert started == []


@pytest.mark.slow
def test_starts_have_a_speed_or_a_reason(data) -> None:
    run = ScaleRun(data, 1, ["--preset", "tiny", *SMALL], steps=3, warm_up=2)
    one, two = measure_start(run, 1), measure_start(run, 2)
    for speed in (one, two):
        assert speed.reason == ""
        assert speed.tokens_per_s > 0
        # A micro batch of 4 rows of 16 tokens on each process.
        assert speed.tokens_per_s == pytest.approx(speed.its_per_s * speed.processes * 64)
    assert two.processes == 2
    failed = measure_start(replace(run, data=str(Path(data).with_name("none.bin"))), 2)
    assert "none.bin" in failed.reason
    assert failed.tokens_per_s is None
