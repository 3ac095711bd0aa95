"""aider, headless: a question, streamed and not, which ends well whatever the model says."""

import cli
from common import KEY, URL, check, main


def aider(*words):
    (cli.WORK / "a.txt").write_text("one\n")
    flags = [
        "--model",
        "openai/infall",
        "--no-git",
        "--yes-always",
        "--no-check-update",
        "--no-analytics",
        "--no-show-model-warnings",
        "--no-pretty",
        "--map-tokens",
        "0",
        "--edit-format",
        "ask",
        "--message",
        "What is it?",
    ]
    out, err = cli.run("aider", *flags, *words, "a.txt", timeout=200, OPENAI_API_BASE=URL + "/v1", OPENAI_API_KEY=KEY)
    assert "Tokens:" in out and "received" in out, (out + err)[-600:]


@check
def question():
    aider("--no-stream")


@check
def streamed():
    aider("--stream")


if __name__ == "__main__":
    main()
