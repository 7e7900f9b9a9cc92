"""What `llm-scratch distributed check` says of the processes of a run."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from typing import Any

import pytest
import torch
from ranks_server import PATIENT

from llm_scratch.cli import main
from llm_scratch.training import network
from llm_scratch.training.distributed import ONE
from llm_scratch.training.distributed_check import (
    COLUMNS,
    COMPARED,
    Timing,
    differences,
    facts_of,
    hazards,
    table,
    time_exchanges,
    timing_table,
)

FACTS = {
    "rank": 0, "host": "one", "local": 0, "device": "cpu", "threads": 2, "backend": "gloo",
    "torch": "2.13.0", "python": "3.11.7", "address": "10.0.0.1", "interface": "eth0",
    "own address": "10.0.0.1", "llm_scratch": "0.1", "system": "Linux x86_64", "processors": 8,
}  # fmt: skip


def ranks(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    """The facts of several ranks, which differ as told."""
    return [FACTS | {"rank": rank} | change for rank, change in enumerate(changes)]


def test_facts_have_all_that_is_shown_and_compared() -> None:
    facts = facts_of(ONE, torch.device("cpu"))
    assert {*COLUMNS, *COMPARED} <= facts.keys()
    assert facts["torch"] == str(torch.__version__)
    assert facts["threads"] == torch.get_num_threads()
    assert facts["host"] == socket.gethostname()
    assert network.is_loopback(facts["address"])


def test_equal_ranks_do_not_differ_by_host_address_or_rank() -> None:
    other = {"host": "two", "address": "10.0.0.2", "local": 1, "interface": "eth1"}
    assert differences(ranks({}, other)) == []


@pytest.mark.parametrize("name", COMPARED)
def test_differences_name_the_odd_rank_and_both_values(name: str) -> None:
    (line,) = differences(ranks({}, {}, {name: "odd"}, {}))
    assert line == f"{name}: {FACTS[name]} on ranks 0, 1, 3; odd on rank 2"


def test_differences_put_many_ranks_in_few_words() -> None:
    (line,) = differences(ranks({}, {}, {}, {"threads": 1}))
    assert line == "threads: 2 on ranks 0 to 2; 1 on rank 3"


def test_hazards_name_the_interface_where_a_hosts_name_leads_to_itself() -> None:
    facts = ranks({}, {"host": "two", "own address": "127.0.1.1", "interface": "veth1"})
    (line,) = hazards(facts)
    assert line.startswith("two: its name stands for 127.0.1.1")
    assert "GLOO_SOCKET_IFNAME=veth1" in line
    facts[1]["interface"] = "unknown"
    assert "GLOO_SOCKET_IFNAME=NAME," in hazards(facts)[0]


def test_hazards_let_a_single_host_talk_to_itself() -> None:
    assert hazards(ranks({"own address": "127.0.0.1"}, {"own address": "127.0.0.1"})) == []


def test_hazards_count_the_threads_of_a_host() -> None:
    many = [{"threads": 3}, {"threads": 3}, {"threads": 3}, {"host": "two", "threads": 8}]
    (line,) = hazards(ranks(*many))
    assert line == ("one: 9 threads of 3 processes on 8 processors; start with OMP_NUM_THREADS=2")
    assert hazards(ranks(*({**change, "device": "A GPU"} for change in many))) == []


def test_table_is_aligned_and_has_a_line_for_each_rank() -> None:
    head, *lines = table(ranks({}, {"host": "a-long-name"})).splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line[head.index("device") :].startswith("cpu")
        assert line[head.index("torch") :].startswith("2.13.0")


def test_timings_give_bytes_by_seconds() -> None:
    timings = [Timing("all-reduce", 25_000_000, 0.05), Timing("broadcast", 25_000_000, 0.025)]
    assert timings[0].speed == pytest.approx(500)
    (_, line) = timing_table(timings).splitlines()
    assert re.sub(" +", " ", line).strip() == ("25.000 MB 50.000 ms 500 MB/s 25.000 ms 1,000 MB/s")


def test_exchanges_are_refused_before_any_is_sent() -> None:
    with pytest.raises(ValueError, match=r"rounds=0 must be 1 or more"):
        time_exchanges(ONE, torch.device("cpu"), [4], rounds=0)
    with pytest.raises(ValueError, match="of 4 bytes or more"):
        time_exchanges(ONE, torch.device("cpu"), [8, 3])


def test_addresses_that_lead_back() -> None:
    loopback = ["127.0.0.1", "127.0.1.1", "::1"]
    assert all(map(network.is_loopback, loopback))
    assert not any(map(network.is_loopback, ["10.0.0.1", "fe80::1%eth0", "", "unknown"]))


def test_way_to_this_machine_is_its_loopback() -> None:
    assert network.way_to("127.0.0.1") == "127.0.0.1"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for addresses")
def test_interfaces_have_the_address_that_the_system_gives_them(monkeypatch) -> None:
    name = network.interface_of("127.0.0.1")
    assert network.address_of(name) == "127.0.0.1"
    assert network.address_of("no-such-one") == ""
    assert network.interface_of("192.0.2.77") == ""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", name)
    assert network.own_address() == "127.0.0.1"


def test_check_without_torchrun_says_how_to_start(capsys, monkeypatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert main(["distributed", "check"]) == 2
    said = capsys.readouterr().err
    assert "torchrun --standalone --nproc-per-node 2 -m llm_scratch distributed check" in said
    assert len(said.splitlines()) == 1


def test_check_refuses_sizes_that_are_none(capsys) -> None:
    assert main(["distributed", "check", "--sizes", "1,big"]) == 2
    assert "--sizes '1,big' must be megabytes" in capsys.readouterr().err


def test_check_under_torchrun_shows_ranks_and_times() -> None:
    """The one start of several processes here."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "llm_scratch", "distributed", "check", "--sizes", "0.004", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, encoding="utf-8", timeout=PATIENT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    head, first, second, *rest = done.stdout.splitlines()
    assert head.split() == list(COLUMNS)
    assert [first.split()[0], second.split()[0]] == ["0", "1"]
    assert "gloo" in first
    assert any(re.search(r"0\.004 MB +[\d.]+ ms +\d+ MB/s +[\d.]+ ms +\d+ MB/s", x) for x in rest)
    assert rest[-1] == "All 2 processes match."
