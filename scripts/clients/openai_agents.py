"""openai-agents over chat and Responses: text, a forced tool, a structured answer."""

from typing import Literal

from agents import (
    Agent,
    AgentOutputSchema,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

from common import KEY, URL, check, main, real, same, scripted

set_tracing_disabled(True)


def models():
    # A client belongs to the loop it was made in, so each run has its own.
    client = AsyncOpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0)
    return [OpenAIChatCompletionsModel("any", client), OpenAIResponsesModel("any", client)]


class Place(BaseModel):
    city: Literal["Oslo", "Paris"]
    sunny: bool


SEEN = []


@function_tool(strict_mode=False)
def weather(city: str, days: float = 1, deep: dict | None = None) -> str:
    """Tells the weather."""
    SEEN.append("weather")
    return "sun"


@function_tool
def now() -> str:
    """Tells the time."""
    SEEN.append("now")
    return "noon"


def run(model, text, choice=None, **fields):
    settings = ModelSettings(max_tokens=800, tool_choice=choice)
    return Runner.run_sync(Agent("one", model=model, model_settings=settings, **fields), text, max_turns=4)


@check
def text():
    for model in models():
        assert run(model, "hi").final_output


@real
def required():
    for model in models():
        SEEN.clear()
        run(model, "When?", "required", tools=[now], tool_use_behavior="stop_on_first_tool")
        assert SEEN, type(model)


@real
def output_type():
    for model in models():
        answer = run(model, "Where?", output_type=AgentOutputSchema(Place))
        assert isinstance(answer.final_output, Place)


@scripted
def tools():
    for model in models():
        SEEN.clear()
        answer = run(model, "@tools", tools=[weather, now])
        same((sorted(SEEN), answer.final_output.strip()), (["now", "weather"], "Hello, <wörld>!"))


if __name__ == "__main__":
    main()
