#!/usr/bin/env python3
"""Golden renderings of conversations from an independent implementation: llama.cpp's Jinja template of the release,
and the Python package `tokenizers`.

    scripts/golden_chat.py deepseek-ai-DeepSeek-V4.jinja tests/golden/dsv4-vocab.gguf > tests/golden/chat.jsonl
    scripts/golden_chat.py deepseek-ai-DeepSeek-V4.jinja tests/golden/dsv4-vocab.gguf tools > tests/golden/tools.jsonl

One line a conversation: its messages as [role, text] or ["assistant", reasoning, answer], the thinking mode, and the
ids up to the opener of the next answer. No text spells out a special token, so that whole renderings can be encoded.
A system message behind the first turn is given to the template as one of the user's: infall leaves it where it stands, as
the release's encoder does, while this template would move it to the front.
The second file has tools: a message is ["assistant", reasoning, answer, [[id, name, arguments] ...]] or
["tool", id, result] too; functions, arguments and the schema of the answer are JSON texts.
"""
import json
import sys

import jinja2
from golden_tokenizer import load

SYSTEM, USER = ["system", "Be brief."], ["user", "Hello, who are you?"]
ANSWER = ["assistant", "They greet me.\nI greet back.", "Hi! I am a model.\n"]
CONVERSATIONS = [
    [USER],
    [SYSTEM, USER],
    [["system", ""], USER],
    [["system", "\n starts with a line end"], USER],
    [SYSTEM, ["system", "Answer in Italian."], USER],
    [USER, SYSTEM],
    [USER, ANSWER, ["user", "2 + 2 = ?"]],
    [SYSTEM, USER, ANSWER, ["user", "  2 + 2 = ?\n"], ["assistant", "", "4"], ["user", "再见"]],
    [USER, ["user", "\nAnother thing."], ["user", ""], ANSWER, ["user", "a"], ["user", "b"]],
    [USER, ANSWER],
    [USER, ANSWER, ["assistant", "", "More."]],
    [ANSWER, USER],
    [USER, ["system", "Late."], ["user", "Second."], ["assistant", "x", ""]],
    [["user", ""]],
]

WEATHER = """{"name": "get_weather", "description": "Tells the \\"weather\\" of a place.\\n<b>Now</b> & here, it's 早い.",
 "parameters": {"type": "object", "properties": {"place": {"type": "string"}, "days": {"type": "integer", "maximum": 1.5}},
 "required": ["place"]}, "strict": true}"""
CLOCK = """{"name":"clock","parameters":{}}"""
CALLS = [
    ["c1", "get_weather", """{"place": "Café \\"Zürich\\"\\n<3 & more", "days": 3, "z": [1, 2.5, {"a": null}], "a": "", "u": "\\u00e9"}"""],
    ["c2", "clock", "{}"],
]
ASK = ["user", "What is the weather?"]
CALLING = ["assistant", "A tool knows.", "I ask.", CALLS]
TOOL_CONVERSATIONS = [
    # messages, functions, schema of the answer
    [[ASK], [WEATHER], None],
    [[SYSTEM, ASK], [WEATHER, CLOCK], None],
    [[SYSTEM, ASK], [], """{"type": "object"}"""],
    [[ASK], [CLOCK], """{"type": "object"}"""],
    [[ASK], [], """{"type": "object"}"""],
    [[ASK, CALLING, ["tool", "c1", "sun\n{}"], ["tool", "c2", ""]], [WEATHER, CLOCK], None],
    [[ASK, ["assistant", "", "", CALLS[1:]], ["tool", "c2", "12:00"], ["user", "Thanks."]], [CLOCK], None],
    [[ASK, CALLING, ["tool", "c1", "a"], ["tool", "c2", "b"], ["assistant", "So.", "Sun."], USER], [], None],
    [[ASK, ["assistant", "Why not.", "Hi."], USER, ["assistant", "Hm.", "Ho."]], [CLOCK], None],
    [[ASK, ["assistant", "x", "y\n", CALLS], ["tool", "c1", "1"], ["tool", "c2", "2"], ["assistant", "z", "", CALLS[1:]], ["tool", "c2", "3"]], [WEATHER], None],
]


def dictionary(message):
    role, *texts = message
    if role == "tool":
        return {"role": role, "tool_call_id": texts[0], "content": texts[1]}
    if role == "assistant":
        calls = [{"id": i, "function": {"name": n, "arguments": a}} for i, n, a in (texts[2:] or [[]])[0]]
        return {"role": role, "reasoning_content": texts[0], "content": texts[1], "tool_calls": calls}
    return {"role": role, "content": texts[0]}


def dictionaries(messages):
    n_leading = next((i for i, m in enumerate(messages) if m[0] != "system"), len(messages))
    late = [["user", *m[1:]] if m[0] == "system" else m for m in messages[n_leading:]]
    return [dictionary(m) for m in messages[:n_leading] + late]


def tools(template, tokenizer):
    for messages, functions, schema in TOOL_CONVERSATIONS:
        for mode in ["off", "on"]:
            text = template.render(
                messages=dictionaries(messages),
                tools=[{"type": "function", "function": json.loads(f)} for f in functions],
                thinking=mode != "off",
                add_generation_prompt=True,
                bos_token="<｜begin▁of▁sentence｜>",
                **({"response_format": json.loads(schema)} if schema else {}),
            )
            case = {"messages": messages, "tools": functions, "schema": schema, "thinking": mode, "ids": tokenizer.encode(text).ids}
            print(json.dumps(case, ensure_ascii=False, separators=(",", ":")))


def main():
    environment = jinja2.Environment()
    environment.filters["from_json"] = json.loads
    # As the release writes JSON; Jinja's own filter escapes for HTML and sorts.
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    with open(sys.argv[1]) as file:
        template = environment.from_string(file.read())
    tokenizer = load(sys.argv[2], True)
    if sys.argv[3:] == ["tools"]:
        return tools(template, tokenizer)
    for messages in CONVERSATIONS:
        for mode in ["off", "on", "max"]:
            text = template.render(
                messages=dictionaries(messages),
                thinking=mode != "off",
                add_generation_prompt=True,
                bos_token="<｜begin▁of▁sentence｜>",
                **({"reasoning_effort": "max"} if mode == "max" else {}),
            )
            case = {"messages": messages, "thinking": mode, "ids": tokenizer.encode(text).ids}
            print(json.dumps(case, ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    main()
