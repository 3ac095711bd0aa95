"""instructor: its default mode (a forced call) and the modes of JSON, over chat, Responses and Messages."""

from typing import Literal

import anthropic
import instructor
import openai
from instructor import Mode
from pydantic import BaseModel

from common import KEY, URL, main, real


class Place(BaseModel):
    city: Literal["Oslo", "Paris"]
    sunny: bool


SAID = [{"role": "user", "content": "Where?"}]


def ask(client, **fields):
    answer = client.create(model="any", messages=SAID, response_model=Place, max_retries=1, **fields)
    assert isinstance(answer, Place)


def of_openai(mode):
    client = openai.OpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0)
    bound = "max_output_tokens" if "RESPONSES" in mode.name else "max_tokens"
    ask(instructor.from_openai(client, mode=mode), **{bound: 800})


def of_anthropic(mode):
    client = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
    ask(instructor.from_anthropic(client, mode=mode), max_tokens=800)


def add(name, run, mode):
    mode = getattr(Mode, mode, None)
    if mode is None:
        return

    def one():
        run(mode)

    one.__name__ = name
    real(one)


for name in ("TOOLS", "TOOLS_STRICT", "JSON_SCHEMA", "RESPONSES_TOOLS"):
    add(f"openai_{name.lower()}", of_openai, name)
for name in ("ANTHROPIC_TOOLS", "ANTHROPIC_REASONING_TOOLS"):
    add(name.lower(), of_anthropic, name)


if __name__ == "__main__":
    main()
