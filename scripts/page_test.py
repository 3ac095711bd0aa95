#!/usr/bin/env python3
"""The server's page in a headless Chromium: asks, watches tokens come, stops, looks at the heat map, the keyboard and the policy.

    python3 -m venv V && V/bin/pip install playwright && apt install chromium
    V/bin/python scripts/page_test.py [--program target/release/infall] [--model FILE] [--out DIR]

Starts `infall serve` with the small model for what a real engine does, and `scripts/page_mock.py` for what only a play can
say on demand: markup in answers, errors, reasoning, a prompt that is read for long. With --out it writes pictures in both
themes at the widths of a desk and a phone, to be looked at. Every check that fails is named; the exit code tells.
"""
import argparse, re, subprocess, sys, tempfile, time, traceback
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
import page_mock

DONE = 60_000


def until(page, expression, seconds=60):
    """Waits for an expression to be true; the page's policy forbids what Playwright has for it."""
    end = time.time() + seconds
    while not page.evaluate(expression):
        assert time.time() < end, f"never true: {expression}"
        page.wait_for_timeout(20)


class Watch:
    """A page whose complaints and requests are noted."""

    def __init__(self, browser, url, **more):
        self.context = browser.new_context(**more)
        self.page = self.context.new_page()
        self.complaints, self.foreign = [], []
        self.page.on("console", lambda m: m.type in ("error", "warning") and self.complaints.append(m.text))
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.on("request", lambda r: r.url.startswith(url) or self.foreign.append(r.url))
        self.page.goto(url)
        until(self.page, "document.getElementById('heat').width > 0 && document.getElementById('resident').textContent")

    def ask(self, text):
        self.page.fill("#field", text)
        self.page.keyboard.press("Enter")

    def is_done(self):
        expect(self.page.locator("#go")).to_have_text("Send", timeout=DONE)

    def answer(self):
        return self.page.locator("article > .text").last

    def heat(self):
        return self.page.evaluate("document.getElementById('heat').toDataURL()")

    def end(self, allowed=()):
        wrong = [c for c in self.complaints if not any(a in c for a in allowed)]
        assert not wrong, f"the console says {wrong}"
        assert not self.foreign, f"requests elsewhere: {self.foreign}"
        self.context.close()


def real(browser, url):
    """With the engine: tokens before the end, a stop, a heat map that changes, a conversation that is reused."""
    w = Watch(browser, url, viewport={"width": 1440, "height": 900})
    before = w.heat()
    w.page.click("#thinking")
    w.page.click("#more")
    w.page.fill("#most", "400")
    w.page.fill("#temperature", "0")
    w.page.click("#more")
    # The answer grows while it is given.
    w.ask("What is Unix?")
    expect(w.page.locator("#go")).to_have_text("Stop")
    until(w.page, "document.querySelector('article > .text')?.textContent.length > 20")
    early = len(w.answer().inner_text())
    w.is_done()
    late = len(w.answer().inner_text())
    assert 0 < early < late, f"{early} characters, then {late}: it did not come in pieces"
    note = w.page.locator(".note span").last.inner_text()
    assert re.search(r"\d+ tokens .* t/s .* first after .* prompt \d+", note.replace("·", " ")), note
    w.page.wait_for_timeout(600)
    assert w.heat() != before, "the heat map did not change"
    assert re.match(r"[1-9][\d,]* of [\d,]+ in memory", w.page.inner_text("#resident")), w.page.inner_text("#resident")
    assert "planned" in w.page.inner_text("#memory")
    # Esc stops; the server stops too.
    w.page.click("#more")
    w.page.fill("#most", "20000")
    w.page.click("#more")
    w.ask("Tell me about Emacs, at length.")
    until(w.page, "document.querySelectorAll('article > .text')[1]?.textContent.length > 10")
    w.page.keyboard.press("Escape")
    w.is_done()
    assert w.page.locator(".note span").last.inner_text() == "Stopped"
    expect(w.page.locator("#now")).to_have_text("Idle", timeout=5000)
    # What was said before need not be read again.
    w.page.click("#more")
    w.page.fill("#most", "8")
    w.page.click("#more")
    w.ask("And vi?")
    w.is_done()
    cached = re.search(r"prompt ([\d,]+), ([\d,]+) cached", w.page.locator(".note span").last.inner_text())
    assert cached and int(cached[2].replace(",", "")) > 10, cached
    # Each expert tells what became of it.
    w.page.hover("#heat", position={"x": 5, "y": 5})
    assert re.match(r"Layer 0, expert 0: ", w.page.inner_text("#tip")), w.page.inner_text("#tip")
    w.end()


def play(browser, url):
    """With the play: what a model may say is text, errors are told, reasoning is folded, the keyboard suffices."""
    w = Watch(browser, url, viewport={"width": 1440, "height": 900})
    w.ask("hostile")
    w.is_done()
    assert w.page.evaluate("window.hacked") is None, "text of the model ran"
    assert "<script>" in w.answer().inner_text() and "<img" in w.answer().inner_text()
    assert w.page.locator("article script, article img, article svg").count() == 0
    w.ask("fail")
    w.is_done()
    assert w.page.locator(".wrong").last.inner_text(), "no error is told"
    w.page.click("text=Retry >> visible=true")
    w.is_done()
    w.ask("What is a page cache?")
    w.is_done()
    details = w.page.locator("article details").last
    assert details.get_attribute("open") is None and "Thought" in details.locator("summary").inner_text()
    assert w.answer().locator(".code pre").count() == 1, w.answer().inner_html()
    assert w.answer().locator("ol").count() == 1
    w.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url.rstrip("/"))
    w.answer().locator(".code button").click()
    assert "fn resident" in w.page.evaluate("navigator.clipboard.readText()")
    w.ask("long")
    expect(w.page.locator(".reading").last).to_contain_text("Reading the prompt", timeout=DONE)
    w.page.keyboard.press("Escape")
    w.is_done()
    # By the keyboard alone: / comes to the field, Tab goes through everything that can be used.
    w.page.locator("#log").focus()
    w.page.keyboard.press("/")
    assert w.page.evaluate("document.activeElement.id") == "field"
    seen = set()
    for _ in range(60):
        w.page.keyboard.press("Tab")
        seen.add(w.page.evaluate("document.activeElement.id"))
    assert {"fold", "fresh", "theme", "thinking", "more", "go", "heat", "log", "field"} <= seen, seen
    w.page.locator("#heat").focus()
    w.page.keyboard.press("ArrowRight")
    assert w.page.inner_text("#tip").startswith("Layer 0")
    # Folded, the side is gone and stays so.
    w.page.click("#fold")
    assert not w.page.is_visible("#side")
    w.page.reload()
    assert not w.page.is_visible("#side")
    w.end(allowed=["503", "500", "429", "400"])


def pictures(browser, url, name, out):
    for theme in ("light", "dark"):
        for width, height in ((1440, 900), (390, 844)):
            size = {"width": width, "height": height}
            w = Watch(browser, url, viewport=size, color_scheme=theme, device_scale_factor=2 if width < 600 else 1)
            w.ask("What is a page cache?" if name == "play" else "What is Unix?")
            if name == "real":
                w.page.wait_for_timeout(2500)
                w.page.keyboard.press("Escape")
            w.is_done()
            wide = w.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{theme}, {width}: the page is {wide} wide"
            w.page.screenshot(path=out / f"{name}-{theme}-{width}.png")
            if width < 600:
                w.page.click("#fold")
                w.page.wait_for_timeout(400)
                w.page.screenshot(path=out / f"{name}-{theme}-{width}-side.png")
            w.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/infall")
    parser.add_argument("--model", default="models/tiny-q4.gguf")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or Path(tempfile.mkdtemp())
    out.mkdir(exist_ok=True, parents=True)
    command = [args.program, "serve", "--port", "0", "--budget", "40", "-m", args.model]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    failed = 0
    try:
        found = None
        for line in server.stderr:
            if found := re.match(r"listening at (http://\S+)", line):
                break
        if not found:
            sys.exit("the server ended before it listened")
        mock = page_mock.serve()
        urls = {"real": found[1], "play": f"http://127.0.0.1:{mock.server_port}/"}
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
            checks = [(f"{name}: {what.__doc__.split(':')[0]}", what, (urls[name],)) for name, what in (("real", real), ("play", play))]
            if args.out:
                checks += [(f"pictures, {name}", pictures, (url, name, out)) for name, url in urls.items()]
            for name, what, more in checks:
                try:
                    what(browser, *more)
                    print(f"{name}: ok")
                except Exception as error:
                    failed += 1
                    print(f"{name}: FAILED: {type(error).__name__}: {error}")
                    traceback.print_exc()
            browser.close()
    finally:
        server.terminate()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
