"""smolagents: a plain question, and the agent of calls, which forces one in each step."""

from smolagents import OpenAIServerModel, ToolCallingAgent, tool

from common import KEY, URL, check, main, real

MODEL = OpenAIServerModel(model_id="any", api_base=URL + "/v1", api_key=KEY, max_tokens=800)


@tool
def now() -> str:
    """Tells the time."""
    return "noon"


@check
def plain():
    answer = MODEL([{"role": "user", "content": "hi"}], max_tokens=16)
    assert answer.content


@real
def tool_calling_agent():
    agent = ToolCallingAgent(tools=[now], model=MODEL, max_steps=2, verbosity_level=0)
    agent.run("What time is it?")
    called = [call for step in agent.memory.steps for call in getattr(step, "tool_calls", None) or []]
    assert called, "found no call"
    assert all(call.name in ("now", "final_answer") for call in called), called


if __name__ == "__main__":
    main()
