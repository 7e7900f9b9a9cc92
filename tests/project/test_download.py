"""Downloads are atomic; every server here is a local one."""

from __future__ import annotations

import hashlib
import http.server
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llm_scratch.download import DownloadError, cache_folder, download_file, file_sha256, holds

BODY = "It was the best of clocks — naïve, 東京.\n".encode() * 20_000
SHA256 = hashlib.sha256(BODY).hexdigest()
OTHER_BODY = b"<html>please log in</html>"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by path and writes down what was asked."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path == "/missing.txt":
            self.send_error(404)
        elif self.path == "/moved.txt":
            self.send_response(302)
            self.send_header("Location", "/good.txt")
            self.end_headers()
        elif self.path == "/silent.txt":
            self.server.released.wait(5)
        else:
            self.answer()

    def answer(self) -> None:
        body = OTHER_BODY if self.path == "/other.txt" else BODY
        self.send_response(200)
        if self.path != "/unannounced.txt":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 3] if self.path == "/truncated.txt" else body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.asked, server.released = [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def address(server: http.server.ThreadingHTTPServer) -> Callable[[str], str]:
    return lambda name: f"http://127.0.0.1:{server.server_port}/{name}"


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}/good.txt"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "story.txt"


def test_download_file_writes_the_bytes_and_returns_the_path(address, target) -> None:
    assert download_file(address("good.txt"), target, sha256=SHA256) == target
    assert target.read_bytes() == BODY
    assert [path.name for path in target.parent.iterdir()] == ["story.txt"]


def test_download_file_follows_a_redirect(address, target) -> None:
    download_file(address("moved.txt"), target, sha256=SHA256)
    assert target.read_bytes() == BODY


def test_download_file_takes_a_body_of_unknown_length(address, target) -> None:
    download_file(address("unannounced.txt"), target, sha256=SHA256)
    assert target.read_bytes() == BODY


def test_download_file_takes_an_upper_case_checksum(address, target) -> None:
    download_file(address("good.txt"), target, sha256=SHA256.upper())
    assert download_file("http://127.0.0.1:9/", target, sha256=SHA256.upper()) == target


@pytest.mark.parametrize("bad", ["missing.txt", "truncated.txt", "other.txt"])
def test_download_file_goes_on_to_the_next_mirror(server, address, target, bad) -> None:
    download_file([address(bad), address("good.txt")], target, sha256=SHA256)
    assert target.read_bytes() == BODY
    assert server.asked == [f"/{bad}", "/good.txt"]


def test_download_file_tries_the_backup_last(server, address, target) -> None:
    download_file(address("missing.txt"), target, address("good.txt"), sha256=SHA256)
    assert server.asked == ["/missing.txt", "/good.txt"]


def test_download_file_passes_a_closed_port(address, target, closed_port) -> None:
    download_file([closed_port, address("good.txt")], target, sha256=SHA256)
    assert target.read_bytes() == BODY


def test_download_file_gives_a_silent_server_up(address, target) -> None:
    with pytest.raises(DownloadError, match="no answer in time"):
        download_file(address("silent.txt"), target, sha256=SHA256, timeout=0.3)


def test_download_file_names_every_address_the_reason_and_the_place(
    address, target, closed_port
) -> None:
    bad = [closed_port, *map(address, ("missing.txt", "truncated.txt", "other.txt"))]
    with pytest.raises(DownloadError) as caught:
        download_file(bad, target, sha256=SHA256)
    message = str(caught.value)
    assert "\n" not in message
    assert all(url in message for url in bad)
    reasons = ("refused", "HTTP 404", f"of {len(BODY):,} bytes", f"not {SHA256[:12]}")
    assert all(reason in message for reason in reasons)
    assert str(target) in message


@pytest.mark.parametrize("bad", ["missing.txt", "truncated.txt", "other.txt"])
def test_download_file_leaves_nothing_half_written(address, target, bad) -> None:
    with pytest.raises(DownloadError):
        download_file(address(bad), target, sha256=SHA256)
    assert list(target.parent.iterdir()) == []


def test_download_file_leaves_nothing_when_interrupted(address, target, monkeypatch) -> None:
    def stop(response: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr("llm_scratch.download._read", stop)
    with pytest.raises(KeyboardInterrupt):
        download_file(address("good.txt"), target, sha256=SHA256)
    assert list(target.parent.iterdir()) == []


def test_download_file_asks_nothing_for_a_file_that_is_there(server, address, target) -> None:
    target.parent.mkdir()
    target.write_bytes(BODY)
    assert download_file(address("good.txt"), target, sha256=SHA256) == target
    assert server.asked == []


def test_download_file_without_checksum_takes_any_file_that_is_there(
    server, address, target
) -> None:
    target.parent.mkdir()
    target.write_bytes(b"mine")
    assert download_file(address("good.txt"), target) == target
    assert server.asked == []


def test_download_file_replaces_half_a_file(address, target) -> None:
    target.parent.mkdir()
    target.write_bytes(BODY[:1000])
    download_file(address("good.txt"), target, sha256=SHA256)
    assert target.read_bytes() == BODY


def test_download_file_keeps_what_is_there_when_no_mirror_gives_it(address, target) -> None:
    target.parent.mkdir()
    target.write_bytes(b"an older edition")
    with pytest.raises(DownloadError):
        download_file(address("other.txt"), target, sha256=SHA256)
    assert target.read_bytes() == b"an older edition"


def test_download_file_asks_nothing_when_the_folder_cannot_be_made(
    server, address, tmp_path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        download_file(address("good.txt"), tmp_path / "file" / "story.txt", sha256=SHA256)
    assert server.asked == []


def test_download_file_blames_no_mirror_for_a_full_disk(address, target, monkeypatch) -> None:
    class FullDisk:
        def write(self, data: bytes) -> None:
            raise OSError(28, "No space left on device")

    original = sys.modules["llm_scratch.download"]._copy
    monkeypatch.setattr(
        "llm_scratch.download._copy",
        lambda response, file, total, name: original(response, FullDisk(), total, name),
    )
    with pytest.raises(OSError, match="No space left") as caught:
        download_file([address("good.txt"), address("good.txt")], target, sha256=SHA256)
    assert not isinstance(caught.value, DownloadError)
    assert list(target.parent.iterdir()) == []


def test_download_file_refuses_an_empty_list(target) -> None:
    with pytest.raises(ValueError, match="at least one address"):
        download_file([], target)


def test_download_file_shows_a_bar_only_on_a_terminal(address, target, capsys, monkeypatch) -> None:
    download_file(address("good.txt"), target)
    assert capsys.readouterr().err == ""
    target.unlink()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    download_file(address("good.txt"), target)
    assert "story.txt" in capsys.readouterr().err


def test_holds_compares_the_content(tmp_path) -> None:
    path = tmp_path / "file"
    assert not holds(path, None)
    path.write_bytes(BODY)
    assert file_sha256(path) == SHA256
    assert holds(path, None)
    assert holds(path, SHA256)
    assert not holds(path, "0" * 64)
    assert not holds(tmp_path, None)


def test_cache_folder_is_the_one_asked_for(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("LLM_SCRATCH_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    assert not cache_folder().exists()


@pytest.mark.parametrize(
    ("platform", "variable"), [("linux", "XDG_CACHE_HOME"), ("win32", "LOCALAPPDATA")]
)
def test_cache_folder_is_the_platforms(monkeypatch, tmp_path, platform, variable) -> None:
    monkeypatch.delenv("LLM_SCRATCH_CACHE", raising=False)
    monkeypatch.setattr("llm_scratch.download.sys.platform", platform)
    monkeypatch.setenv(variable, str(tmp_path))
    assert cache_folder().is_relative_to(tmp_path / "llm-scratch")
    monkeypatch.setenv(variable, "relative")
    assert cache_folder().is_relative_to(Path.home())
    assert "llm-scratch" in cache_folder().parts


def test_cache_folder_on_a_mac(monkeypatch) -> None:
    monkeypatch.delenv("LLM_SCRATCH_CACHE", raising=False)
    monkeypatch.setattr("llm_scratch.download.sys.platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "llm-scratch"
