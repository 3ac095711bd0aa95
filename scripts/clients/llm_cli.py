"""llm: a prompt, a stream, a second turn, a schema, a tool, the completion model."""

import json

import cli
from common import KEY, URL, check, main, real, scripted

AT = f'model_name: any, api_base: "{URL}/v1", api_key_name: openai'
MODELS = f"""
- {{model_id: infall, {AT}, supports_schema: true, supports_tools: true}}
- {{model_id: infall-text, {AT}, completion: true}}
"""


def llm(*words):
    (cli.HOME / "llm").mkdir(exist_ok=True)
    (cli.HOME / "llm" / "extra-openai-models.yaml").write_text(MODELS)
    out, _ = cli.run("llm", *words, OPENAI_API_KEY=KEY, LLM_USER_PATH=str(cli.HOME / "llm"), timeout=100)
    return out


@check
def prompts():
    bound = ["-o", "max_tokens", "30"]
    assert llm("-m", "infall", "hi", "--no-stream", *bound).strip()
    assert llm("-m", "infall", "hi", *bound).strip()
    assert llm("-c", "and now?", *bound).strip()
    assert llm("-m", "infall-text", "Once upon", *bound).strip()


@real
def schema():
    schema = {"type": "object", "properties": {"sunny": {"type": "boolean"}}, "required": ["sunny"]}
    out = llm("-m", "infall", "Where?", "--schema", json.dumps(schema), "-o", "max_tokens", "200")
    assert isinstance(json.loads(out)["sunny"], bool), out


@scripted
def tools():
    code = (
        "def now() -> str:\n    'Tells the time.'\n    return 'noon'\n"
        "def weather(city: str, days: float = 1, deep: dict = None) -> str:\n    'Tells it.'\n    return 'sun'\n"
    )
    assert "Hello" in llm("-m", "infall", "@tools", "--functions", code, "--no-stream")


if __name__ == "__main__":
    main()
