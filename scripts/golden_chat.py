#!/usr/bin/env python3
"""Golden renderings of conversations from an independent implementation: llama.cpp's Jinja template of the release,
and the Python package `tokenizers`.

    scripts/golden_chat.py deepseek-ai-DeepSeek-V4.jinja tests/golden/dsv4-vocab.gguf > tests/golden/chat.jsonl

One line a conversation: its messages as [role, text] or ["assistant", reasoning, answer], the thinking mode, and the
ids up to the opener of the next answer. No text spells out a special token, so that whole renderings can be encoded.
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


def dictionary(message):
    role, *texts = message
    if role == "assistant":
        return {"role": role, "reasoning_content": texts[0], "content": texts[1]}
    return {"role": role, "content": texts[0]}


def main():
    environment = jinja2.Environment()
    environment.filters["from_json"] = json.loads
    with open(sys.argv[1]) as file:
        template = environment.from_string(file.read())
    tokenizer = load(sys.argv[2], True)
    for messages in CONVERSATIONS:
        for mode in ["off", "on", "max"]:
            text = template.render(
                messages=[dictionary(m) for m in messages],
                thinking=mode != "off",
                add_generation_prompt=True,
                bos_token="<｜begin▁of▁sentence｜>",
                **({"reasoning_effort": "max"} if mode == "max" else {}),
            )
            case = {"messages": messages, "thinking": mode, "ids": tokenizer.encode(text).ids}
            print(json.dumps(case, ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    main()
