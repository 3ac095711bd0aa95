"""The official OpenAI and Anthropic clients: shapes, streams, figures, errors, cancelling.

With the scripted engine what the answers say is checked, too.
"""

import json
import threading
import time

import anthropic
import openai

import common
from common import KEY, SCRIPTED, URL, same

HELLO = " Hello, <wörld>!"
PARIS = {"city": "Paris <&>", "days": 1.5, "deep": {"a": [100.0]}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def check(function):
    """A check that is given the clients."""

    def one():
        function(CLIENTS)

    one.__name__ = function.__name__
    common.check(one)
    return function


def scripted(function):
    return check(function) if SCRIPTED else function


def said(text):
    return [{"role": "user", "content": text}]


def raises(kind, status, function, *args, **fields):
    try:
        function(*args, **fields)
    except kind as error:
        same(error.status_code, status)
        return error
    raise AssertionError(f"found no error, expected {kind.__name__}")


class Clients:
    def __init__(self):
        self.is_scripted = SCRIPTED
        self.url = URL
        self.openai = openai.OpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0)
        self.anthropic = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
        self.model = self.openai.models.list().data[0].id


CLIENTS = Clients()


# OpenAI: models


@check
def openai_models(c):
    models = list(c.openai.models.list())
    same(len(models), 1)
    same(models[0].object, "model")
    same(c.openai.models.retrieve(c.model).id, c.model)


# OpenAI: chat completions


def chat(c, text, **fields):
    fields = {"max_tokens": 32, "model": "any-name", "messages": said(text), **fields}
    return c.openai.chat.completions.create(**fields)


@check
def openai_chat(c):
    answer = chat(c, "hi", seed=1, temperature=0.5, top_p=0.9, stop=["\n\n\n"])
    same(answer.model, c.model)
    same(answer.object, "chat.completion")
    same(answer.choices[0].message.role, "assistant")
    assert answer.choices[0].finish_reason in ("stop", "length")
    usage = answer.usage
    same(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
    assert usage.prompt_tokens > 2 and 0 < usage.completion_tokens <= 32
    assert 0 <= usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens
    same(usage.completion_tokens_details.reasoning_tokens, 0)
    if c.is_scripted:
        same(answer.choices[0].message.content, HELLO)


@check
def openai_chat_stream(c):
    begin = int(time.time())
    text, ends, usage, ids = "", [], None, set()
    for chunk in chat(c, "hi", stream=True, stream_options={"include_usage": True}):
        ids.add(chunk.id)
        same(chunk.object, "chat.completion.chunk")
        assert chunk.created >= begin - 5
        if chunk.usage:
            usage = chunk.usage
            same(chunk.choices, [])
            continue
        text += chunk.choices[0].delta.content or ""
        ends += [r for r in [chunk.choices[0].finish_reason] if r]
    same(len(ids), 1)
    same(len(ends), 1)
    assert text and usage.completion_tokens > 0
    if c.is_scripted:
        same((text, ends), (HELLO, ["stop"]))


@check
def openai_chat_stream_helper(c):
    fields = {"max_tokens": 32, "model": c.model, "messages": said("hi")}
    with c.openai.chat.completions.stream(**fields) as stream:
        kinds = [event.type for event in stream]
        try:
            text = stream.get_final_completion().choices[0].message.content
        except openai.LengthFinishReasonError as error:  # a model may say more than it was allowed
            text = error.completion.choices[0].message.content
    assert "content.delta" in kinds and text


@check
def openai_chat_logprobs(c):
    answer = chat(c, "hi", logprobs=True, top_logprobs=3, max_tokens=4)
    tokens = answer.choices[0].logprobs.content
    assert tokens
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        assert token.bytes is not None
    same("".join(t.token for t in tokens if t.token), answer.choices[0].message.content)


@check
def openai_chat_reasoning(c):
    answer = chat(c, "hi", reasoning_effort="low", max_tokens=16)
    assert answer.choices[0].message.reasoning_content
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0
    reasoning = ""
    for chunk in chat(c, "hi", reasoning_effort="high", max_tokens=16, stream=True):
        reasoning += getattr(chunk.choices[0].delta, "reasoning_content", None) or ""
    assert reasoning
    if c.is_scripted:
        same(reasoning, "Let me think.")


@check
def openai_chat_json(c):
    fields = {"response_format": {"type": "json_object"}, "max_tokens": 256}
    answer = chat(c, "Reply with a JSON object. @json", **fields).choices[0]
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.message.content), dict)
    if c.is_scripted:
        same(json.loads(answer.message.content), {"a": 1})


TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "tells", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]


@check
def openai_chat_takes_tools_and_their_results(c):
    call = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    messages = said("When is it?") + [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    ]
    answer = chat(c, "", messages=messages, tools=TOOLS, tool_choice="auto")
    assert answer.usage.prompt_tokens > 100


@scripted
def openai_chat_tools(c):
    answer = chat(c, "@tools", tools=TOOLS)
    choice = answer.choices[0]
    same(choice.finish_reason, "tool_calls")
    same(choice.message.content, "I look.")
    calls = choice.message.tool_calls
    same([call.function.name for call in calls], ["weather", "now"])
    same(json.loads(calls[0].function.arguments), PARIS)
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sun"} for call in calls]
    messages = said("@tools") + [choice.message] + results
    same(chat(c, "", messages=messages, tools=TOOLS).choices[0].message.content, HELLO)


@scripted
def openai_chat_tools_stream(c):
    parts = {}
    for chunk in chat(c, "@tools", tools=TOOLS, stream=True):
        for call in chunk.choices[0].delta.tool_calls or []:
            part = parts.setdefault(call.index, {"name": "", "arguments": ""})
            part["name"] += call.function.name or ""
            part["arguments"] += call.function.arguments or ""
        end = chunk.choices[0].finish_reason
    same(end, "tool_calls")
    same([parts[i]["name"] for i in (0, 1)], ["weather", "now"])
    same(json.loads(parts[0]["arguments"]), PARIS)
    with c.openai.chat.completions.stream(model="m", messages=said("@tools"), tools=TOOLS) as stream:
        done = [e for e in stream if e.type == "tool_calls.function.arguments.done"]
    same([event.name for event in done], ["weather", "now"])


@scripted
def openai_chat_malformed(c):
    choice = chat(c, "@malformed", tools=TOOLS).choices[0]
    same(choice.message.tool_calls, None)
    same(choice.infall_warnings, ["calls: found no call"])


# OpenAI: completions


@check
def openai_completions(c):
    fields = {"model": "any", "prompt": "Once upon", "max_tokens": 8}
    answer = c.openai.completions.create(logprobs=2, **fields)
    same(answer.object, "text_completion")
    choice = answer.choices[0]
    assert choice.text and len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs)
    same(choice.logprobs.text_offset[0], 0)
    text = ""
    for chunk in c.openai.completions.create(stream=True, **fields):
        text += chunk.choices[0].text
    assert text


# OpenAI: responses


def respond(c, text, **fields):
    return c.openai.responses.create(**{"model": "any", "input": text, "max_output_tokens": 32, **fields})


@check
def openai_responses(c):
    answer = respond(c, "hi", instructions="Be brief.")
    assert answer.status in ("completed", "incomplete")
    same(answer.output[0].type, "message")
    assert answer.output_text and answer.usage.input_tokens > 2
    same(answer.usage.total_tokens, answer.usage.input_tokens + answer.usage.output_tokens)


@check
def openai_responses_stream(c):
    text, kinds, numbers = "", [], []
    for event in respond(c, "hi", stream=True):
        kinds.append(event.type)
        numbers.append(event.sequence_number)
        if event.type == "response.output_text.delta":
            text += event.delta
    same(numbers, list(range(len(numbers))))
    same(kinds[:2], ["response.created", "response.in_progress"])
    assert kinds[-1] in ("response.completed", "response.incomplete")
    same(event.response.output_text, text)
    with c.openai.responses.stream(model="any", input="hi", max_output_tokens=32) as stream:
        for _ in stream:
            pass
        if c.is_scripted:
            same(stream.get_final_response().output_text, HELLO)


FLAT_TOOLS = [{"type": "function", **tool["function"]} for tool in TOOLS]


@scripted
def openai_responses_tools(c):
    for effort in ("none", "low"):
        fields = {"tools": FLAT_TOOLS, "reasoning": {"effort": effort}}
        answer = respond(c, "@tools", **fields)
        calls = [item for item in answer.output if item.type == "function_call"]
        same([call.name for call in calls], ["weather", "now"])
        same(json.loads(calls[0].arguments), PARIS)
        results = [{"type": "function_call_output", "call_id": x.call_id, "output": "sun"} for x in calls]
        same(respond(c, said("@tools") + answer.output + results, **fields).output_text, HELLO)
        with c.openai.responses.stream(model="any", input="@tools", **fields) as stream:
            done = [e for e in stream if e.type == "response.function_call_arguments.done"]
            final = stream.get_final_response()
        same(len(done), 2)
        same([item.type for item in final.output][-3:], ["message", "function_call", "function_call"])


# OpenAI: errors


@check
def openai_errors(c):
    error = raises(openai.BadRequestError, 400, chat, c, "hi", temperature=3)
    same((error.type, error.param), ("invalid_request_error", "temperature"))
    assert error.request_id
    error = raises(openai.BadRequestError, 400, chat, c, "word " * 300_000)
    same(error.code, "context_length_exceeded")
    raises(openai.BadRequestError, 400, respond, c, "hi", previous_response_id="r")
    raises(openai.NotFoundError, 404, c.openai.embeddings.create, model="m", input="x")
    raises(openai.APIStatusError, 405, c.openai.models.delete, "m")


@scripted
def openai_failures(c):
    raises(openai.InternalServerError, 500, chat, c, "@fail")
    try:
        for _ in chat(c, "@late", stream=True):
            pass
        raise AssertionError("found the end, expected an error")
    except openai.APIError as error:
        assert "read failed" in str(error)


# Anthropic


def message(c, text, **fields):
    return c.anthropic.messages.create(**{"model": "any", "messages": said(text), "max_tokens": 32, **fields})


@check
def anthropic_models(c):
    models = list(c.anthropic.models.list())
    same([model.id for model in models], [c.model])
    same(c.anthropic.models.retrieve("any").display_name, c.model)


@check
def anthropic_message(c):
    chosen = {"temperature": 0.5, "top_k": 5}  # fields that newer clients do not know
    answer = message(c, "hi", system="Be brief.", stop_sequences=["\n\n\n"], extra_body=chosen)
    same((answer.model, answer.role, answer.type), (c.model, "assistant", "message"))
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert answer.content[0].text
    assert answer.usage.input_tokens >= 0 and answer.usage.output_tokens > 0
    counted = c.anthropic.messages.count_tokens(model="any", system="Be brief.", messages=said("hi"))
    same(counted.input_tokens, answer.usage.input_tokens + answer.usage.cache_read_input_tokens)


@check
def anthropic_stream(c):
    fields = {"model": "any", "max_tokens": 32, "messages": said("hi")}
    with c.anthropic.messages.stream(**fields) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    same(final.content[0].text, text)
    assert final.usage.output_tokens > 0 and final.stop_reason
    kinds = [event.type for event in message(c, "hi", stream=True)]
    same((kinds[0], kinds[-2:]), ("message_start", ["message_delta", "message_stop"]))


@check
def anthropic_thinking(c):
    fields = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2048}
    if not c.is_scripted:
        fields["max_tokens"] = 16
    answer = message(c, "hi", **fields)
    same(answer.content[0].type, "thinking")
    assert answer.content[0].thinking and answer.content[0].signature
    with c.anthropic.messages.stream(model="any", messages=said("hi"), **fields) as stream:
        deltas = [event.type for event in stream]
        final = stream.get_final_message()
    assert "thinking" in deltas and "signature" in deltas
    same((final.content[0].type, final.content[0].signature), ("thinking", answer.content[0].signature))
    if c.is_scripted:
        same([block.type for block in final.content], ["thinking", "text"])


CUSTOM_TOOLS = [
    {"name": "weather", "description": "tells", "input_schema": SCHEMA},
    {"name": "now", "input_schema": {"type": "object", "properties": {}}},
]


@scripted
def anthropic_tools(c):
    fields = {"tools": CUSTOM_TOOLS, "tool_choice": {"type": "auto"}}
    whole = message(c, "@tools", **fields)
    with c.anthropic.messages.stream(model="any", max_tokens=9, messages=said("@tools"), **fields) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_message()
    for answer in (whole, streamed):
        same(answer.stop_reason, "tool_use")
        same([block.type for block in answer.content], ["text", "tool_use", "tool_use"])
        same((answer.content[1].name, answer.content[1].input), ("weather", PARIS))
        same((answer.content[2].name, answer.content[2].input), ("now", {}))
    uses = [block for block in whole.content if block.type == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": use.id, "content": "sun"} for use in uses]
    turns = [{"role": "assistant", "content": whole.content}, {"role": "user", "content": results}]
    same(message(c, "", messages=said("@tools") + turns, **fields).content[0].text, HELLO)


@scripted
def anthropic_ends(c):
    same(message(c, "@length").stop_reason, "max_tokens")
    answer = message(c, "@stop", stop_sequences=["END"])
    same((answer.stop_reason, answer.stop_sequence), ("stop_sequence", "END"))


@scripted
def anthropic_pings(c):
    fields = {"model": "any", "max_tokens": 9, "messages": said("@read"), "stream": True}
    with c.anthropic.messages.with_streaming_response.create(**fields) as response:
        lines = list(response.iter_lines())
    assert sum(line == "event: ping" for line in lines) >= 2
    assert any(line.startswith(": prefill ") for line in lines)
    with c.anthropic.messages.stream(model="any", max_tokens=9, messages=said("@read")) as stream:
        same("".join(stream.text_stream), HELLO)


@check
def anthropic_errors(c):
    error = raises(anthropic.BadRequestError, 400, message, c, "hi", extra_body={"temperature": 3})
    same(error.body["error"]["type"], "invalid_request_error")
    assert error.request_id
    error = raises(anthropic.BadRequestError, 400, message, c, "word " * 300_000)
    assert "prompt is too long: " in str(error)


@scripted
def anthropic_failures(c):
    raises(anthropic.InternalServerError, 500, message, c, "@fail")
    try:
        for _ in message(c, "@late", stream=True):
            pass
        raise AssertionError("found the end, expected an error")
    except anthropic.APIStatusError as error:
        same(error.body["error"]["type"], "api_error")


# Both


@check
def wrong_keys(c):
    if c.openai.api_key == "none":
        raise common.Skip("the server has no key")
    wrong = openai.OpenAI(base_url=c.url + "/v1", api_key="wrong", max_retries=0)
    error = raises(openai.AuthenticationError, 401, wrong.models.list)
    same(error.code, "invalid_api_key")
    wrong = anthropic.Anthropic(base_url=c.url, api_key="wrong", max_retries=0)
    raises(anthropic.AuthenticationError, 401, wrong.models.list)
    fields = {"model": "any", "max_tokens": 9, "messages": said("hi")}
    raises(anthropic.AuthenticationError, 401, wrong.messages.create, **fields)
    raises(anthropic.AuthenticationError, 401, wrong.messages.count_tokens, model="any", messages=said("hi"))


@check
def streams_can_be_cancelled(c):
    # A server that went on would answer only after all of it; the next answer comes soon.
    text = "@endless" if c.is_scripted else "Count to ten thousand."
    stream = chat(c, text, stream=True, max_tokens=2000)
    for number, _ in enumerate(stream):
        if number == 3:
            break
    stream.close()
    with c.anthropic.messages.stream(model="any", max_tokens=2000, messages=said(text)) as stream:
        for number, _ in enumerate(stream):
            if number == 3:
                break
    begin = time.monotonic()
    chat(c, "hi", max_tokens=1)
    took = time.monotonic() - begin
    assert took < (3 if c.is_scripted else 30), f"the next answer took {took:.1f} s"


@scripted
def a_full_line_is_told(c):
    # One is answered, two wait, the fourth and fifth are told to come again.
    begun = []
    for _ in range(3):
        begun.append(chat(c, "@slow", stream=True))
        time.sleep(0.2)
    error = raises(openai.RateLimitError, 429, chat, c, "hi")
    same(error.response.headers["retry-after"], "2")
    raises(anthropic.RateLimitError, 429, message, c, "hi")
    # A client that comes again on its own is served once the others leave.
    leave = threading.Timer(1, lambda: [stream.close() for stream in begun])
    leave.start()
    patient = c.openai.with_options(max_retries=5)
    answer = patient.chat.completions.create(model="m", messages=said("hi"))
    same(answer.choices[0].message.content, HELLO)
    leave.join()


if __name__ == "__main__":
    common.main()
