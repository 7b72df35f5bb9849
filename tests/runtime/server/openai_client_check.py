#!/usr/bin/env python3
"""Drives a running server with the official `openai` package, as any application would.

    python3 openai_client_check.py http://127.0.0.1:8000 [--model NAME]

Exits 0 when every check holds, 1 with the failed ones otherwise. Needs `pip install openai`.
Works against any model: it checks shapes, counts and agreement between the ways to ask, with
greedy or seeded sampling, not what the model says.
"""
import argparse
import concurrent.futures
import json
import sys
import time
import traceback
import urllib.request

import openai

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def messages(text="Say something."):
    return [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": text}]


@check
def models_are_listed(client, model):
    assert [entry.id for entry in client.models.list()] == [model]
    assert client.models.retrieve(model).id == model
    expect(openai.NotFoundError, lambda: client.models.retrieve("no-such-model"), "model_not_found")


@check
def completion(client, model):
    answer = client.completions.create(model=model, prompt="Once", max_tokens=8, temperature=0)
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    assert answer.model == model and abs(answer.created - time.time()) < 60
    assert len(answer.choices) == 1 and answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens <= 8


@check
def streamed_completion_equals_whole(client, model):
    fields = dict(model=model, prompt="Once upon a time", max_tokens=24, temperature=0)
    whole = client.completions.create(**fields)
    text, reasons, usage = "", [], None
    for chunk in client.completions.create(**fields, stream=True,
                                           stream_options={"include_usage": True}):
        if chunk.usage:
            usage = chunk.usage
        for choice in chunk.choices:
            text += choice.text
            if choice.finish_reason:
                reasons.append(choice.finish_reason)
    assert text == whole.choices[0].text, (text, whole.choices[0].text)
    assert reasons == [whole.choices[0].finish_reason]
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens == whole.usage.prompt_tokens


@check
def chat(client, model):
    answer = client.chat.completions.create(model=model, messages=messages(), max_tokens=16,
                                            temperature=0)
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert answer.choices[0].message.role == "assistant"
    assert isinstance(answer.choices[0].message.content, str)
    assert answer.usage.prompt_tokens > 0 and answer._request_id == answer.id
    # What came back can be sent back.
    history = messages() + [answer.choices[0].message.model_dump(),
                            {"role": "user", "content": [{"type": "text", "text": "And "},
                                                         {"type": "text", "text": "then?"}]}]
    client.chat.completions.create(model=model, messages=history, max_completion_tokens=4)


@check
def streamed_chat_equals_whole(client, model):
    fields = dict(model=model, messages=messages(), max_tokens=24, temperature=0)
    whole = client.chat.completions.create(**fields)
    chunks = list(client.chat.completions.create(**fields, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content, (text, whole.choices[0].message.content)
    assert len({chunk.id for chunk in chunks}) == 1


@check
def several_choices_and_prompts(client, model):
    answer = client.completions.create(model=model, prompt=["One", "Two"], n=3, max_tokens=6,
                                       seed=11, temperature=1.0)
    assert [choice.index for choice in answer.choices] == list(range(6))
    again = client.completions.create(model=model, prompt=["One", "Two"], n=3, max_tokens=6,
                                      seed=11, temperature=1.0)
    assert [c.text for c in again.choices] == [c.text for c in answer.choices]
    streamed = {}
    for chunk in client.chat.completions.create(model=model, messages=messages(), n=2, max_tokens=6,
                                                stream=True, seed=5):
        for choice in chunk.choices:
            streamed.setdefault(choice.index, "")
            streamed[choice.index] += choice.delta.content or ""
    whole = client.chat.completions.create(model=model, messages=messages(), n=2, max_tokens=6,
                                           seed=5)
    assert [streamed[i] for i in range(2)] == [c.message.content for c in whole.choices]


@check
def token_prompts_and_echo(client, model):
    answer = client.completions.create(model=model, prompt=[[1, 2, 3], [4]], max_tokens=2)
    assert answer.usage.prompt_tokens == 4 and len(answer.choices) == 2
    answer = client.completions.create(model=model, prompt="Echo this", max_tokens=2, echo=True)
    assert answer.choices[0].text.startswith("Echo this")


@check
def logprobs(client, model):
    answer = client.completions.create(model=model, prompt="Once", max_tokens=5, logprobs=3,
                                       temperature=0)
    shown = answer.choices[0].logprobs
    count = answer.usage.completion_tokens
    assert len(shown.tokens) == len(shown.token_logprobs) == len(shown.text_offset) == count
    assert all(value <= 0 for value in shown.token_logprobs)
    assert all(1 <= len(top) <= 3 for top in shown.top_logprobs)
    answer = client.chat.completions.create(model=model, messages=messages(), max_tokens=5,
                                            logprobs=True, top_logprobs=2, temperature=0)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    assert all(len(token.top_logprobs) == 2 for token in content)
    raw = b"".join(bytes(token.bytes) for token in content)
    assert raw.decode(errors="replace").startswith(answer.choices[0].message.content[:1])


@check
def stop_strings(client, model):
    fields = dict(model=model, prompt="Once upon a time", max_tokens=32, temperature=0)
    whole = client.completions.create(**fields).choices[0].text
    if len(whole) < 6:
        return
    stop = whole[3:6]
    cut = client.completions.create(**fields, stop=[stop])
    assert cut.choices[0].text == whole[:whole.find(stop)], (cut.choices[0].text, whole, stop)
    assert cut.choices[0].finish_reason == "stop"


@check
def own_fields(client, model):
    client.completions.create(model=model, prompt="x", max_tokens=3, extra_body={
        "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": True,
        "stop_token_ids": [1], "priority": 1, "cache_salt": "tenant"})
    ignored = client.completions.create(model=model, prompt="x", max_tokens=9, temperature=0,
                                        extra_body={"ignore_eos": True})
    assert ignored.usage.completion_tokens == 9
    client.chat.completions.create(model=model, messages=messages(), max_tokens=2, store=True,
                                   metadata={"a": "b"}, user="me", parallel_tool_calls=True,
                                   service_tier="auto", response_format={"type": "text"},
                                   tools=[{"type": "function", "function": {
                                       "name": "weather", "parameters": {"type": "object"}}}])


@check
def errors_are_exceptions(client, model):
    complete = client.completions.create
    bad = openai.BadRequestError
    expect(openai.NotFoundError, lambda: complete(model="gpt-0", prompt="x"), "model_not_found")
    for field, value in [("max_tokens", 0), ("temperature", -1), ("top_p", 2), ("n", 0),
                         ("logit_bias", {"5": 1}), ("suffix", "x"), ("best_of", 5),
                         ("logprobs", 99), ("presence_penalty", 3), ("stop", [""])]:
        error = expect(bad, lambda: complete(model=model, prompt="x", **{field: value}))
        assert error.param == field and field in error.message, (field, error.message)
    error = expect(bad, lambda: complete(model=model, prompt="x", extra_body={"frobnicate": 1}))
    assert error.param == "frobnicate" and error.code == "unknown_field"
    expect(bad, lambda: complete(model=model, prompt="x " * 200000, stream=True))
    talk = client.chat.completions.create
    expect(bad, lambda: talk(model=model, messages=[]))
    expect(bad, lambda: talk(model=model, messages=[{"role": "robot", "content": "x"}]))
    expect(bad, lambda: talk(model=model, messages=messages(),
                             response_format={"type": "json_object"}))
    expect(bad, lambda: talk(model=model, messages=messages(), tools=[], tool_choice="required"))


@check
def a_stream_can_be_left(client, model):
    with client.completions.create(model=model, prompt="x", max_tokens=500, stream=True,
                                   extra_body={"ignore_eos": True}) as stream:
        next(iter(stream))
    client.completions.create(model=model, prompt="x", max_tokens=1)


@check
def many_at_once(client, model):
    def one(index):
        fields = dict(model=model, prompt=f"Number {index}", max_tokens=12, temperature=0)
        return "".join(chunk.choices[0].text
                       for chunk in client.completions.create(**fields, stream=True))

    alone = [one(index) for index in range(4)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(one, list(range(4)) * 8))
    assert together == alone * 8


@check
def event_source(client, model):
    url = str(client.base_url).removesuffix("v1/") + (
        "v1/chat/completions/stream?message=hello&max_tokens=4")
    with urllib.request.urlopen(url, timeout=60) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        events = response.read().decode().split("\n\n")
    data = [event[6:] for event in events if event.startswith("data: ")]
    assert data[-1] == "[DONE]" and json.loads(data[0])["choices"][0]["delta"]["role"]
    request = urllib.request.Request(url, headers={"Last-Event-ID": "1"})
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.status == 204


def expect(kind, call, code=None):
    try:
        call()
    except kind as error:
        assert code is None or error.code == code, f"code {error.code}, not {code}"
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--model", help="default: the one the server lists")
    arguments = parser.parse_args()
    client = openai.OpenAI(base_url=arguments.url.rstrip("/") + "/v1", api_key="none",
                           max_retries=0, timeout=120)
    model = arguments.model or next(iter(client.models.list())).id
    failed = 0
    for function in CHECKS:
        begin = time.perf_counter()
        try:
            function(client, model)
            verdict = "ok"
        except Exception:  # noqa: BLE001 - any failure of a check is reported, then the next runs
            failed += 1
            verdict = "FAILED\n" + traceback.format_exc()
        print(f"{function.__name__:36s} {time.perf_counter() - begin:6.2f} s  {verdict}")
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} checks hold against {arguments.url} ({model})")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
