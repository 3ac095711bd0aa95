"""A relay in front of the server that notes what each request cost, and makes a small model call a tool.

A small model calls no tool by itself. The relay adds the choice of one harmless tool to the first `times` requests that
offer it; all else passes as the client sent it.
"""

import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import common


class Relay:
    """Use as a context; `turns` holds (path, prompt tokens, tokens reused) of each answer."""

    def __init__(self, force=None, times=1):
        self.force, self.turns, self.bodies, self.statuses = force, [], [], []
        self.left = times
        relay = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                relay.forward(self)

            do_POST = do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()

    def forward(self, handler):
        body = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        if handler.command == "POST" and body:
            value = json.loads(body)
            self.bodies.append(value)
            offered = [tool.get("name") or tool.get("function", {}).get("name") for tool in value.get("tools") or []]
            if self.force and self.left and self.force[0] in offered:
                value["tool_choice"] = self.force[1]
                self.left -= 1
                body = json.dumps(value).encode()
        fields = {
            k: v
            for k, v in handler.headers.items()
            if k.lower() not in ("host", "content-length", "connection", "accept-encoding")
        }
        at = urlsplit(common.URL)
        server = http.client.HTTPConnection(at.hostname, at.port, timeout=600)
        server.request(handler.command, handler.path, body or None, fields)
        answer = server.getresponse()
        handler.close_connection = True
        try:
            handler.send_response(answer.status)
            handler.send_header("connection", "close")
            if "content-type" in answer.headers:
                handler.send_header("content-type", answer.headers["content-type"])
            handler.end_headers()
            whole = b""
            while more := answer.read1(65536):
                whole += more
                handler.wfile.write(more)
        except OSError:  # the client left; so does the relay
            server.close()
            return
        self.statuses.append((handler.path, answer.status))
        self.note(handler.path, whole.decode("utf-8", "replace"))

    def show(self):
        """Prints what each answer cost."""
        for path, n, cached in self.turns:
            print(f"  {path.split('?')[0]}: {n} tokens, {n - cached} computed")

    def note(self, path, text):
        for line in reversed(text.split("\n")):
            line = line.removeprefix("data: ")
            if not line.startswith("{"):
                continue
            value = json.loads(line)
            usage = value.get("usage") or (value.get("response") or {}).get("usage")
            if usage and "cache_read_input_tokens" in usage:
                cached = usage["cache_read_input_tokens"] or 0
                self.turns.append((path, usage["input_tokens"] + cached, cached))
                return
            if usage and ("prompt_tokens" in usage or "input_tokens_details" in usage):
                n = usage.get("prompt_tokens", usage.get("input_tokens"))
                details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
                self.turns.append((path, n, details.get("cached_tokens", 0)))
                return
