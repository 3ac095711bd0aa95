#!/usr/bin/env python3
"""Hostile and heavy clients against `infall serve` on this machine, all at once, for some minutes.

    scripts/serve_load.py [--program target/release/infall] [--model FILE] [--seconds 300] [-- more flags of serve]

Starts the program with the small model and lets these clients run side by side: 1,000 idle connections, 200 that write a
byte at a time, 50 that ask, requests cut at each byte, bodies of 100 MB, JSON that is 10,000 deep, and random damage.
Meanwhile the memory of the process is held against what it said beforehand, and its threads are counted. Afterwards the
answer to a question must be the one of before. Needs Linux (/proc) and nothing but Python.
"""
import argparse, json, os, random, re, resource, signal, socket, subprocess, sys, threading, time

HEAD = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n"
QUESTION = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 16, "temperature": 0}
counts, counts_lock = {}, threading.Lock()


def count(what, n=1):
    with counts_lock:
        counts[what] = counts.get(what, 0) + n


def connect(address, timeout=60):
    s = socket.create_connection(address, timeout=timeout)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def receive(s):
    """All of an answer on a connection that the server closes or whose length is known."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = s.recv(65536)
        if not piece:
            return data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    want = int(length.group(1)) if length else None
    while want is None or len(body) < want:
        piece = s.recv(65536)
        if not piece or (want is None and body.endswith(b"0\r\n\r\n")):
            break
        body += piece
        if want is None and body.endswith(b"0\r\n\r\n"):
            break
    return head + b"\r\n\r\n" + body


def post(address, path, body):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    with connect(address) as s:
        s.sendall(HEAD.format(path, len(body)).encode() + body)
        return receive(s)


def status(answer):
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0


def idle(address, until, n):
    """Opens connections and leaves them; those that the server closes are opened anew."""
    open_ones = []
    while time.time() < until:
        while len(open_ones) < n and time.time() < until:
            try:
                open_ones.append(connect(address))
                count("idle connections opened")
            except OSError:
                break
        time.sleep(0.5)
        alive = []
        for s in open_ones:
            s.setblocking(False)
            try:
                if s.recv(4096) == b"":
                    s.close()
                    continue
            except BlockingIOError:
                pass
            except OSError:
                s.close()
                continue
            alive.append(s)
        open_ones = alive
    count("idle connections at the end", len(open_ones))
    for s in open_ones:
        s.close()


def slow(address, until, n):
    """Each of `n` connections sends a byte of a request every half a second."""
    text = HEAD.format("/v1/chat/completions", 50).encode() + b"{" * 50
    writers = []
    while time.time() < until:
        while len(writers) < n:
            try:
                writers.append([connect(address), 0])
                count("slow writers opened")
            except OSError:
                break
        for writer in writers:
            s, at = writer
            try:
                s.send(text[at:at + 1])
                writer[1] = at + 1 if at + 1 < len(text) else at
            except OSError:
                s.close()
                writer[0] = None
        writers = [w for w in writers if w[0] is not None]
        time.sleep(0.5)
    for s, _ in writers:
        s.close()


def asker(address, until, seed):
    """Asks, with and without a stream, and sometimes leaves in the middle."""
    rng = random.Random(seed)
    while time.time() < until:
        body = dict(QUESTION, stream=rng.random() < 0.5, max_tokens=rng.randrange(1, 64))
        body["messages"] = [{"role": "user", "content": f"Question {rng.randrange(1000)} " * rng.randrange(1, 30)}]
        path = "/v1/chat/completions"
        if rng.random() < 0.3:
            path, body = "/v1/messages", {k: v for k, v in body.items()}
        text = json.dumps(body).encode()
        try:
            with connect(address) as s:
                s.sendall(HEAD.format(path, len(text)).encode() + text)
                if rng.random() < 0.2:
                    s.recv(200)
                    count("askers that left")
                    continue
                count(f"asked: {status(receive(s))}")
        except OSError:
            count("asked: refused")
            time.sleep(0.1)
        time.sleep(rng.random() * 0.2)


def cutter(address, until):
    """A request cut at each byte, then closed."""
    body = json.dumps(QUESTION).encode()
    text = HEAD.format("/v1/chat/completions", len(body)).encode() + body
    at = 0
    while time.time() < until:
        at = at % len(text) + 1
        try:
            with connect(address) as s:
                s.sendall(text[:at])
                s.shutdown(socket.SHUT_WR)
                s.recv(1 << 16)
            count("cut requests")
        except OSError:
            count("cut requests refused")
        time.sleep(0.01)


def large(address, until):
    """Bodies of 100 MB, told beforehand and not (chunks)."""
    piece = b"x" * (1 << 20)
    while time.time() < until:
        for chunked in (False, True):
            try:
                with connect(address) as s:
                    if chunked:
                        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
                    else:
                        s.sendall(HEAD.format("/v1/completions", 100 << 20).encode())
                    for _ in range(100):
                        s.sendall((b"%x\r\n" % len(piece) + piece + b"\r\n") if chunked else piece)
                    count(f"100 MB: {status(receive(s))}")
            except OSError:
                count("100 MB: closed")
            # Just below the limit, and no JSON.
            try:
                count(f"8 MB of no JSON: {status(post(address, '/v1/completions', b'[' + b' ' * (8_000_000)))}")
            except OSError:
                count("8 MB of no JSON: closed")
        time.sleep(0.2)


def deep(address, until):
    """JSON that is 10,000 deep, and JSON of a million values."""
    texts = [b"[" * 10_000, b'{"a":' * 10_000, b"[" + b"1," * 1_000_000 + b"1]"]
    texts.append(json.dumps({"messages": [{"role": "user", "content": "x"}] * 50_000}).encode())
    texts.append(json.dumps({"messages": [{"role": "user", "content": "word " * 1_000_000}]}).encode())
    while time.time() < until:
        for text in texts:
            try:
                count(f"JSON of bad size: {status(post(address, '/v1/chat/completions', text))}")
            except OSError:
                count("JSON of bad size: closed")
        time.sleep(0.1)


def damage(address, until):
    """Requests with random bytes changed."""
    rng = random.Random(1)
    body = json.dumps(QUESTION).encode()
    text = HEAD.format("/v1/chat/completions", len(body)).encode() + body
    while time.time() < until:
        broken = bytearray(text)
        for _ in range(rng.randrange(1, 6)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        try:
            with connect(address, timeout=2) as s:
                s.sendall(broken)
                s.shutdown(socket.SHUT_WR)
                answer = s.recv(1 << 16)
                count(f"damaged: {status(answer)}")
        except OSError:
            count("damaged: closed")
        time.sleep(0.01)


def figures(pid):
    with open(f"/proc/{pid}/status") as f:
        text = f.read()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) * 1024, int(re.search(r"Threads:\s+(\d+)", text)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/infall")
    parser.add_argument("--model", default="models/tiny-q4.gguf")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("more", nargs="*")
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    command = [args.program, "serve", "--port", "0", "--ctx", "4000", "-m", args.model, *args.more]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in server.stderr:
            found = re.match(r"listening at http://(.*):(\d+)/", line)
            if found:
                break
        else:
            sys.exit("the server ended before it listened")
        threading.Thread(target=lambda: [sys.stderr.write(l) for l in server.stderr], daemon=True).start()
        address = (found[1], int(found[2]))
        ok = check(args, server.pid, address)
        server.send_signal(signal.SIGTERM)
        code = server.wait(timeout=60)
        print(f"exit code {code}")
        sys.exit(0 if ok and code == 0 else 1)
    finally:
        server.kill()


def check(args, pid, address):
    def content():
        answer = post(address, "/v1/chat/completions", QUESTION)
        assert status(answer) == 200, answer[:500]
        return json.loads(answer.partition(b"\r\n\r\n")[2])["choices"][0]["message"]["content"]

    before = content()
    with connect(address) as s:
        s.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        text = receive(s).decode()
    ledger = sum(int(n) for n in re.findall(r"infall_memory_planned_bytes\{.*\} (\d+)", text))
    rss, n_threads = figures(pid)
    print(f"before: {rss / 2**20:.1f} MiB of {ledger / 2**20:.1f} MiB planned, {n_threads} threads")
    until = time.time() + args.seconds
    clients = [(idle, 1000), (slow, 200), (cutter,), (large,), (deep,), (damage,)]
    clients += [(asker, seed) for seed in range(50)]
    threads = [threading.Thread(target=f, args=(address, until, *more)) for f, *more in clients]
    for t in threads:
        t.start()
    most_rss, most_threads = 0, 0
    while any(t.is_alive() for t in threads):
        rss, n = figures(pid)
        most_rss, most_threads = max(most_rss, rss), max(most_threads, n)
        time.sleep(0.05)
    for what, n in sorted(counts.items()):
        print(f"  {n:>9}  {what}")
    # What was cut short has its time to end.
    end = time.time() + 30
    while True:
        answer = post(address, "/v1/chat/completions", QUESTION)
        if status(answer) == 200 or time.time() > end:
            break
        time.sleep(0.5)
    after = content()
    rss, n = figures(pid)
    print(f"most: {most_rss / 2**20:.1f} MiB of {ledger / 2**20:.1f} MiB planned, {most_threads} threads")
    print(f"after: {rss / 2**20:.1f} MiB, {n} threads; the answer is {'the same' if after == before else 'ANOTHER'}")
    faults = []
    if most_rss > ledger:
        faults.append("more memory than was planned")
    if most_threads > n_threads or n > n_threads:
        faults.append("threads leak")
    if after != before:
        faults.append("another answer")
    if counts.get("asked: 200", 0) == 0:
        faults.append("nobody was answered")
    print("FAILED: " + ", ".join(faults) if faults else "all as it should be")
    return not faults


if __name__ == "__main__":
    main()
