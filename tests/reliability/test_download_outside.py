"""Downloads and the world around them: processes, signals, proxies, certificates, GPT-2's homes."""

from __future__ import annotations

import runpy
import shutil
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm_scratch import download
from llm_scratch.download import DownloadError, download_file
from llm_scratch.weights import gpt2_files

SERVER = runpy.run_path(
    str(Path(__file__).resolve().parents[1] / "fixtures" / "download_server.py")
)
BODY, SHA256, serve = (SERVER[name] for name in ("BODY", "SHA256", "serve"))


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


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "model.bin"


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


# The module by itself: importing the package around it would take longer than the download.
CHILD = """
import runpy, sys
module = runpy.run_path(sys.argv[1])
print(module["download_file"](sys.argv[2], sys.argv[3], sha256=sys.argv[4]))
"""


def child(*words):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, download.__file__, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_at_once_do_not_disturb_each_other(server, address, target):
    processes = [child(address("good"), target, SHA256) for _ in range(3)]
    for process in processes:
        printed, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert printed.strip() == str(target)
    assert target.read_bytes() == BODY
    assert left_in(target.parent) == ["model.bin"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_signal_leaves_nothing_that_counts(server, address, target, name):
    process = child(address("slowly"), target, SHA256)
    assert server.started.wait(60)
    time.sleep(0.2)
    process.send_signal(getattr(signal, name))
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not target.exists()
    download_file(address("good"), target, sha256=SHA256)
    assert target.read_bytes() == BODY
    resumed = server.asked[-1][1] is not None
    assert resumed == (name == "SIGINT")  # the others leave no time to put a name on the rest


def test_proxy_of_the_environment_is_used(server, address, target, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    download_file("http://files.invalid/good", target, sha256=SHA256)
    assert target.read_bytes() == BODY


@pytest.fixture
def certificate(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes a certificate, is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    name = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        ["openssl", *words.split(), *name, "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    return certificate, key


def test_certificate_is_checked_and_the_way_out_named(target, certificate, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server, thread = serve(wrap=lambda sock: context.wrap_socket(sock, server_side=True))
    try:
        url = f"https://localhost:{server.server_port}/good"
        with pytest.raises(DownloadError, match=r"certificate not trusted.*SSL_CERT_FILE"):
            download_file(url, target, sha256=SHA256)
        assert not target.exists()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        download_file(url, target, sha256=SHA256)
        assert target.read_bytes() == BODY
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# the released models, from servers that stand in for the real ones


@pytest.fixture
def mirrors(monkeypatch, tmp_path, address):
    monkeypatch.setenv("LLM_SCRATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LLM_SCRATCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(gpt2_files, "HUB_SHA256", {"124M": SHA256})
    monkeypatch.setattr(gpt2_files, "OPENAI_SHA256", {})
    monkeypatch.setattr(gpt2_files, "OPENAI_FILES", {file: {} for file in gpt2_files.OPENAI_FILES})

    def point(hub_kind, *openai_kinds):
        monkeypatch.setattr(gpt2_files, "HUB_URL", address(f"{{name}}/{hub_kind}"))
        urls = [address(f"{{size}}/{{file}}/{kind}") for kind in openai_kinds]
        monkeypatch.setattr(gpt2_files, "OPENAI_URLS", tuple(urls))

    return point


def test_fetch_gpt2_asks_the_hub_once(mirrors, server, tmp_path):
    mirrors("good", "nothing")
    folder = gpt2_files.fetch_gpt2("gpt2-small (124M)")
    assert folder == tmp_path / "cache" / "gpt2" / "124M"
    assert left_in(folder) == ["model.safetensors"]
    assert gpt2_files.fetch_gpt2("124M") == folder
    assert gpt2_files.find_gpt2("gpt2") == folder
    assert len(server.asked) == 1
    elsewhere = gpt2_files.fetch_gpt2("gpt2", data_dir=tmp_path / "mine")
    assert elsewhere == tmp_path / "mine" / "gpt2" / "124M"


@pytest.mark.parametrize("known", [True, False], ids=["checksum", "no-checksum"])
def test_fetch_gpt2_replaces_a_file_that_is_cut_off(mirrors, monkeypatch, known):
    mirrors("good", "nothing")
    monkeypatch.setattr(gpt2_files, "HUB_SHA256", {"124M": SHA256} if known else {})
    path = gpt2_files.fetch_gpt2("gpt2") / "model.safetensors"
    path.write_bytes(BODY[:-1])
    with pytest.raises(FileNotFoundError, match="is missing"):
        gpt2_files.find_gpt2("gpt2")
    assert gpt2_files.fetch_gpt2("gpt2") == path.parent
    assert path.read_bytes() == BODY


def test_fetch_gpt2_turns_to_openais_files(mirrors, server):
    mirrors("nothing", "broken", "good")
    folder = gpt2_files.fetch_gpt2("gpt2")
    assert left_in(folder) == sorted(gpt2_files.OPENAI_FILES)


def test_fetch_gpt2_names_each_address_and_what_to_do(mirrors, server):
    mirrors("nothing", "broken", "short")
    gpt2_files.OPENAI_FILES["checkpoint"] = {"124M": 77}
    with pytest.raises(DownloadError) as caught:
        gpt2_files.fetch_gpt2("gpt2")
    message = str(caught.value)
    for part in ("gpt2/nothing (HTTP 404", "124M/checkpoint/broken (HTTP 503", "checkpoint/short"):
        assert part in message
    assert "put a copy from elsewhere at" in message
    assert "model.safetensors" in message
