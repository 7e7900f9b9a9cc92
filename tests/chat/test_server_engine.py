"""The server over the real engine and a tiny model: right answers, rows that become free."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest
import torch
from engines import alone, byte_level, tiny_llama
from scripted_engine import wait_until
from served_models import TEXT, application, client, events_of, on_a_port, text

from llm_scratch.chat.engine import Engine


@contextmanager
def served(rows=4, waiting=64, **options):
    model = tiny_llama()
    with Engine(model, byte_level(), rows=rows, waiting=waiting) as engine:
        yield model, engine, application(engine, **options)


@pytest.fixture(scope="module")
def one():
    with served() as (model, engine, _):
        yield model, client(engine)


def ids_of(text):
    return tuple(byte_level().encode(text))


def test_greedy_and_seeded_texts_are_those_of_generate(one):
    model, asked = one
    tokenizer = byte_level()
    body = text(prompt="The tide", max_tokens=8, temperature=0)
    (choice,) = asked.post(TEXT, json=body).json()["choices"]
    ids = alone(model, ids_of("The tide"), 8)
    assert choice["text"] == tokenizer.decode(list(ids))
    first = asked.post(TEXT, json={**body, "temperature": 1, "seed": 3, "n": 2}).json()["choices"]
    again = asked.post(TEXT, json={**body, "temperature": 1, "seed": 4}).json()["choices"]
    assert first[1]["text"] == again[0]["text"] != first[0]["text"]


def test_scores_of_a_prompt_are_the_model_s(one):
    model, asked = one
    prompts = [list(range(60, 70)), list(range(80, 86))]
    body = text(prompt=prompts, temperature=0, max_tokens=1, logprobs=1, echo=True)
    choices = asked.post(TEXT, json=body).json()["choices"]
    for choice, ids in zip(choices, prompts, strict=True):
        logprobs = model(torch.tensor([ids]))[0].log_softmax(-1)
        right = logprobs[range(len(ids) - 1), ids[1:]].tolist()
        told = choice["logprobs"]["token_logprobs"]
        assert told[1:-1] == pytest.approx(right, abs=1e-6)
        assert told[-1] == pytest.approx(logprobs[-1].max().item(), abs=1e-6)
        tops = [max(top.values()) for top in choice["logprobs"]["top_logprobs"][1:-1]]
        assert tops == pytest.approx(logprobs[:-1].max(-1).values.tolist(), abs=1e-6)


def test_biases_and_penalties_reach_the_model(one):
    _, asked = one
    a, b = ids_of("AB")
    body = text(prompt="The tide", max_tokens=4, temperature=0, logit_bias={a: 100})
    assert asked.post(TEXT, json=body).json()["choices"][0]["text"] == "AAAA"
    body["frequency_penalty"] = 2
    body["logit_bias"] = {a: 100, b: 99}
    told = asked.post(TEXT, json=body).json()["choices"][0]["text"]
    assert sorted(told) == ["A", "A", "B", "B"]


@pytest.mark.parametrize("temperature", [1e-320, 1e-5, 2])
def test_odd_temperatures_are_answered(one, temperature):
    answer = one[1].post(TEXT, json=text(temperature=temperature, max_tokens=2, seed=1))
    assert answer.status_code == 200, answer.text


def test_a_stop_text_is_never_shown(one):
    _, asked = one
    body = text(prompt="The tide", max_tokens=30, temperature=0,
                logit_bias={ids_of("A")[0]: 100},
                stop="AAA", logprobs=1)  # fmt: skip
    (choice,) = asked.post(TEXT, json=body).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("", "stop")
    assert choice["logprobs"]["tokens"] == ["A", "A", "A"]
    events = events_of(asked.post(TEXT, json={**body, "stream": True}))
    assert "".join(e["choices"][0]["text"] for e in events[:-1]) == ""


def post(url, path, body):
    """The status and the JSON of an answer."""
    asked = urllib.request.Request(url + path, json.dumps(body).encode())
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as err:
        with closing(err):
            return err.code, json.load(err)


def test_many_at_once_get_what_each_gets_alone():
    with served() as (model, _, app), on_a_port(app) as url:
        prompts = [tuple(range(60, 62 + n)) for n in range(12)]
        bodies = [text(prompt=list(p), max_tokens=10, temperature=0, logprobs=0) for p in prompts]
        with ThreadPoolExecutor(12) as pool:
            told = list(pool.map(lambda body: post(url, TEXT, body), bodies))
    tokenizer = byte_level()
    for (status, answer), prompt in zip(told, prompts, strict=True):
        assert status == 200
        right = alone(model, prompt, 10)
        assert answer["choices"][0]["text"] == tokenizer.decode(list(right))


def test_a_client_that_leaves_frees_the_row_of_the_engine():
    slow = {"seconds": 60.0}
    with served(rows=1, limits=slow) as (model, engine, app), on_a_port(app) as url:
        model.final_norm.register_forward_hook(lambda *_: time.sleep(0.2))
        body = text(prompt="a", max_tokens=60, stream=True)
        asked = urllib.request.Request(url + TEXT, json.dumps(body).encode())
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert answer.readline().startswith(b"data: ")
            assert engine.counters.running == 1
        wait_until(lambda: engine.counters.running == 0)
        assert engine.counters.cancelled == 1
        assert post(url, TEXT, text(max_tokens=1))[0] == 200


def test_a_step_that_fails_is_told_and_the_next_request_is_answered():
    with served() as (model, engine, _):
        asked = client(engine)
        handle = model.final_norm.register_forward_hook(lambda *_: 1 / 0)
        answer = asked.post(TEXT, json=text())
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "failed")
        assert events_of(asked.post(TEXT, json=text(stream=True)))[-1]["error"]["code"] == "failed"
        handle.remove()
        assert asked.post(TEXT, json=text()).status_code == 200
        assert asked.get("/health").status_code == 200


class Killed(BaseException):
    """Nothing catches it."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_engine_is_told_by_the_request_and_by_health():
    def die(*_):
        raise Killed

    with served() as (model, engine, _):
        asked = client(engine)
        model.final_norm.register_forward_hook(die)
        answer = asked.post(TEXT, json=text())
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_stopped")
        wait_until(lambda: not engine.alive)
        assert asked.get("/health").status_code == 503
        assert asked.post(TEXT, json=text()).status_code == 503


@pytest.mark.slow
def test_a_load_of_many_clients_is_answered_right_or_sent_away_in_order():
    with served(rows=4, waiting=8) as (model, engine, app), on_a_port(app) as url:
        prompts = [tuple(range(60, 62 + n)) for n in range(20)]
        tokenizer = byte_level()
        right = {p: tokenizer.decode(list(alone(model, p, 12))) for p in prompts}
        end, statuses, wrong, lock = time.monotonic() + 8, [], [], threading.Lock()

        def ask(number):
            turn = number
            while time.monotonic() < end:
                turn += 1
                prompt = prompts[turn % len(prompts)]
                body = text(prompt=list(prompt), max_tokens=12, temperature=0)
                status, answer = post(url, TEXT, body)
                good = status == 429 and answer["error"]["code"] == "rate_limit_exceeded"
                if status == 200:
                    good = answer["choices"][0]["text"] == right[prompt]
                with lock:
                    statuses.append(status)
                    wrong.extend([] if good else [(status, answer)])

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(32)]
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            with urllib.request.urlopen(url + "/health", timeout=20) as health:
                assert json.load(health)["status"] == "ok"
            time.sleep(0.2)
        for thread in threads:
            thread.join(60)
        assert not wrong
        assert {200, 429} == set(statuses)
        counted = engine.counters
        assert sum(counted.finished.values()) == statuses.count(200)
        assert (counted.running, counted.waiting, counted.failed) == (0, 0, 0)
