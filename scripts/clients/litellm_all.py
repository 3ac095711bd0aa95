"""litellm: its providers, and its proxy in front of infall for chat, Messages and Responses."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no look-up in the network
import litellm  # noqa: E402

import cli
from common import KEY, URL, check, main, real

SAID = [{"role": "user", "content": "hi"}]
PLACE = {
    "type": "object",
    "properties": {"sunny": {"type": "boolean"}},
    "required": ["sunny"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "place", "parameters": PLACE}}
PROVIDERS = [
    {"model": "openai/any", "api_base": URL + "/v1"},
    {"model": "hosted_vllm/any", "api_base": URL + "/v1"},
    {"model": "lm_studio/any", "api_base": URL + "/v1"},
    {"model": "deepseek/any", "api_base": URL + "/v1"},
    {"model": "anthropic/any", "api_base": URL},
]
PROXY_KEY = "sk-of-the-check"
litellm.num_retries = 0


def each(function):
    for provider in PROVIDERS:
        try:
            function({**provider, "api_key": KEY, "messages": SAID, "max_tokens": 400})
        except Exception as error:
            raise AssertionError(f"{provider['model']}: {type(error).__name__}: {error}") from error


@check
def text_and_streams():
    def one(fields):
        fields["max_tokens"] = 16
        assert litellm.completion(**fields).usage.completion_tokens > 0
        assert list(litellm.completion(stream=True, **fields))

    each(one)


@real
def forced_call():
    def one(fields):
        answer = litellm.completion(tools=[TOOL], tool_choice="required", **fields).choices[0]
        assert isinstance(json.loads(answer.message.tool_calls[0].function.arguments)["sunny"], bool), answer

    each(one)


@real
def schema():
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE, "strict": True}}
    for provider in PROVIDERS[:2]:
        fields = {**provider, "api_key": KEY, "messages": SAID, "max_tokens": 400, "response_format": form}
        assert isinstance(json.loads(litellm.completion(**fields).choices[0].message.content)["sunny"], bool)


@check
def overflow():
    for provider in (PROVIDERS[0], PROVIDERS[-1]):
        long = [{"role": "user", "content": "word " * 300_000}]
        try:
            litellm.completion(**provider, api_key=KEY, messages=long, max_tokens=4)
        except litellm.ContextWindowExceededError:
            continue
        raise AssertionError(f"{provider['model']}: found an answer")


@check
def proxy():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    at = cli.WORK / "config.yaml"
    at.write_text(
        json.dumps(
            {
                "model_list": [
                    {
                        "model_name": "infall",
                        "litellm_params": {"model": "openai/any", "api_base": URL + "/v1", "api_key": KEY},
                    },
                    {
                        "model_name": "claude",
                        "litellm_params": {"model": "anthropic/any", "api_base": URL, "api_key": KEY},
                    },
                ]
            }
        )
    )
    program = Path(sys.executable).parent / "litellm"
    words = [str(program), "--config", str(at), "--port", str(port), "--host", "127.0.0.1"]
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(cli.HOME),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": PROXY_KEY,
    }
    proxy = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(path, body):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}",
            json.dumps(body).encode() if body else None,
            {"content-type": "application/json", "authorization": f"Bearer {PROXY_KEY}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()

    try:
        for _ in range(120):
            try:
                ask("/health/liveliness", None)
                break
            except OSError:
                assert proxy.poll() is None, "the proxy ended"
                time.sleep(1)
        for model in ("infall", "claude"):
            for stream in (False, True):
                body = {"model": model, "max_tokens": 16, "stream": stream}
                assert ask("/v1/chat/completions", {**body, "messages": SAID})
                assert ask("/v1/messages", {**body, "messages": SAID})
                del body["max_tokens"]
                assert ask("/v1/responses", {**body, "input": "hi", "max_output_tokens": 16})
            counted = json.loads(ask("/v1/messages/count_tokens", {"model": model, "messages": SAID}))
            assert counted["input_tokens"] > 0, counted
    finally:
        proxy.terminate()
        proxy.wait(20)


if __name__ == "__main__":
    main()
