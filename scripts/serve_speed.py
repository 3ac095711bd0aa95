#!/usr/bin/env python3
"""What serving costs over `infall run`, and what a prompt costs that the engine has already.

    scripts/serve_speed.py [--program target/release/infall] [--model FILE] [--rounds 11] [--tokens 600] [-- more flags]

Runs `infall run` and a stream of `infall serve` in turns, on the same prompt, and compares tokens per second: those that
`run` tells, and those that a client of the server sees between its first and its last token. Then asks with a long prompt
twice, and tells the time to the first byte and to the first token. Needs nothing but Python.
"""
import argparse, json, re, socket, statistics, subprocess, sys, time

HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n"


def ask(address, text, n):
    """Times of the first byte, the first and the last token in seconds, and the figures of the answer."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": n, "temperature": 0, "stream": True}
    body = json.dumps(dict(body, stream_options={"include_usage": True}))
    with socket.create_connection(address) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start = time.perf_counter()
        s.sendall((HEAD.format(len(body)) + body).encode())
        # Looked at afterwards, so that the client takes little of the machine.
        pieces = []
        while True:
            piece = s.recv(65536)
            pieces.append((time.perf_counter() - start, piece))
            if b"[DONE]" in piece or not piece:
                break
    tokens = [at for at, piece in pieces if re.search(rb'"delta":\{"content":"[^"]', piece)]
    usage = re.search(rb'"usage":(\{"prompt.*?\}\})', b"".join(piece for _, piece in pieces))
    return pieces[0][0], tokens[0], tokens[-1], json.loads(usage[1] + b"}" * (usage[1].count(b"{") - usage[1].count(b"}")))


def spread(values, unit, scale=1):
    values = [v * scale for v in values]
    return f"{statistics.median(values):.1f} {unit} ({min(values):.1f} to {max(values):.1f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/infall")
    parser.add_argument("--model", default="models/tiny-q4.gguf")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--words", type=int, default=800, help="of the long prompt")
    parser.add_argument("more", nargs="*")
    args = parser.parse_args()
    command = [args.program, "serve", "--port", "0", "-m", args.model, *args.more]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        address = None
        for line in server.stderr:
            if found := re.match(r"listening at http://(.*):(\d+)/", line):
                address = (found[1], int(found[2]))
                break
        if not address:
            sys.exit("the server ended before it listened")

        def run():
            flags = ["run", "-m", args.model, "-p", "hello", "-n", str(args.tokens), "--temp", "0", *args.more]
            said = subprocess.run([args.program, *flags], capture_output=True, text=True, check=True).stderr
            return float(re.search(r"generated \d+ tokens, ([\d.]+) t/s", said)[1])

        def serve():
            _, first, last, usage = ask(address, "hello", args.tokens)
            return (usage["completion_tokens"] - 1) / (last - first)

        run(), serve()
        runs, serves = [], []
        for _ in range(args.rounds):
            runs.append(run())
            serves.append(serve())
        print(f"run    {spread(runs, 't/s')}")
        print(f"serve  {spread(serves, 't/s')}")
        costs = [1 - serve / run for run, serve in zip(runs, serves)]
        print(f"serving costs {spread(costs, '%', 100)}, each round by itself")
        new, kept = [], []
        for i in range(args.rounds):
            text = f"Round {i}: " + " ".join(f"word{i}x{j}" for j in range(args.words))
            new.append(ask(address, text, 4))
            kept.append(ask(address, text, 4))
        usage = kept[-1][3]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        print(f"a prompt of {usage['prompt_tokens']} tokens, new: first token after {spread([a[1] for a in new], 'ms', 1e3)}")
        print(f"again ({cached} tokens are there): first byte after {spread([a[0] for a in kept], 'ms', 1e3)}, "
              f"first token after {spread([a[1] for a in kept], 'ms', 1e3)}")
    finally:
        server.terminate()


if __name__ == "__main__":
    main()
