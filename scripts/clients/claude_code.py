"""Claude Code as installed from npm, headless: a question, a second turn, a loop with a tool."""

import json

import cli
from common import KEY, main, real
from relay import Relay


def claude(relay, *words):
    settings = {
        "ANTHROPIC_BASE_URL": relay.url,
        "ANTHROPIC_API_KEY": KEY,
        "ANTHROPIC_MODEL": "infall",
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "4000",
        "MAX_THINKING_TOKENS": "0",  # the small model would never end its thoughts
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    out, _ = cli.run("claude", "-p", *words, "--output-format", "json", timeout=500, **settings)
    answer = json.loads(out)
    assert not answer["is_error"], answer["result"]
    return answer


@real
def question_and_second_turn():
    with Relay() as relay:
        first = claude(relay, "hi")
        second = claude(relay, "and now?", "--resume", first["session_id"])
        assert second["session_id"], second
        relay.show()
        assert all(status == 200 for path, status in relay.statuses if "/v1/messages" in path), relay.statuses


@real
def tool_loop():
    choice = {"type": "tool", "name": "TaskList", "disable_parallel_tool_use": True}
    with Relay(force=("TaskList", choice), times=4) as relay:
        claude(relay, "Which tasks are there?")
        relay.show()
        kinds = [
            block["type"]
            for message in relay.bodies[-1]["messages"]
            if isinstance(message["content"], list)
            for block in message["content"]
        ]
        assert "tool_use" in kinds and "tool_result" in kinds, kinds


if __name__ == "__main__":
    main()
