"""Every object and every event of a stream against the models of the official SDKs, in strict mode.

The SDKs themselves do not validate what they get; here their own pydantic models do.
"""

import functools
import json
import urllib.request
from typing import Literal

import anthropic.types
import openai.types
import openai.types.chat
import openai.types.responses
from pydantic import TypeAdapter

from common import KEY, SCHEMA, URL, check, main, same

A, O = anthropic.types, openai.types
FORCED = "Weather? @tools"


def ask(method, path, body=None):
    fields = {"content-type": "application/json", "authorization": f"Bearer {KEY}", "x-api-key": KEY}
    if path.startswith("/v1/messages"):
        fields["anthropic-version"] = "2023-06-01"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, fields, method=method)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return answer.read().decode()


adapter = functools.cache(TypeAdapter)  # one of a large union takes a tenth of a second to make


def valid(kind, text):
    return adapter(kind).validate_json(text, strict=True)


def events(path, body):
    """(name, data) of each event of a stream; comments are left out."""
    out = []
    for block in ask("POST", path, {**body, "stream": True}).split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if "data" in lines:
            out.append((lines.get("event"), lines["data"]))
    return out


def each(bodies, path, kind, event_kind, done):
    """Asks each body twice, streamed and not."""
    for name, body in bodies.items():
        try:
            valid(kind, ask("POST", path, body))
            found = events(path, body)
            if done:
                same(found.pop()[1], done)
            values = [valid(event_kind, data) for _, data in found]
        except Exception as error:
            raise AssertionError(f"{name}: {error}") from error
        for (event, _), value in zip(found, values):
            if event:
                same(event, value.type)
        yield name, values


SAID = [{"role": "user", "content": FORCED}]
FUNCTIONS = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
FLAT = [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}]
CUSTOM = [{"name": "weather", "input_schema": SCHEMA}]
CHAT = {"model": "any", "messages": SAID, "max_tokens": 60, "seed": 1}


@check
def chat():
    schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA, "strict": True}}
    bodies = {
        "plain": CHAT,
        "usage": {**CHAT, "stream_options": {"include_usage": True}},
        "reasoning": {**CHAT, "reasoning_effort": "low"},
        "logprobs": {**CHAT, "logprobs": True, "top_logprobs": 2, "max_tokens": 4},
        "calls": {**CHAT, "tools": FUNCTIONS, "tool_choice": "required", "max_tokens": 400},
        "schema": {**CHAT, "response_format": schema, "max_tokens": 400},
        "several": {**CHAT, "n": 2, "max_tokens": 4},
        "cut": {**CHAT, "max_tokens": 1},
    }
    for body in bodies.values():
        body.pop("stream", None)
    bodies_without = {k: v for k, v in bodies.items() if k != "usage"}
    for _ in each(
        bodies_without, "/v1/chat/completions", O.chat.ChatCompletion, O.chat.ChatCompletionChunk, "[DONE]"
    ):
        pass
    found = events("/v1/chat/completions", bodies["usage"])
    last = valid(O.chat.ChatCompletionChunk, found[-2][1])
    assert last.usage and not last.choices


class ChunkChoice(O.CompletionChoice):
    finish_reason: Literal["stop", "length"] | None  # the SDK's own model knows no chunk before the last


class CompletionChunk(O.Completion):
    choices: list[ChunkChoice]


@check
def completions():
    body = {"model": "any", "prompt": "Once", "max_tokens": 4}
    bodies = {"plain": body, "logprobs": {**body, "logprobs": 2}, "echo": {**body, "echo": True, "logprobs": 1}}
    for _ in each(bodies, "/v1/completions", O.Completion, CompletionChunk, "[DONE]"):
        pass


@check
def responses():
    body = {"model": "any", "input": FORCED, "max_output_tokens": 60}
    schema = {"format": {"type": "json_schema", "name": "s", "schema": SCHEMA, "strict": True}}
    bodies = {
        "plain": body,
        "reasoning": {**body, "reasoning": {"effort": "low", "summary": "auto"}},
        "calls": {**body, "tools": FLAT, "tool_choice": "required", "max_output_tokens": 400},
        "schema": {**body, "text": schema, "max_output_tokens": 400},
        "cut": {**body, "max_output_tokens": 1},
    }
    R = O.responses
    for name, values in each(bodies, "/v1/responses", R.Response, R.ResponseStreamEvent, None):
        same([v.sequence_number for v in values], list(range(len(values))))
        same([v.type for v in values[:2]], ["response.created", "response.in_progress"])
        assert values[-1].type in ("response.completed", "response.incomplete"), (name, values[-1].type)


@check
def messages():
    body = {"model": "any", "messages": SAID, "max_tokens": 60}
    bodies = {
        "plain": body,
        "thinking": {**body, "thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000},
        "calls": {**body, "tools": CUSTOM, "tool_choice": {"type": "any"}, "max_tokens": 400},
        "schema": {**body, "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}, "max_tokens": 400},
        "cut": {**body, "max_tokens": 1},
    }
    for name, values in each(bodies, "/v1/messages", A.Message, A.RawMessageStreamEvent, None):
        same([values[0].type, values[-1].type], ["message_start", "message_stop"])
    counted = ask("POST", "/v1/messages/count_tokens", {"model": "any", "messages": SAID})
    valid(A.MessageTokensCount, counted)


@check
def models():
    listed = json.loads(ask("GET", "/v1/models"))
    name = listed["data"][0]["id"]
    for kind, path in ((O.Model, f"/v1/models/{name}"),):
        valid(kind, ask("GET", path))
    request = urllib.request.Request(
        f"{URL}/v1/models/{name}", headers={"anthropic-version": "2023-06-01", "x-api-key": KEY}
    )
    with urllib.request.urlopen(request) as answer:
        valid(A.ModelInfo, answer.read().decode())


if __name__ == "__main__":
    main()
