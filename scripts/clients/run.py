#!/usr/bin/env python3
"""Unmodified clients of the package registries against a server of infall.

    scripts/clients/run.py --install              # all of them, against models/tiny-q4.gguf
    scripts/clients/run.py claude-code codex      # some; see --list
    scripts/clients/run.py --url http://127.0.0.1:8000 [--key KEY]

Packages go into a folder of their own (--folder, default target/clients), never beside the sources, in the versions of
the table below. A client whose packages are missing is skipped with a word. Without --url the binary is started with
the model; --scripted says that the engine of tests/serve_clients.rs answers.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
AI = [
    "ai@6.0.326",
    "@ai-sdk/openai@3.0.141",
    "@ai-sdk/openai-compatible@2.0.92",
    "@ai-sdk/anthropic@3.0.140",
    "zod@4",
]
SDKS = ["openai==3.57.0", "anthropic==2.14.0"]

# name: (file, packages); a list of npm packages has `@` before each version.
CLIENTS = {
    "python-sdks": ("python_sdks.py", SDKS),
    "python-sdks-strict": ("strict.py", SDKS),
    "python-sdks-tools": ("runners.py", SDKS),
    "npm-sdks": ("npm_sdks.mjs", ["openai@6.49.0", "@anthropic-ai/sdk@1.14.0", "zod@4"]),
    "vercel-ai": ("vercel_ai.mjs", AI),
    "pydantic-ai": ("pydantic_agents.py", ["pydantic-ai-slim[openai,anthropic]==2.68.0"]),
    "instructor": ("instructor_modes.py", ["instructor==1.17.0", SDKS[1]]),
    "smolagents": ("smol_agents.py", ["smolagents[openai]==1.26.0"]),
    "langchain": ("lang_chain.py", ["langchain==1.5.2", "langchain-openai==1.7.4", "langchain-anthropic==1.7.10"]),
    "openai-agents": ("openai_agents.py", ["openai-agents==0.24.0"]),
    "claude-code": ("claude_code.py", ["@anthropic-ai/claude-code@2.1.197"]),
    "codex": ("codex_cli.py", ["@openai/codex@0.171.0"]),
    "opencode": ("opencode_cli.py", ["opencode-ai@1.18.33"]),
    "aider": ("aider_cli.py", ["aider-chat==0.86.2"]),
    "llm": ("llm_cli.py", ["llm==0.36"]),
    "ollama-python": ("ollama_sdk.py", ["ollama==0.6.3"]),
    "ollama-npm": ("ollama_npm.mjs", ["ollama@0.6.4"]),
    "fuzz": ("fuzz.py", ["hypothesis==6.170.17"]),
    "litellm": ("litellm_all.py", ["litellm[proxy]==1.108.7"]),
}


def is_npm(packages):
    return not any("==" in package for package in packages)


def place(folder, packages):
    """A folder for each set of packages, so that their wishes do not meet."""
    name = re.sub(r"[^a-z0-9.]+", "-", packages[0].lower()).strip("-")
    return folder / name


def install(at, packages):
    """A word on why it could not be done, or None."""
    if (at / "installed").exists():
        return None
    at.mkdir(parents=True, exist_ok=True)
    if is_npm(packages):
        if not shutil.which("npm"):
            return "npm is missing"
        steps = [["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", at, *packages]]
        (at / "package.json").write_text("{}")
    else:
        python = at / "bin" / "python"
        steps = [[sys.executable, "-m", "venv", at], [python, "-m", "pip", "install", "-q", *packages]]
    for step in steps:
        if subprocess.run([str(word) for word in step]).returncode:
            return "the packages could not be installed"
    (at / "installed").write_text("\n".join(packages) + "\n")
    return None


def command(at, file, packages):
    if not (at / "installed").exists():
        return None, f"{packages[0]} is not installed (--install)"
    if file.endswith(".mjs"):
        return (["node", HERE / file], None) if shutil.which("node") else (None, "node is missing")
    return [sys.executable if is_npm(packages) else at / "bin" / "python", HERE / file], None


class Server:
    """infall with a model, on a free port."""

    def __init__(self, binary, model):
        words = [binary, "serve", "-m", model, "--port", "0", "--ctx", "100000"]
        self.process = subprocess.Popen(
            [str(word) for word in words], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        self.url = None
        for line in self.process.stderr:
            found = re.search(rb"listening at (http://[^/]*)/", line)
            if found:
                self.url = found.group(1).decode()
                break
            sys.stderr.buffer.write(line)
        if not self.url:
            sys.exit("the server did not start")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="clients (default: all)")
    parser.add_argument("--list", action="store_true", help="names and versions")
    parser.add_argument("--install", action="store_true", help="install what is missing")
    parser.add_argument("--folder", type=Path, default=TOP / "target" / "clients", help="of the installed packages")
    parser.add_argument("--url", help="a server that runs")
    parser.add_argument("--key", default="")
    parser.add_argument("--scripted", action="store_true")
    parser.add_argument("--binary", type=Path, default=TOP / "target" / "release" / "infall")
    parser.add_argument("--model", type=Path, default=TOP / "models" / "tiny-q4.gguf")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in CLIENTS]
    if unknown:
        parser.error(f"found no client {', '.join(unknown)}; there are {', '.join(CLIENTS)}")
    names = args.names or list(CLIENTS)
    if args.list:
        for name in names:
            print(f"{name}: {' '.join(CLIENTS[name][1])}")
        return 0

    folder = args.folder.resolve()
    server = None if args.url else Server(args.binary, args.model)
    fields = {
        "INFALL_URL": args.url or server.url,
        "INFALL_KEY": args.key,
        "INFALL_SCRIPTED": "1" if args.scripted else "",
    }
    rows, failed = [], False
    try:
        for name in names:
            file, packages = CLIENTS[name]
            at = place(folder, packages)
            why = install(at, packages) if args.install else None
            words, missing = command(at, file, packages)
            if why or missing:
                print(f"{name}: skip: {why or missing}", flush=True)
                rows.append((name, packages, f"skipped: {why or missing}"))
                continue
            environment = {**os.environ, **fields, "INFALL_NODE": str(at)}
            run = subprocess.Popen([str(word) for word in words], env=environment, stdout=subprocess.PIPE, text=True)
            count = {}
            for line in run.stdout:
                print(f"{name}: {line}", end="", flush=True)
                word = line.split(" ", 1)[0]
                count[word] = count.get(word, 0) + 1
            is_bad = run.wait() != 0
            failed |= is_bad
            told = [f"{count[word]} {word}" for word in ("ok", "cut", "skip", "FAIL") if word in count]
            rows.append((name, packages, ", ".join(told) or ("FAIL" if is_bad else "nothing for this engine")))
    finally:
        if server:
            server.stop()
    print("\n| client | versions | checks |\n|---|---|---|")
    for name, packages, told in rows:
        print(f"| {name} | {' '.join(packages)} | {told} |")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
