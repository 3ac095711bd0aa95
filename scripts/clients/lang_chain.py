"""langchain over the three APIs: invoke, stream, tools, structured answers, an agent."""

from typing import Literal

from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

from common import KEY, URL, check, main, real, same, scripted

OPENAI = {"model": "any", "base_url": URL + "/v1", "api_key": KEY, "max_retries": 0, "max_tokens": 800}
MODELS = [
    ChatOpenAI(**OPENAI),
    ChatOpenAI(**OPENAI, use_responses_api=True),
    ChatAnthropic(model="any", base_url=URL, api_key=KEY, max_retries=0, max_tokens=800),
]


class Place(BaseModel):
    """Where."""

    city: Literal["Oslo", "Paris"]
    sunny: bool


@tool
def weather(city: str, days: float = 1, deep: dict | None = None) -> str:
    """Tells the weather."""
    return "sun"


@tool
def now() -> str:
    """Tells the time."""
    return "noon"


@check
def invoke_stream_batch():
    for model in MODELS:
        assert model.invoke("hi").usage_metadata["output_tokens"] > 0
        assert "".join(str(chunk.content) for chunk in model.stream("hi"))
        same(len(model.batch(["hi", "ho"])), 2)


@check
def completions_of_two_prompts():
    model = OpenAI(**{**OPENAI, "max_tokens": 4})
    same(len(model.generate(["one", "two"]).generations), 2)


@real
def structured_output():
    for model in MODELS[:2]:
        for method in ("function_calling", "json_schema"):
            answer = model.with_structured_output(Place, method=method).invoke("Where?")
            assert isinstance(answer, Place), (method, answer)
    for method in ("function_calling", "json_schema"):
        answer = MODELS[2].with_structured_output(Place, method=method).invoke("Where?")
        assert isinstance(answer, Place), (method, answer)


@real
def tool_choice():
    for model in MODELS:
        for choice in ("any", "now"):
            answer = model.bind_tools([now, Place], tool_choice=choice).invoke("Where?")
            assert answer.tool_calls, (type(model), choice, answer)
            if choice == "now":
                same({call["name"] for call in answer.tool_calls}, {"now"})


@scripted
def agent():
    for model in MODELS:
        said = create_agent(model, [weather, now]).invoke({"messages": [{"role": "user", "content": "@tools"}]})
        same([m.type for m in said["messages"]], ["human", "ai", "tool", "tool", "ai"])


if __name__ == "__main__":
    main()
