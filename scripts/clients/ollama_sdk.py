"""The ollama client of Python."""

import json

import ollama

from common import KEY, SCHEMA, URL, check, main, real, same, scripted

C = ollama.Client(host=URL, headers={"authorization": f"Bearer {KEY}"})
SAID = [{"role": "user", "content": "hi"}]
SHORT = {"num_predict": 16}


@check
def lists():
    models = C.list().models
    same(len(models), 1)
    shown = C.show(models[0].model)
    assert shown.details and shown.modelinfo, shown
    C.ps()


@check
def chat():
    answer = C.chat("any", SAID, options=SHORT)
    assert answer.done and answer.message.content and answer.eval_count > 0 and answer.prompt_eval_count > 0, answer
    parts = list(C.chat("any", SAID, stream=True, options=SHORT))
    assert "".join(part.message.content or "" for part in parts)
    same([part.done for part in parts], [False] * (len(parts) - 1) + [True])


@check
def thinking():
    answer = C.chat("any", SAID, think=True, options=SHORT)
    assert answer.message.thinking, answer


@check
def generate():
    answer = C.generate("any", "hi", options=SHORT)
    assert answer.done and answer.response, answer
    assert list(C.generate("any", "hi", stream=True, options=SHORT))[-1].done


@real
def schema():
    answer = C.chat("any", SAID, format=SCHEMA, options={"num_predict": 400})
    assert isinstance(json.loads(answer.message.content)["days"], int), answer


def weather(city: str, days: float = 1, deep: dict = None) -> str:
    """Tells the weather.

    Args:
        city: where
        days: for how long
        deep: more
    """
    return "sun"


def now() -> str:
    """Tells the time."""
    return "noon"


@scripted
def tools():
    said = [{"role": "user", "content": "@tools"}]
    first = C.chat("any", said, tools=[weather, now])
    same([call.function.name for call in first.message.tool_calls], ["weather", "now"])
    same(first.message.tool_calls[0].function.arguments["city"], "Paris <&>")
    said += [first.message] + [{"role": "tool", "tool_name": name, "content": "sun"} for name in ("weather", "now")]
    assert "Hello" in C.chat("any", said, tools=[weather, now]).message.content


@check
def errors():
    try:
        C.chat("any", [{"role": "user", "content": "word " * 300_000}])
    except ollama.ResponseError as error:
        same(error.status_code, 400)
        return
    raise AssertionError("found an answer, expected an error")


if __name__ == "__main__":
    main()
