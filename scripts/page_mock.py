#!/usr/bin/env python3
"""A server that knows no model, for work on the page: src/serve/page/ with its nonce and policy, events that change,
and answers as the API streams them. Python's own library is all it needs.

    scripts/page_mock.py [--port 8000] [--layers 43 --experts 256]        then open http://127.0.0.1:8000/

The first word of a message chooses the answer: "long" reads a long prompt first, "fail" is refused, "break" ends in the
middle of an answer, "hostile" answers with markup, "thoughts" with nothing but reasoning, "full" until the context is full,
"limit" until no more tokens are allowed, "call" with a tool call, "warn" with warnings, "echo" with the request as the
server got it, "tokens N" with N tokens at once, "slow" slowly. More than CTX tokens are refused. Anything else is answered
with some of everything that the page can show.
"""
import argparse
import json
import random
import re
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "src/serve/page"
CTX = 32768
POLICY = ("default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; connect-src 'self'; img-src data:; base-uri 'none'; "
          "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'")

THOUGHTS = "The user asks about page caches. I recall what a read does, then what mmap does, and compare the two.\n\n" * 2
ANSWER = """A **page cache** keeps what was read from a file in memory that nobody else asks for. Three things follow:

1. The first read waits for the disk, the next one does not.
2. Memory looks used though it can be given back:
   - at once, if the pages are clean;
   - after a write, if they are `dirty`.
3. A program that reads past it (`O_DIRECT`) must keep its own copies.

### How to see it

```rust
/// Bytes of the file that are in memory now.
fn resident(file: &File) -> io::Result<u64> {
    let map = Map::of(file)?;
    Ok(map.pages().filter(|page| page.is_resident()).count() as u64 * PAGE)
}
```

| state | cost of a read |
|-------|----------------|
| there | 0.2 us         |
| not   | 90 us          |

So an engine that streams experts from disk asks for each of them **once**, and says where it goes.
"""
PART = "| n | square |\n|--:|--:|\n| 1 | *1* |\n\n- a `b` **c** [d](https://example.org)\n- e\n\nWords that go on, and on.\n\n"
HOSTILE = """<script>window.hacked = 1</script> and <img src=x onerror="window.hacked = 2"> and **<b onclick=x>bold</b>**

```html
<script>window.hacked = 3</script>
```

- `<svg onload="window.hacked = 4">` [link](javascript:window.hacked=5)
"""


def page():
    """The page as the server joins it."""
    return re.sub(r"\{\{(.+?)\}\}", lambda name: (PAGE / name[1]).read_text(), (PAGE / "page.html").read_text())


class Engine:
    """Figures and experts that change as those of an engine would."""

    def __init__(self, layers, experts):
        self.lock = threading.Lock()
        self.one = threading.Lock()
        self.start = time.time()
        self.layers, self.experts, self.random = layers, experts, random.Random(1)
        self.key = None
        self.uses = [[0.0] * experts for _ in range(layers)]
        self.here = [set() for _ in range(layers)]
        self.state = {
            "model": "flash-q2", "strategy": "nommap", "backend": "avx512", "ctx": CTX, "phase": "idle", "done": 0, "all": 0,
            "queue": 0, "requests": 0, "errors": 0, "prefill_tps": None, "decode_tps": None, "prompt_tokens": 0,
            "cached_tokens": 0, "answer_tokens": 0, "sessions": [], "ledger": [
                ["fixed weights", 6_870_000_000], ["experts", 9_130_000_000], ["KV cache", 1_490_000_000],
                ["activations", 410_000_000], ["kernels", 65_000_000], ["tokenizer", 12_000_000], ["threads", 16_000_000]],
            "rss_bytes": 17_300_000_000, "model_cache_bytes": 0, "hits": 0, "misses": 0, "read_bytes": 0, "disk_mbs": 0.0,
            "stall_s": 0.0}
        self.state["ledger_bytes"] = sum(size for _, size in self.state["ledger"])

    def touch(self, tokens):
        """Uses experts as `tokens` tokens do; those that are not there are read, and others go."""
        state = self.state
        missed = 0
        for layer in range(self.layers):
            room = self.experts // 4
            for _ in range(6 * tokens):
                expert = min(int(self.random.expovariate(9 / self.experts)) * 37 + layer * 11, 10**6) % self.experts
                self.uses[layer][expert] += 1
                if expert in self.here[layer]:
                    state["hits"] += 1
                    continue
                missed += 1
                self.here[layer].add(expert)
                if len(self.here[layer]) > room:
                    self.here[layer].remove(min(self.here[layer], key=lambda e: self.uses[layer][e]))
        state["misses"] += missed
        state["read_bytes"] += missed * 7_000_000
        state["disk_mbs"] = missed * 7 / .25
        state["stall_s"] += missed * .0004

    def rows(self):
        most = max(max(row) for row in self.uses)
        def sign(layer, expert):
            use = self.uses[layer][expert]
            if not use:
                return "."
            level = min(9, round(9 * (len(bin(int(use))) - 2) / max(1, len(bin(int(most))) - 2)))
            return "abcdefghij"[level] if expert in self.here[layer] else str(level)
        return {str(layer): "".join(sign(layer, e) for e in range(self.experts)) for layer in range(self.layers)}

    def now(self):
        return dict(self.state, uptime_s=round(time.time() - self.start, 1))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine = None

    def log_message(self, *_):
        pass

    def whole(self, status, kind, body, **fields):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def begin(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Connection", "close")
        self.end_headers()

    def say(self, text):
        self.wfile.write(text.encode())
        self.wfile.flush()

    def locked(self):
        """Whether the request lacks the key; it is answered then."""
        if not self.engine.key or self.headers["Authorization"] == f"Bearer {self.engine.key}":
            return False
        self.refuse(401, "key: found none or another, expected the server's as 'authorization: Bearer KEY'")
        return True

    def do_GET(self):
        try:
            if self.path == "/":
                nonce = secrets.token_urlsafe(16)
                whole = page().replace("__NONCE__", nonce).encode()
                self.whole(200, "text/html; charset=utf-8", whole, Content_Security_Policy=POLICY.format(nonce),
                           X_Content_Type_Options="nosniff", Referrer_Policy="no-referrer", Cache_Control="no-store")
            elif self.path == "/events":
                if not self.locked():
                    self.events()
            else:
                self.whole(404, "text/plain", b"nothing here")
        except (BrokenPipeError, ConnectionResetError):
            pass

    def events(self):
        self.begin()
        known, last = {}, None
        while True:
            with self.engine.lock:
                state, rows = self.engine.now(), self.engine.rows()
            told = {name: value for name, value in state.items() if name != "uptime_s"}
            if told != last:
                self.say(f"event: state\ndata: {json.dumps(state)}\n\n")
                last = json.loads(json.dumps(told))
            changed = {layer: row for layer, row in rows.items() if known.get(layer) != row}
            if changed:
                data = {"layers": self.engine.layers, "experts": self.engine.experts, "rows": changed}
                self.say(f"event: experts\ndata: {json.dumps(data)}\n\n")
                known = rows
            else:
                self.say(": still here\n\n")
            time.sleep(.25)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            return self.whole(404, "text/plain", b"nothing here")
        if self.locked():
            return None
        try:
            self.answer(body)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            self.engine.state.update(phase="idle", done=0, all=0, disk_mbs=0.0)

    def refuse(self, status, message, **more):
        self.engine.state["errors"] += 1
        error = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **more}}
        self.whole(status, "application/json", json.dumps(error).encode(), **({"Retry_After": "2"} if status == 429 else {}))

    def answer(self, body):
        engine, state, asked = self.engine, self.engine.state, body["messages"][-1]["content"]
        kind, _, rest = asked.partition(" ")
        state["requests"] += 1
        if kind == "fail":
            return self.refuse(429, "8 requests wait already; come again later")
        said = sum(len(message["content"]) for message in body["messages"]) // 4 + 20
        if said > CTX:
            return self.refuse(400, f"This model's maximum context length is {CTX} tokens. However, your messages resulted in {said} tokens.",
                               code="context_length_exceeded")
        with engine.one:
            self.begin()
            n_prompt, n_cached = (5678, 0) if kind == "long" else (said, max(0, said - len(asked) // 4 - 6))
            for done in range(n_cached, n_prompt, 256 if n_prompt > 1000 else 64):
                with engine.lock:
                    engine.touch(8)
                    state.update(phase="prefill", done=done, all=n_prompt, prefill_tps=101.2 + done % 7)
                self.say(f": prefill {done}/{n_prompt} tokens, 101.2 t/s, {(n_prompt - done) / 101.2:.0f} s left\n\n")
                time.sleep(.08)
            if kind == "tokens":
                return self.quickly(int(rest), n_prompt)
            text = {"hostile": HOSTILE, "thoughts": "", "echo": "```json\n" + json.dumps(body, indent=1) + "\n```\n",
                    "call": "I look.\n", "slow": "word " * 400}.get(kind, ANSWER)
            thoughts = THOUGHTS if kind == "thoughts" or body["thinking"]["type"] == "enabled" and kind not in ("echo", "slow") else ""
            size = 60 if kind == "echo" else 3
            pieces = [("reasoning_content", word) for word in cut(thoughts, 3)] + [("content", word) for word in cut(text, size)]
            for n, (field, word) in enumerate(pieces, 1):
                with engine.lock:
                    if n % 8 == 1:
                        engine.touch(1)
                    state.update(phase="decode", done=n, all=body.get("max_tokens", 4000), decode_tps=8.3 + n % 5 / 10)
                    state["sessions"] = [{"tokens": n_prompt + n, "ctx": CTX}, {"tokens": 21_480, "ctx": CTX}]
                self.chunk(choices=[{"index": 0, "delta": {field: word}, "finish_reason": None}])
                if kind == "break" and n == len(pieces) // 2:
                    return self.say('data: {"error": {"message": "layer 7: the model file was cut"}}\n\n')
                time.sleep(.05 if kind == "slow" else .006)
            if kind == "call":
                for piece in ({"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}},
                              {"function": {"arguments": '{"city": "<b>Oslo'}}, {"function": {"arguments": '</b>", "days": 2}'}}):
                    self.chunk(choices=[{"index": 0, "delta": {"tool_calls": [{"index": 0, **piece}]}, "finish_reason": None}])
            end = "length" if kind in ("thoughts", "full", "limit") else "tool_calls" if kind == "call" else "stop"
            warnings = {"full": [f"the context is full: {CTX} tokens"], "warn": ["logit_bias: left out", "<i>user</i>: ignored"]}.get(kind)
            self.chunk(choices=[{"index": 0, "delta": {}, "finish_reason": end, **({"infall_warnings": warnings} if warnings else {})}])
            self.end(n_prompt, n_cached, len(pieces))

    def quickly(self, n, n_prompt):
        """Many tokens, faster than any engine: for the time that drawing takes."""
        pieces = cut(PART * (n * 3 // len(PART) + 1), 3)[:n]
        for at in range(0, n, 50):
            self.say("".join("data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": piece}}]}) + "\n\n" for piece in pieces[at:at + 50]))
        self.chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
        self.end(n_prompt, 0, n)

    def end(self, n_prompt, n_cached, n_answer):
        state = self.engine.state
        self.chunk(choices=[], usage={
            "prompt_tokens": n_prompt, "completion_tokens": n_answer, "total_tokens": n_prompt + n_answer,
            "prompt_tokens_details": {"cached_tokens": n_cached}})
        self.say("data: [DONE]\n\n")
        state["prompt_tokens"] += n_prompt
        state["cached_tokens"] += n_cached
        state["answer_tokens"] += n_answer

    def chunk(self, **fields):
        self.say("data: " + json.dumps({"object": "chat.completion.chunk", **fields}) + "\n\n")


def cut(text, size):
    """Pieces as tokens are: three characters or so, ends of lines among them."""
    return [text[at:at + size] for at in range(0, len(text), size)]


#: The engine of the server that was started last.
LAST = None


def serve(port=0, layers=43, experts=256):
    """A running server; `server_port` says where, `shutdown()` and `server_close()` end it."""
    global LAST
    LAST = Engine(layers, experts)
    handler = type("OneEngine", (Handler,), {"engine": LAST})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("--port", 8000), ("--layers", 43), ("--experts", 256)):
        arguments.add_argument(name, type=int, default=value)
    given = arguments.parse_args()
    print(f"http://127.0.0.1:{serve(given.port, given.layers, given.experts).server_port}/")
    threading.Event().wait()
