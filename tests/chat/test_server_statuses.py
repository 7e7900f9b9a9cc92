"""Whom the server refuses, with which status: always the one JSON, never more than it says."""

from __future__ import annotations

import re

import pytest
from scripted_engine import ScriptedEngine, wait_until
from served_models import CHAT, TEXT, application, chat, client, events_of, text
from starlette.testclient import TestClient

from llm_scratch.chat.guards import host_of

ORIGIN = {"origin": "https://chat.example"}


def error_of(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert re.fullmatch("req-[0-9a-f]{16}", answer.headers["x-request-id"])
    (name,) = answer.json()
    error = answer.json()[name]
    assert name == "error"
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "\n" not in error["message"]
    return error


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nope", 404, "not_found"), ("GET", "/v1", 404, "not_found"),
     ("GET", "/v1/models/", 404, "model_not_found"), ("GET", "/v1/models/a/b", 404,
     "model_not_found"), ("GET", CHAT, 405, "method_not_allowed"), ("POST", "/v1/models", 405,
     "method_not_allowed"), ("DELETE", "/health", 405, "method_not_allowed"),
     ("OPTIONS", TEXT, 405, "method_not_allowed"), ("POST", CHAT + "/", 404, "not_found"),
     ("GET", "/..%2f..%2fetc/passwd", 404, "not_found")],
)  # fmt: skip
def test_paths_and_methods_that_there_are_not(method, path, status, code):
    answer = client().request(method, path)
    assert error_of(answer, status)["code"] == code
    assert ("allow" in answer.headers) == (status == 405)


def test_models_are_known_by_their_names():
    asked = client(name="org/tide")
    assert asked.get("/v1/models/org/tide").json()["id"] == "org/tide"
    assert asked.post(CHAT, json=chat(model="org/tide")).status_code == 200
    error = error_of(asked.post(CHAT, json=chat(model="other\n\U0001f525")), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "org/tide" in error["message"]
    for model in (None, 5, ["tide"], {}):
        assert error_of(asked.post(CHAT, json=chat(model=model)), 400)["param"] == "model"


def test_the_field_at_fault_is_named():
    error = error_of(client().post(CHAT, json=chat(temperature=3)), 400)
    assert error == {
        "message": "temperature is 3; a number from 0 to 2 is needed",
        "type": "invalid_request_error", "param": "temperature", "code": None,
    }  # fmt: skip


def test_a_key_is_asked_for_everywhere_but_at_the_page_and_health():
    asked = client(api_key="sécret")
    right = {"authorization": "Bearer sécret".encode()}
    for path in ("/v1/models", "/v1/models/tide", "/metrics", "/nope"):
        answer = asked.get(path)
        assert error_of(answer, 401)["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
    for header in (b"Bearer wrong", b"Bearer", b"", b"Basic " + right["authorization"][7:],
                   b"s\xc3\xa9cret", b"Bearers\xc3\xa9cret"):  # fmt: skip
        error_of(asked.post(CHAT, json=chat(), headers={"authorization": header}), 401)
    assert asked.post(CHAT, json=chat(), headers=right).status_code == 200
    assert asked.get("/metrics", headers=right).status_code == 200
    assert asked.get("/health").json() == {"status": "ok"}  # no names without the key
    assert error_of(asked.get("/"), 404)  # a server without a page


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:8000", "LocalHost:80"])
def test_the_server_answers_to_its_own_names(host):
    assert client().get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil", "",
             "10.0.0.5", "[::2]", "[::1", "127.0.0.1@evil.example", "0", "localhost, evil.example"]
)  # fmt: skip
def test_the_server_answers_to_no_other_name(host):
    answer = client().get("/health", headers={"host": host})
    assert error_of(answer, 403)["code"] == "host_not_allowed"


def test_further_names_can_be_allowed():
    asked = client(hosts=("Chat.Example",))
    assert asked.get("/health", headers={"host": "chat.example"}).status_code == 200
    error_of(asked.get("/health", headers={"host": "evil.example"}), 403)
    assert client(hosts=("*",)).get("/health", headers={"host": "a.b"}).status_code == 200


def test_bound_to_all_addresses_it_answers_to_numbers():
    app = application()
    from llm_scratch.chat.server import Application

    everywhere = Application(list(app.models.values()), app.settings, "0.0.0.0")
    asked = TestClient(everywhere.guards, "http://10.0.0.5:8000")
    assert asked.get("/health").status_code == 200
    error_of(asked.get("/health", headers={"host": "evil.example"}), 403)


def test_hosts_are_read_out_of_headers():
    found = [host_of(each) for each in ("a.b:80", "[::1]:80", "A.B", "x@y", "]", "[a")]
    assert found == ["a.b", "::1", "a.b", "y", "", ""]


def test_pages_of_other_servers_are_not_answered():
    asked = client()
    for origin in ("https://chat.example", "null", "http://127.0.0.1:9000", "http://[", ""):
        answer = asked.post(CHAT, json=chat(), headers={"origin": origin})
        assert error_of(answer, 403)["code"] == "origin_not_allowed"
        assert "access-control-allow-origin" not in answer.headers
    own = asked.post(CHAT, json=chat(), headers={"origin": "http://127.0.0.1:8000"})
    assert own.status_code == 200


@pytest.mark.parametrize("allowed", [ORIGIN["origin"], "*"])
def test_pages_that_are_allowed_can_ask_and_read(allowed):
    asked = client(origins=(allowed,), api_key="k")
    preflight = {**ORIGIN, "access-control-request-method": "POST"}
    answer = asked.options(CHAT, headers=preflight)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == ORIGIN["origin"]
    assert "Authorization" in answer.headers["access-control-allow-headers"]
    answer = asked.post(CHAT, json=chat(), headers={**ORIGIN, "authorization": "Bearer k"})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN["origin"]
    assert answer.headers["vary"] == "Origin"
    wrong = asked.post(CHAT, json=chat(), headers=ORIGIN)
    error_of(wrong, 401)
    assert wrong.headers["access-control-allow-origin"] == ORIGIN["origin"]  # so it can be read


@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_are_bounded_with_and_without_their_length(chunked):
    asked = client(limits={"body_bytes": 2000})
    body = b'{"model": "tide", "prompt": "%b"}' % (b"x" * 3000)
    parts = iter([body[i : i + 500] for i in range(0, len(body), 500)])
    answer = asked.post(TEXT, content=parts if chunked else body)
    assert error_of(answer, 413)["code"] == "body_too_large"
    assert asked.post(TEXT, json=text()).status_code == 200
    error_of(asked.post(TEXT, content=b"{}", headers={"content-length": "9" * 40}), 413)


def test_a_full_queue_says_when_to_come_again():
    answer = client(ScriptedEngine(places=0)).post(CHAT, json=chat(stream=True))
    assert error_of(answer, 429)["type"] == "rate_limit_error"
    assert int(answer.headers["retry-after"]) > 0


def test_an_engine_that_has_stopped_is_told_by_answers_and_health():
    engine = ScriptedEngine()
    asked = client(engine)
    assert asked.get("/health").json() == {"status": "ok", "models": {"tide": "ok"}}
    engine.alive = False
    assert error_of(asked.post(CHAT, json=chat()), 503)["code"] == "engine_stopped"
    health = asked.get("/health")
    assert (health.status_code, health.json()["models"]) == (503, {"tide": "failed"})
    assert 'llm_scratch_engine_alive{model="tide"} 0' in asked.get("/metrics").text


def test_an_engine_that_dies_without_a_word_is_noticed():
    engine = ScriptedEngine(pause=0.02)
    engine.silent = True
    asked = client(engine, limits={"silence": 0.05})
    submit = engine.submit

    def dying(request, on_event):
        ticket = submit(request, on_event)
        engine.alive = False
        return ticket

    engine.submit = dying
    assert error_of(asked.post(CHAT, json=chat()), 503)["code"] == "engine_stopped"


def test_a_failure_is_told_without_its_words():
    lines = []
    engine = ScriptedEngine(fail_after=1)
    asked = client(engine, log=lines)
    error = error_of(asked.post(CHAT, json=chat()), 500)
    assert "secret" not in error["message"]
    assert "secret words of the engine" in lines[0]
    events = events_of(asked.post(CHAT, json=chat(stream=True)))
    assert [e["choices"][0]["delta"] for e in events[:-1]] == [
        {"role": "assistant", "content": ""}, {"content": "A"},
    ]  # fmt: skip
    assert events[-1] == {"error": error}  # and no [DONE]
    engine.fail_after = None
    assert asked.post(CHAT, json=chat()).status_code == 200


def test_a_fault_of_the_server_is_told_without_its_words(monkeypatch):
    app = application()
    monkeypatch.setattr(app, "_prepare", lambda *_: 1 / 0)
    asked = TestClient(app.guards, "http://127.0.0.1", raise_server_exceptions=False)
    error = error_of(asked.post(CHAT, json=chat()), 500)
    assert "division" not in error["message"]


def test_an_answer_that_takes_too_long_ends_with_what_it_has():
    engine = ScriptedEngine([" a"] * 9, hold_after=2)
    asked = client(engine, limits={"seconds": 1.0})
    (choice,) = asked.post(CHAT, json=chat()).json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"] == " a a"
    wait_until(lambda: engine.counters.running == 0)


def test_an_answer_that_has_not_begun_in_time_is_an_error():
    engine = ScriptedEngine(pause=30)
    asked = client(engine, limits={"seconds": 0.05, "together": 1})
    assert error_of(asked.post(TEXT, json=text(prompt=[[40], [41]])), 503)["code"] == "timeout"
    assert events_of(asked.post(CHAT, json=chat(stream=True)))[-1]["error"]["code"] == "timeout"
    wait_until(lambda: engine.counters.running == 0)


def test_a_stream_shows_that_it_lives_while_nothing_comes():
    engine = ScriptedEngine(pause=0.12)
    answer = client(engine, limits={"silence": 0.05}).post(CHAT, json=chat(stream=True))
    assert answer.text.count(": ping\n\n") >= 3
    assert events_of(answer)[-1] == "[DONE]"


def test_metrics_are_prometheus_text():
    name = 'a"b\\c'
    asked = client(name=name)
    asked.post(CHAT, json=chat(model=name))
    asked.get("/nope")
    answer = asked.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.text.splitlines()
    assert 'llm_scratch_requests_total{model="a\\"b\\\\c"} 1' in lines
    assert 'llm_scratch_http_responses_total{status="404"} 1' in lines
    helped = [line.split()[2] for line in lines if line.startswith("# HELP")]
    typed = [line.split()[2:] for line in lines if line.startswith("# TYPE")]
    assert helped == [metric for metric, _ in typed]
    sample = re.compile(r'[a-z_]+(\{[a-z]+="([^"\\]|\\["\\n])*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+')
    for line in lines:
        assert line.startswith("# ") or sample.fullmatch(line), line
    for metric, kind in typed:
        assert (kind == "counter") == metric.endswith("_total")
