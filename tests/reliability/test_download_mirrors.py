"""Downloads on bad days: nothing half-written ever counts as there. Every server is a local one."""

from __future__ import annotations

import os
import runpy
import socket
import time
from pathlib import Path

import pytest

from llm_scratch import download
from llm_scratch.download import DownloadError, download_file

SERVER = runpy.run_path(
    str(Path(__file__).resolve().parents[1] / "fixtures" / "download_server.py")
)
BODY, SHA256, TAG, serve = (SERVER[name] for name in ("BODY", "SHA256", "TAG", "serve"))


@pytest.fixture
def server():
    server, thread = serve()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def address(server):
    return lambda name: f"http://127.0.0.1:{server.server_port}/{name}"


@pytest.fixture
def closed_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}/good"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "model.bin"


def kinds(server):
    return [kind for kind, _, _ in server.asked]


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_download_goes_past_a_closed_port_and_a_404(server, address, closed_port, target):
    download_file([closed_port, address("nothing"), address("good")], target, sha256=SHA256)
    assert target.read_bytes() == BODY
    assert kinds(server) == ["nothing", "good"]


def test_download_that_breaks_off_goes_on_at_the_next_mirror(server, address, target):
    download_file([address("half"), address("good")], target, sha256=SHA256)
    assert target.read_bytes() == BODY
    assert server.asked[1] == ("good", f"bytes={len(BODY) // 2}-", None)
    assert left_in(target.parent) == ["model.bin"]


def test_download_that_breaks_off_goes_on_at_the_same_server(server, address, target):
    download_file(address("piecewise"), target, sha256=SHA256)
    assert target.read_bytes() == BODY
    assert len(server.asked) == 4


def test_download_without_checksum_goes_on_with_the_same_edition_only(server, address, target):
    download_file(address("piecewise"), target)
    assert target.read_bytes() == BODY
    assert server.asked[-1] == ("piecewise", f"bytes={len(BODY) // 4 * 3}-", TAG)
    other = target.with_name("other.bin")
    download_file(address("half-then-new-edition"), other)
    assert other.read_bytes() == BODY[::-1]
    third = target.with_name("third.bin")
    server.asked.clear()
    download_file([address("half"), address("good")], third)
    assert server.asked[1] == ("good", None, None)  # another server's bytes: from the start
    assert third.read_bytes() == BODY


def test_download_starts_anew_where_there_are_no_ranges(server, address, target):
    download_file([address("half"), address("wrong"), address("good")], target, sha256=SHA256)
    assert target.read_bytes() == BODY
    with pytest.raises(DownloadError, match="of 3,072,000 bytes"):
        download_file(address("half-without-ranges"), target.with_name("b"), sha256=SHA256)
    assert kinds(server).count("half-without-ranges") <= 3


@pytest.mark.parametrize("options", [{"sha256": SHA256}, {"size": len(BODY)}])
def test_download_refuses_wrong_content(server, address, target, options):
    with pytest.raises(DownloadError, match="sent another file"):
        download_file(address("short"), target, **options)
    assert not target.exists()
    assert left_in(target.parent) == []
    download_file([address("short"), address("good")], target, **options)
    assert target.read_bytes() == BODY


def test_download_fetches_again_what_has_another_size(server, address, target):
    target.parent.mkdir()
    target.write_bytes(BODY[:1000])
    download_file(address("good"), target, size=len(BODY))
    assert target.read_bytes() == BODY
    download_file(address("good"), target, size=len(BODY))
    assert kinds(server) == ["good"]


def test_download_gives_up_on_headers_that_trickle(server, address, target):
    start = time.monotonic()
    with pytest.raises(DownloadError, match="no answer in time"):
        download_file(address("slow-headers"), target, sha256=SHA256, timeout=0.4)
    assert time.monotonic() - start < 5
    download_file([address("slow-headers"), address("good")], target, sha256=SHA256, timeout=0.4)
    assert target.read_bytes() == BODY


def test_download_gives_up_on_a_body_that_trickles(server, address, target, monkeypatch):
    monkeypatch.setattr(download, "STALL_SECONDS", 0.2)
    with pytest.raises(DownloadError, match="trickle"):
        download_file(address("slow-body"), target, sha256=SHA256)


def test_download_tries_once_more_what_may_pass(server, address, target):
    with pytest.raises(DownloadError, match="HTTP 503"):
        download_file(address("broken"), target, sha256=SHA256)
    assert kinds(server) == ["broken", "broken"]


def test_download_goes_on_in_the_next_call(server, address, target):
    with pytest.raises(DownloadError):
        download_file(address("half"), target, sha256=SHA256)
    assert not target.exists()
    assert left_in(target.parent) == ["model.bin.resume"]
    server.asked.clear()
    download_file(address("good"), target, sha256=SHA256)
    assert target.read_bytes() == BODY
    assert server.asked == [("good", f"bytes={len(BODY) // 2}-", None)]
    assert left_in(target.parent) == ["model.bin"]


@pytest.mark.parametrize("rest", [BODY[::-1][: 2 << 20], BODY + b"more", BODY[:-1] + b"x"])
def test_download_survives_a_rest_that_is_damaged(server, address, target, rest):
    target.parent.mkdir()
    target.with_name("model.bin.resume").write_bytes(rest)
    download_file(address("good"), target, sha256=SHA256)
    assert target.read_bytes() == BODY
    assert left_in(target.parent) == ["model.bin"]


def test_download_without_checksum_takes_up_no_rest(server, address, target):
    target.parent.mkdir()
    target.with_name("model.bin.resume").write_bytes(BODY[: 2 << 20])
    download_file(address("good"), target)
    assert server.asked == [("good", None, None)]


def test_download_clears_away_what_killed_processes_left(server, address, target):
    target.parent.mkdir()
    old, new = (target.with_name(f"model.bin.{n}.part") for n in ("0123abcd", "4567abcd"))
    for path in (old, new):
        path.write_bytes(b"rest")
    os.utime(old, (0, 0))
    download_file(address("good"), target, sha256=SHA256)
    assert left_in(target.parent) == ["model.bin", new.name]


def test_download_into_a_closed_folder_asks_nobody(server, address, target, monkeypatch):
    def refuse(path, *args, **options):
        raise PermissionError(13, "Permission denied", str(path))

    if os.name == "posix" and os.geteuid() != 0:
        target.parent.mkdir(mode=0o500)
    else:  # root may write anywhere
        monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PermissionError, match=r"model\.bin"):
        download_file(address("good"), target, sha256=SHA256)
    monkeypatch.undo()
    assert server.asked == []


def test_download_onto_a_full_disk_leaves_nothing(server, address, target, monkeypatch):
    original = download._copy

    class Full:
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_copy", lambda r, f, t, n: original(r, Full(), t, n))
    with pytest.raises(OSError, match="No space left") as caught:
        download_file([address("good"), address("good")], target, sha256=SHA256)
    assert not isinstance(caught.value, DownloadError)
    assert left_in(target.parent) == []
    assert kinds(server) == ["good"]
