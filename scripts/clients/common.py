"""What the checks share: where the server is, how a check is named, and how its result is printed.

A check prints one line: `ok NAME`, `cut NAME: ...` (the bound of tokens came first), `skip NAME: ...` or
`FAIL NAME: ...`. The exit code is 1 if one failed.
"""

import os
import sys
import time
import traceback

URL = os.environ.get("INFALL_URL", "http://127.0.0.1:8000").rstrip("/")
KEY = os.environ.get("INFALL_KEY") or "none"
# The engine of tests/serve_clients.rs, which answers by script: `@tools` calls `weather` and `now`.
SCRIPTED = os.environ.get("INFALL_SCRIPTED") == "1"
NODE = os.environ.get("INFALL_NODE", "")
CHECKS = []

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "days": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}


class Cut(Exception):
    """The answer was cut by its bound of tokens, so nothing can be said about its form."""


class Skip(Exception):
    """The check cannot be made here."""


def check(function):
    """A check for any model."""
    CHECKS.append(function)
    return function


def scripted(function):
    """A check that needs the scripted engine."""
    return check(function) if SCRIPTED else function


def real(function):
    """A check that needs a model: masks choose among what it would say."""
    return function if SCRIPTED else check(function)


def same(found, expected):
    assert found == expected, f"found {found!r}, expected {expected!r}"


def main():
    failed = 0
    for function in CHECKS:
        name, begin = function.__name__, time.monotonic()
        try:
            function()
            word = "ok"
        except Cut as cut:
            word, name = "cut", f"{name}: {cut}"
        except Skip as skip:
            word, name = "skip", f"{name}: {skip}"
        except BaseException as error:  # whatever a client raises is a finding
            if isinstance(error, KeyboardInterrupt):
                raise
            failed += 1
            traceback.print_exc()
            last = " ".join(str(error).split())[:300]
            word, name = "FAIL", f"{name}: {type(error).__name__}: {last}"
        print(f"{word} {name} ({time.monotonic() - begin:.1f} s)", flush=True)
    sys.exit(1 if failed else 0)
