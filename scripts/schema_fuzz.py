#!/usr/bin/env python3
"""Validates what was said under random schemas with Python's jsonschema (pip install jsonschema).

    SCHEMA_FUZZ=10000 SCHEMA_FUZZ_OUT=pairs.txt cargo test --release --test schema every_answer_is_valid
    scripts/schema_fuzz.py pairs.txt

The file holds a schema and an answer in turn, a line each; the answer is a JSON string.
"""
import json
import signal
import sys

import jsonschema



def late(*_):
    raise TimeoutError


signal.signal(signal.SIGALRM, late)
with open(sys.argv[1], encoding="utf-8") as file:
    lines = file.read().split("\n")
n = wrong = slow = 0
for schema, answer in zip(lines[0::2], lines[1::2]):
    schema, answer = json.loads(schema), json.loads(answer)
    n += 1
    signal.alarm(2)
    try:
        jsonschema.Draft202012Validator(schema).validate(json.loads(answer))
    except TimeoutError:
        slow += 1  # Python's patterns may take exponential time
    except (ValueError, jsonschema.ValidationError) as error:
        wrong += 1
        print(f"{json.dumps(schema)}\n  {answer}\n  {str(error).splitlines()[0]}")
signal.alarm(0)
print(f"{n} answers, {wrong} not valid, {slow} not told within 2 s")
sys.exit(wrong > 0 or n == 0)
