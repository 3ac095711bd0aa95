"""opencode, headless: a question, and a loop with a tool."""

import json

import cli
from common import KEY, main, real
from relay import Relay


def opencode(relay, text):
    settings = {
        "provider": {
            "infall": {
                "npm": "@ai-sdk/openai-compatible",
                "options": {"baseURL": relay.url + "/v1", "apiKey": KEY},
                "models": {"infall": {"limit": {"context": 100000, "output": 2000}}},
            }
        },
        "autoupdate": False,
        "share": "disabled",
    }
    (cli.WORK / "opencode.json").write_text(json.dumps(settings))
    out, err = cli.run("opencode", "run", "-m", "infall/infall", text, timeout=500)
    relay.show()
    assert relay.turns, (out + err)[-600:]
    assert all(status == 200 for path, status in relay.statuses if "/chat" in path), relay.statuses


@real
def question():
    with Relay() as relay:
        opencode(relay, "hi")


@real
def tool_loop():
    force = ("read", {"type": "function", "function": {"name": "read"}})
    with Relay(force=force) as relay:
        opencode(relay, "Read the file.")
        roles = [message["role"] for message in relay.bodies[-1]["messages"]]
        assert "tool" in roles, roles


if __name__ == "__main__":
    main()
