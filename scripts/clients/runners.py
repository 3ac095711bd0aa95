"""The tool runners and structured answers of the official Python SDKs."""

from typing import Annotated, Literal

import anthropic
import openai
from anthropic import beta_tool
from pydantic import BaseModel, ConfigDict, Field

from common import KEY, SCRIPTED, URL, Cut, check, main, real, same, scripted

A = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
O = openai.OpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0)


class Place(BaseModel):
    model_config = ConfigDict(extra="forbid")
    city: Literal["Oslo", "Paris"]  # no text, no number: Anthropic's SDK takes their bounds out of a schema
    sunny: bool
    kind: Literal["rain", "sun"]


class Deep(BaseModel):
    a: list[float] = Field(max_length=2)


SEEN = []


@beta_tool
def weather(city: Annotated[str, Field(max_length=20)], days: float = 1, deep: Deep | None = None) -> str:
    """Tells the weather.

    Args:
        city: where
        days: for how long
        deep: more
    """
    SEEN.append(("weather", city))
    return "sun"


@beta_tool
def now() -> str:
    """Tells the time."""
    SEEN.append(("now", None))
    return "noon"


def run_tools(**fields):
    SEEN.clear()
    said = [{"role": "user", "content": "Weather? @tools"}]
    runner = A.beta.messages.tool_runner(model="any", tools=[weather, now], messages=said, max_tokens=600, **fields)
    return list(runner)


@scripted
def anthropic_tool_runner():
    turns = run_tools(max_iterations=4)
    same([turn.stop_reason for turn in turns], ["tool_use", "end_turn"])
    same(SEEN, [("weather", "Paris <&>"), ("now", None)])


@scripted
def anthropic_tool_runner_stream():
    turns = [turn.get_final_message() for turn in run_tools(max_iterations=4, stream=True)]
    same([turn.stop_reason for turn in turns], ["tool_use", "end_turn"])


@real
def anthropic_tool_runner_forced():
    # The runner asks with `thread` first; the model must call in each turn, so the history grows.
    turns = run_tools(max_iterations=3, tool_choice={"type": "any"})
    if any(turn.stop_reason == "max_tokens" for turn in turns):
        raise Cut("a call was longer than max_tokens")
    same(len(turns), 3)
    assert len(SEEN) >= 2, SEEN
    sizes = [turn.usage.input_tokens + (turn.usage.cache_read_input_tokens or 0) for turn in turns]
    assert sizes == sorted(sizes) and sizes[0] > 100 and sizes[2] > sizes[0], sizes


@real
def anthropic_parse():
    said = [{"role": "user", "content": "Where?"}]
    answer = A.messages.parse(model="any", max_tokens=500, messages=said, output_format=Place)
    if answer.stop_reason == "max_tokens":
        raise Cut("max_tokens")
    assert isinstance(answer.parsed_output, Place)


@real
def anthropic_tool_named():
    tools = [weather.to_dict(), now.to_dict()]
    for name in ("weather", "now"):
        said = [{"role": "user", "content": "Which?"}]
        choice = {"type": "tool", "name": name, "disable_parallel_tool_use": True}
        answer = A.messages.create(model="any", max_tokens=800, messages=said, tools=tools, tool_choice=choice)
        if answer.stop_reason == "max_tokens":
            raise Cut(name)
        same([b.name for b in answer.content if b.type == "tool_use"], [name])
        same(answer.stop_reason, "tool_use")


@real
def openai_parse():
    try:
        answer = O.chat.completions.parse(
            model="any", max_tokens=500, messages=[{"role": "user", "content": "Where?"}], response_format=Place
        )
        assert isinstance(answer.choices[0].message.parsed, Place)
        answer = O.responses.parse(model="any", input="Where?", text_format=Place, max_output_tokens=500)
        assert isinstance(answer.output_parsed, Place)
    except openai.LengthFinishReasonError as error:
        raise Cut("max_tokens") from error


@real
def openai_tools_strict():
    tool = openai.pydantic_function_tool(Place, name="place")
    for choice in ("required", {"type": "function", "function": {"name": "place"}}):
        answer = O.chat.completions.parse(
            model="any",
            max_tokens=800,
            messages=[{"role": "user", "content": "Where?"}],
            tools=[tool],
            tool_choice=choice,
            parallel_tool_calls=False,
        ).choices[0]
        if answer.finish_reason == "length":
            raise Cut("max_tokens")
        same(len(answer.message.tool_calls), 1)
        assert isinstance(answer.message.tool_calls[0].function.parsed_arguments, Place)


@scripted
def openai_tools_round_trip():
    tools = [{"type": "function", "name": t.name, "parameters": t.input_schema} for t in (weather, now)]
    first = O.responses.create(model="any", input="@tools", tools=tools)
    calls = [item for item in first.output if item.type == "function_call"]
    same([call.name for call in calls], ["weather", "now"])
    results = [{"type": "function_call_output", "call_id": c.call_id, "output": "sun"} for c in calls]
    said = [{"role": "user", "content": "@tools"}]
    for output in (first.output, [item.model_dump() for item in first.output]):
        second = O.responses.create(model="any", input=[*said, *output, *results], tools=tools)
        assert "Hello" in second.output_text


if __name__ == "__main__":
    main()
