"""pydantic-ai over the three APIs: structured answers (its default forces a call), tools, streams."""

import asyncio
from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from common import KEY, URL, check, main, real, same, scripted

OPENAI = OpenAIProvider(base_url=URL + "/v1", api_key=KEY)
MODELS = [
    OpenAIChatModel("any", provider=OPENAI),
    OpenAIResponsesModel("any", provider=OPENAI),
    AnthropicModel("any", provider=AnthropicProvider(base_url=URL, api_key=KEY)),
]
SETTINGS = {"max_tokens": 800, "timeout": 60}


class Place(BaseModel):
    city: Literal["Oslo", "Paris"]
    sunny: bool


def each(make, then):
    for model in MODELS:
        try:
            then(asyncio.run(make(model)))
        except Exception as error:
            raise AssertionError(f"{type(model).__name__}: {type(error).__name__}: {error}") from error


@check
def text():
    each(lambda m: Agent(m, model_settings=SETTINGS).run("hi"), lambda r: None if r.output else 1 / 0)


@check
def stream():
    async def make(model):
        async with Agent(model, model_settings=SETTINGS).run_stream("hi") as answer:
            return await answer.get_output()

    def then(text):
        assert text

    each(make, then)


def is_place(answer):
    assert isinstance(answer.output, Place), answer.output


@real
def output_type_default():
    each(lambda m: Agent(m, output_type=Place, model_settings=SETTINGS).run("Where?"), is_place)


@real
def output_type_tool():
    each(lambda m: Agent(m, output_type=ToolOutput(Place), model_settings=SETTINGS).run("Where?"), is_place)


@real
def output_type_native():
    models = MODELS[:2]  # the third takes native output for names of Claude models only
    for model in models:
        is_place(asyncio.run(Agent(model, output_type=NativeOutput(Place), model_settings=SETTINGS).run("Where?")))


@scripted
def tools():
    def make(model):
        agent, seen = Agent(model, model_settings=SETTINGS), []

        @agent.tool_plain
        def weather(city: str, days: float = 1, deep: dict | None = None) -> str:
            seen.append("weather")
            return "sun"

        @agent.tool_plain
        def now() -> str:
            seen.append("now")
            return "noon"

        async def run():
            answer = await agent.run("@tools")
            same(sorted(seen), ["now", "weather"])
            return answer.output

        return run()

    each(make, lambda text: same(text.strip(), "Hello, <wörld>!"))


if __name__ == "__main__":
    main()
