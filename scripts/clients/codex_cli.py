"""Codex as installed from npm, headless: a question, a second turn, a loop with a tool."""

import cli
from common import main, real
from relay import Relay


def codex(relay, *words):
    folder = cli.HOME / ".codex"
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text(f"""
model = "infall"
model_provider = "infall"

[model_providers.infall]
name = "infall"
base_url = "{relay.url}/v1"
wire_api = "responses"
""")
    out, _ = cli.run("codex", "exec", *words[:-1], "--skip-git-repo-check", words[-1], timeout=500)
    assert out.strip(), "no text"
    return out


def all_answered(relay):
    relay.show()
    assert all(status == 200 for path, status in relay.statuses if "/responses" in path), relay.statuses


@real
def question_and_second_turn():
    with Relay() as relay:
        codex(relay, "say hi")
        codex(relay, "resume", "--last", "and now?")
        all_answered(relay)


@real
def tool_loop():
    with Relay(force=("get_goal", {"type": "function", "name": "get_goal"}), times=4) as relay:
        codex(relay, "What is the goal?")
        all_answered(relay)
        kinds = [item["type"] for item in relay.bodies[-1]["input"] if "type" in item]
        assert "function_call" in kinds and "function_call_output" in kinds, kinds


if __name__ == "__main__":
    main()
