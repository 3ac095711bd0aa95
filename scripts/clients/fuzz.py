#!/usr/bin/env python3
"""Random requests to every endpoint: the answer is 2xx or 4xx in the shape of its API, a stream ends with its last event.

scripts/clients/run.py --install fuzz; or by hand with the package hypothesis:
INFALL_URL=http://127.0.0.1:8000 python fuzz.py SECONDS
"""

import http.client
import json
import os
import sys
import time
from urllib.parse import urlsplit

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from common import KEY, URL, check, main

SECONDS = float(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("INFALL_FUZZ_S", "20"))
SLOWEST = 60  # seconds without an answer are a hang

text = st.text(max_size=12) | st.sampled_from(
    [
        "hi",
        "\ud83d",
        "\ufeff",
        "</think>",
        "<｜User｜>",
        "<｜DSML｜tool_calls>",
        "auto",
        "none",
        "required",
        "any",
        "high",
    ]
)
number = (
    st.integers(-3, 40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0, 1, 1e400, 2**63, 2**64, -1, 0.5])
)
leaf = st.none() | st.booleans() | number | text
junk = st.recursive(
    leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=6
)

type_name = st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null"])
schema = st.recursive(
    st.fixed_dictionaries({"type": type_name})
    | st.fixed_dictionaries({"enum": st.lists(leaf, min_size=1, max_size=3)})
    | st.sampled_from(
        [{}, True, {"$ref": "#"}, {"type": "string", "pattern": "^a+$"}, {"type": "integer", "minimum": 3}]
    )
    | junk,
    lambda inner: st.fixed_dictionaries(
        {"type": st.just("object"), "properties": st.dictionaries(text, inner, max_size=3)}
    )
    | st.fixed_dictionaries({"type": st.just("array"), "items": inner})
    | st.fixed_dictionaries({"anyOf": st.lists(inner, max_size=3)}),
    max_leaves=5,
)
blocks = st.sampled_from(
    [
        {"type": "text", "text": "x"},
        {"type": "image", "source": {}},
        {"type": "image_url", "image_url": {"url": "data:,"}},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
        {"type": "tool_result", "tool_use_id": "a", "content": None},
        {"type": "thinking", "thinking": "x", "signature": "y"},
        {"type": "input_text", "text": "y"},
        {"type": "document"},
        {"type": "function_call", "name": "f", "arguments": "{", "call_id": "a"},
        {"type": "function_call_output", "call_id": "a"},
        {"type": "reasoning", "summary": []},
        {"type": "custom_tool_call", "name": "g", "input": "x"},
    ]
)
content = text | st.lists(blocks | junk, max_size=3) | junk
role = st.sampled_from(["user", "assistant", "system", "developer", "tool", "function", "x", None])
call = st.fixed_dictionaries(
    {},
    optional={
        "id": text,
        "type": st.just("function"),
        "function": st.fixed_dictionaries({}, optional={"name": text, "arguments": text | junk}),
    },
)
message = (
    st.fixed_dictionaries(
        {},
        optional={
            "role": role,
            "content": content,
            "tool_calls": st.lists(call, max_size=2),
            "tool_call_id": text,
            "name": text,
            "reasoning_content": text,
            "prefix": st.booleans(),
        },
    )
    | junk
)
messages = st.lists(message, max_size=5) | junk
function = st.fixed_dictionaries(
    {"name": text}, optional={"description": text, "parameters": schema, "strict": st.booleans()}
)
tool = (
    st.fixed_dictionaries({"type": st.just("function"), "function": function})
    | function
    | st.fixed_dictionaries({"name": text, "input_schema": schema})
    | st.sampled_from(
        [
            {"type": "web_search"},
            {"type": "custom", "name": "c"},
            {"type": "local_shell"},
            {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f"}]},
        ]
    )
    | junk
)
tools = st.lists(tool, max_size=3) | junk
choice = (
    st.sampled_from(["auto", "none", "required", {"type": "any"}, {"type": "auto"}, {"type": "tool", "name": "f"}])
    | junk
)
form = (
    st.fixed_dictionaries(
        {"type": st.sampled_from(["json_object", "json_schema", "text"])},
        optional={
            "json_schema": st.fixed_dictionaries(
                {"schema": schema}, optional={"name": text, "strict": st.booleans()}
            ),
            "schema": schema,
        },
    )
    | junk
)
common_fields = {
    "model": text,
    "stream": st.booleans() | junk,
    "temperature": number | junk,
    "top_p": number,
    "top_k": number,
    "min_p": number,
    "seed": number,
    "stop": text | st.lists(text, max_size=3) | junk,
    "tools": tools,
    "tool_choice": choice,
    "frequency_penalty": number,
    "presence_penalty": number,
    "repeat_penalty": number,
    "logit_bias": junk,
    "x": junk,
    "parallel_tool_calls": st.booleans(),
    "reasoning_effort": text,
    "thinking": junk,
}
# A bound is always there, so that an answer is short.
bound = st.integers(0, 8)
# Zero is no bound here, as with Ollama.
options = st.fixed_dictionaries(
    {"num_predict": st.integers(1, 8)}, optional={"temperature": number, "top_k": number, "stop": junk}
)


def body(need, more):
    return st.fixed_dictionaries(need, optional={**common_fields, **more})


CASES = st.one_of(
    st.tuples(
        st.just("/v1/chat/completions"),
        body(
            {"messages": messages, "max_tokens": bound},
            {
                "response_format": form,
                "n": st.integers(-1, 3) | junk,
                "logprobs": st.booleans() | number,
                "top_logprobs": number,
                "stream_options": junk,
                "continue_final_message": st.booleans(),
            },
        ),
    ),
    st.tuples(
        st.just("/v1/completions"),
        body(
            {"prompt": text | st.lists(text | number, max_size=3) | junk, "max_tokens": bound},
            {"echo": st.booleans(), "logprobs": number, "n": number, "best_of": number, "suffix": text},
        ),
    ),
    st.tuples(
        st.just("/v1/responses"),
        body(
            {"input": text | st.lists(message | blocks, max_size=4) | junk, "max_output_tokens": bound},
            {
                "instructions": text | junk,
                "text": st.fixed_dictionaries({"format": form}) | junk,
                "reasoning": junk,
                "previous_response_id": text,
                "include": junk,
                "top_logprobs": number,
            },
        ),
    ),
    st.tuples(
        st.just("/v1/messages"),
        body(
            {"messages": messages, "max_tokens": bound},
            {
                "system": content,
                "stop_sequences": junk,
                "output_config": st.fixed_dictionaries({"format": form}) | junk,
            },
        ),
    ),
    st.tuples(st.just("/v1/messages/count_tokens"), body({"messages": messages}, {"system": content})),
    st.tuples(st.just("/v1/responses/input_tokens"), body({"input": text | st.lists(message, max_size=3)}, {})),
    st.tuples(
        st.just("/api/chat"),
        body({"messages": messages, "options": options}, {"format": schema, "think": junk, "keep_alive": junk}),
    ),
    st.tuples(
        st.just("/api/generate"),
        body({"prompt": content, "options": options}, {"format": schema, "system": text, "raw": st.booleans()}),
    ),
    st.tuples(st.just("/api/show"), junk),
    st.tuples(
        st.sampled_from(["/tokenize", "/detokenize", "/apply-template", "/v1/chat/completions", "/v1/messages"]), junk
    ),
)
COUNTS = {}


def one(path, value):
    data = json.dumps(value).encode("utf-8", "surrogatepass")
    at = urlsplit(URL)
    server = http.client.HTTPConnection(at.hostname, at.port, timeout=SLOWEST)
    fields = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    server.request("POST", path, data, fields)
    answer = server.getresponse()
    whole = answer.read().decode()
    server.close()
    COUNTS[answer.status] = COUNTS.get(answer.status, 0) + 1
    is_anthropic = path.startswith("/v1/messages")
    assert 200 <= answer.status < 300 or 400 <= answer.status < 500, (answer.status, whole)
    if answer.status >= 400:
        fault = json.loads(whole)
        if path.startswith("/api/"):
            assert isinstance(fault["error"], str), whole
            return
        assert isinstance(fault["error"]["message"], str) and isinstance(fault["error"]["type"], str), whole
        assert not is_anthropic or fault["type"] == "error", whole
    elif answer.getheader("content-type") == "text/event-stream":
        blocks = [b for b in whole.split("\n\n") if b and not b.startswith(":")]
        data = [line[6:] for b in blocks for line in b.split("\n") if line.startswith("data: ")]
        assert data, whole
        if path.endswith("completions"):
            assert data.pop() == "[DONE]", whole[-300:]
        values = [json.loads(line) for line in data]
        assert not any("error" in value and value["error"] for value in values), whole[-600:]
        last = values[-1].get("type")
        if is_anthropic:
            assert last == "message_stop", whole[-300:]
        elif "responses" in path:
            assert last in ("response.completed", "response.incomplete"), whole[-300:]
    elif path.startswith("/api/"):
        values = [json.loads(line) for line in whole.split("\n") if line]
        assert path == "/api/show" or values[-1]["done"], whole[-300:]
    else:
        json.loads(whole)


@check
def random_requests():
    end = time.monotonic() + SECONDS

    @settings(
        max_examples=200,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(CASES)
    def some(case):
        one(*case)

    while time.monotonic() < end:
        some()
    print(f"  {sum(COUNTS.values())} requests: {COUNTS}")


if __name__ == "__main__":
    main()
