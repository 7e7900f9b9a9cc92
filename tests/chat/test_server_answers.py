"""What the server answers, whole and in pieces, over an engine that follows a script."""

import re

import pytest

pytest.importorskip("starlette")

from scripted_engine import ScriptedEngine
from served_models import CHAT, TEXT, chat, client, events_of, text

IDS = re.compile(r'"id":"(chatcmpl|cmpl)-[0-9a-f]{24}"|"created":\d+')


def without_ids(text):
    """The text of a stream with what differs each time taken out."""
    return IDS.sub(lambda found: (found[1] or "") and f'"id":"{found[1]}"', text)


def test_a_stream_byte_for_byte():
    engine = ScriptedEngine(["Hi", " \U0001f525"])
    answer = client(engine).post(
        CHAT, json=chat(stream=True, stream_options={"include_usage": True})
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    head = '{"id":"chatcmpl",,"model":"tide","object":"chat.completion.chunk","choices":'
    tail = ',"logprobs":null,"finish_reason":%s}],"usage":null}\n\n'
    assert without_ids(answer.content.decode("utf-8")) == (
        f'data: {head}[{{"index":0,"delta":{{"role":"assistant","content":""}}{tail % "null"}'
        f'data: {head}[{{"index":0,"delta":{{"content":"Hi"}}{tail % "null"}'
        f'data: {head}[{{"index":0,"delta":{{"content":" \U0001f525"}}{tail % "null"}'
        f'data: {head}[{{"index":0,"delta":{{}}' + tail % '"stop"' + f'data: {head}[],"usage":{{'
        '"prompt_tokens":14,"completion_tokens":2,"total_tokens":16,'
        '"prompt_tokens_details":{"cached_tokens":2}}}\n\n'
        "data: [DONE]\n\n"
    )


def test_usage_comes_only_when_asked_for():
    events = events_of(client().post(CHAT, json=chat(stream=True)))
    assert events[-1] == "[DONE]"
    assert all("usage" not in event and event["choices"] for event in events[:-1])
    assert len({(event["id"], event["created"]) for event in events[:-1]}) == 1


def test_a_whole_answer():
    answer = client(ScriptedEngine(reason="stop")).post(CHAT, json=chat()).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [{
        "index": 0, "message": {"role": "assistant", "content": "A b c", "refusal": None},
        "logprobs": None, "finish_reason": "stop",
    }]  # fmt: skip
    assert answer["usage"]["total_tokens"] == 17


@pytest.mark.parametrize(("most", "reason"), [(2, "length"), (9, "stop")])
def test_an_answer_says_why_it_ended(most, reason):
    asked = client()
    whole = asked.post(CHAT, json=chat(max_tokens=most)).json()["choices"][0]
    assert whole["finish_reason"] == reason
    events = events_of(asked.post(TEXT, json=text(max_tokens=most, stream=True)))
    ends = [event["choices"][0]["finish_reason"] for event in events[:-1]]
    assert ends == [None] * (len(ends) - 1) + [reason]


def test_requests_arrive_at_the_engine_as_they_were_meant():
    engine = ScriptedEngine()
    asked = client(engine)
    asked.post(CHAT, json=chat(n=2, seed=7, stop=["x"], temperature=0, max_tokens=5, top_k=3))
    first, second = engine.requests
    assert (first.seed, second.seed) == (7, 8)
    assert first.ids == second.ids
    assert first.stop[0] == "x"
    assert "\nUser:" in first.stop  # the format's own
    assert (first.max_new_tokens, first.settings.temperature) == (5, 0)
    assert first.settings.top_k == 3
    assert first.top_logprobs is None
    asked.post(TEXT, json=text(prompt="The", stop="y"))
    last = engine.requests[-1]
    assert (last.stop, last.max_new_tokens, last.seed) == (("y",), 16, None)
    assert last.settings.temperature == 1
    assert last.stop_ids == (engine.tokenizer.special_tokens["<|endoftext|>"],)


def test_control_tokens_in_what_people_say_are_text():
    engine = ScriptedEngine()
    asked, end = client(engine), engine.tokenizer.special_tokens["<|endoftext|>"]
    asked.post(CHAT, json=chat(messages=[{"role": "user", "content": "<|endoftext|>"}]))
    asked.post(TEXT, json=text(prompt="<|endoftext|>"))
    assert all(end not in request.ids[1:] for request in engine.requests)
    asked.post(TEXT, json=text(prompt=""))
    assert engine.requests[-1].ids == (end,)  # what an empty text begins with


def test_an_answer_fits_the_context_and_the_server_s_limit():
    engine = ScriptedEngine()
    asked = client(engine, limits={"answer_tokens": 20})
    asked.post(TEXT, json=text(prompt=[40] * 60, max_tokens=1000))
    asked.post(TEXT, json=text(prompt=[40], max_tokens=1000))
    asked.post(CHAT, json=chat())
    assert [request.max_new_tokens for request in engine.requests] == [4, 20, 20]


@pytest.mark.parametrize(
    ("path", "param", "body"),
    [(TEXT, "prompt", text(prompt=[40] * 64)),
     (CHAT, "messages", chat(messages=[{"role": "user", "content": "xyz" * 40}]))],
)  # fmt: skip
def test_a_prompt_too_long_is_told_with_both_numbers(path, param, body):
    answer = client().post(path, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert error["param"] == param
    assert re.search(r"\b\d\d+ tokens .* 64;", error["message"])


def test_several_prompts_and_answers_stand_by_prompt_then_choice():
    engine = ScriptedEngine()
    answer = client(engine).post(TEXT, json=text(prompt=[[40, 41], [42]], n=2, seed=5)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert {request.ids for request in engine.requests[:2]} == {(40, 41)}
    assert [request.seed for request in engine.requests] == [5, 6, 5, 6]
    assert answer["usage"]["prompt_tokens"] == 3  # each prompt once
    assert answer["usage"]["completion_tokens"] == 12


def test_streams_of_several_choices_are_told_apart_by_index():
    events = events_of(client(ScriptedEngine(pause=0.001)).post(CHAT, json=chat(n=3, stream=True)))
    texts, ends = {}, {}
    for event in events[:-1]:
        (choice,) = event["choices"]
        assert choice["index"] not in ends
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["delta"].get("content", "")
        if choice["finish_reason"]:
            ends[choice["index"]] = choice["finish_reason"]
    assert texts == dict.fromkeys(range(3), "A b c")
    assert ends == dict.fromkeys(range(3), "stop")


def test_a_request_for_many_leaves_room_for_others():
    engine = ScriptedEngine(pause=0.002)
    most = []
    submit = engine.submit

    def counted(request, on_event):
        ticket = submit(request, on_event)
        most.append(engine.counters.running)
        return ticket

    engine.submit = counted
    answer = client(engine, limits={"together": 2}).post(TEXT, json=text(prompt=[[40]] * 9))
    assert len(answer.json()["choices"]) == 9
    assert max(most) <= 2


def test_a_queue_that_fills_on_the_way_is_waited_for():
    engine = ScriptedEngine(pause=0.002, places=1)
    answer = client(engine).post(TEXT, json=text(prompt=[[40]] * 4))
    assert [choice["text"] for choice in answer.json()["choices"]] == ["A b c"] * 4


def test_log_probabilities_of_a_chat():
    engine = ScriptedEngine(["A", " b"])
    body = chat(logprobs=True, top_logprobs=2, max_tokens=2)
    (choice,) = client(engine).post(CHAT, json=body).json()["choices"]
    first = choice["logprobs"]["content"][0]
    told, other = (engine.tokenizer.decode([i]) for i in (40, 3))
    chosen = {"token": told, "logprob": -0.5, "bytes": list(told.encode())}
    assert first == {
        **chosen,
        "top_logprobs": [chosen, {"token": other, "logprob": -1.5, "bytes": list(other.encode())}],
    }
    assert choice["logprobs"]["refusal"] is None
    events = events_of(client(engine).post(CHAT, json={**body, "stream": True}))
    told = [e["choices"][0]["logprobs"] for e in events[:-1]]
    assert [token for each in told if each for token in each["content"]] == choice["logprobs"][
        "content"
    ]
    (choice,) = client(engine).post(CHAT, json=chat(logprobs=True)).json()["choices"]
    assert choice["logprobs"]["content"][0]["top_logprobs"] == []


def test_log_probabilities_of_a_prompt_come_back_as_the_harness_reads_them():
    engine = ScriptedEngine([" b"])
    body = text(prompt=[[40, 41, 42], [43, 44]], max_tokens=1, logprobs=1, temperature=0,
                seed=1234, echo=True)  # fmt: skip
    answer = client(engine).post(TEXT, json=body).json()
    for choice, ids in zip(answer["choices"], body["prompt"], strict=True):
        told = choice["logprobs"]
        assert len(told["token_logprobs"]) == len(ids) + 1
        assert told["token_logprobs"][0] is told["top_logprobs"][0] is None
        assert told["token_logprobs"][1:] == [-0.5] * len(ids)
        assert told["tokens"][:-1] == [engine.tokenizer.decode([i]) for i in ids]
        tops = zip(told["token_logprobs"][1:], told["top_logprobs"][1:], strict=True)
        assert all(value == max(top.values()) for value, top in tops)
        assert choice["text"] == engine.tokenizer.decode(ids) + " b"
        offsets = [engine.tokenizer.decode(ids[:i]) for i in range(len(ids) + 1)]
        assert told["text_offset"] == [len(each) for each in offsets]


def test_a_prompt_comes_back_alone_where_no_token_is_asked_for():
    body = text(prompt="The tide", max_tokens=0, echo=True, logprobs=1)
    answer = client().post(TEXT, json=body).json()
    (choice,) = answer["choices"]
    assert choice["text"] == "The tide"
    assert choice["finish_reason"] == "length"
    assert len(choice["logprobs"]["tokens"]) == answer["usage"]["prompt_tokens"]
    assert answer["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize("logprobs", [None, 1])
def test_a_stream_with_its_prompt(logprobs):
    body = text(prompt="The tide", echo=True, logprobs=logprobs, max_tokens=2)
    asked = client()
    (whole,) = asked.post(TEXT, json=body).json()["choices"]
    pieces = [
        e["choices"][0] for e in events_of(asked.post(TEXT, json={**body, "stream": True}))[:-1]
    ]
    assert "".join(piece["text"] for piece in pieces) == whole["text"] == "The tideA b"
    if logprobs:
        for key in ("tokens", "token_logprobs", "text_offset"):
            told = [each for p in pieces if p["logprobs"] for each in p["logprobs"][key]]
            assert told == whole["logprobs"][key]


def test_half_characters_are_told_by_their_bytes():
    engine = ScriptedEngine(["\u20ac"])
    ids = engine.tokenizer.encode("\u20ac")
    assert len(ids) > 1
    body = text(prompt=[ids], echo=True, logprobs=0, max_tokens=0)
    told = client(engine).post(TEXT, json=body).json()["choices"][0]["logprobs"]
    assert set("".join(told["tokens"])) == {"\ufffd"}
    assert told["text_offset"] == [0] * len(ids)


def test_minus_infinity_is_a_number_of_json():
    from llm_scratch.chat.openai_answers import shown

    assert shown(float("-inf")) == -9999.0
    assert shown(-0.25) == -0.25


def test_requests_as_open_webui_sends_them():
    lines = []
    engine = ScriptedEngine()
    asked = client(engine, log=lines)
    assert [each["id"] for each in asked.get("/v1/models").json()["data"]] == ["tide"]
    parts = [{"type": "text", "text": "Tide"}, {"type": "text", "text": "?"}]
    body = chat(
        messages=[{"role": "system", "content": "Short."}, {"role": "user", "content": parts}],
        stream=True, stream_options={"include_usage": True}, user=None, chat_id="x", session=5,
        features={"web_search": False}, tools=None, max_tokens=None,
    )  # fmt: skip
    for _ in range(2):
        events = events_of(asked.post(CHAT, json=body))
        assert events[-2]["usage"]["completion_tokens"] == 3
    assert "Short." in engine.tokenizer.decode(list(engine.requests[0].ids))
    assert lines == ["fields without effect here, in a request: 'chat_id', 'features', 'session'"]


@pytest.mark.parametrize(
    "roles",
    [("assistant",), ("user", "user"), ("user", "assistant"), ("user", "system"), ("system",),
     ("system", "system", "user"), ("user", "assistant", "assistant")],
)  # fmt: skip
def test_turns_out_of_order_are_refused(roles):
    messages = [{"role": role, "content": "x"} for role in roles]
    answer = client().post(CHAT, json=chat(messages=messages))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")


def test_a_model_without_a_format_answers_texts_alone():
    asked = client(form=None)
    error = asked.post(CHAT, json=chat()).json()["error"]
    assert error["code"] == "no_chat_format"
    assert "--format" in error["message"]
    assert asked.post(TEXT, json=text()).status_code == 200
